"""What a server must have after it was sent a batch."""

import math
from collections.abc import Iterator
from decimal import Decimal

from virtstatd.formats.naming import labels_of, name_of
from virtstatd.model import Batch, Labels, Reading


def numbers(batch: Batch) -> Iterator[tuple[Reading, str, Labels, float]]:
    """Yield each number in base units with its reading, name and labels, the domain's first."""
    for reading in batch.readings:
        of_domain = reading.domain.labels if reading.domain else ()
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            exponent = series.field.exponent if series.part in ("", "sum") else 0
            number = float(value)
            if math.isfinite(number):
                number = float(Decimal(repr(value + 0)).scaleb(exponent))
            yield reading, name_of(series), (*of_domain, *labels_of(series)), number


def finite(batch: Batch) -> list[tuple[Reading, str, Labels, float]]:
    """Return the same without what many formats cannot carry."""
    return [each for each in numbers(batch) if math.isfinite(each[3])]

"""Numbers in base units: as decimal text, as doubles, and as protocol buffers count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from operator import truediv

from virtstatd.model import Number, Shape


Divisors = tuple[int | Fraction, ...]


def decimal_text(value: Number, exponent: int = 0) -> str:
    """Render a number that is given in units of `10 ** exponent`, without rounding it."""
    if not isinstance(value, float):
        return f"{int(value)}e{exponent}" if exponent else f"{int(value)}"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(Decimal(repr(value)).scaleb(exponent)) if exponent else repr(value)


@dataclass(frozen=True, slots=True, eq=False)
class NumberTemplate:
    """
    A text with holes for numbers, to be filled by one formatting call.

    `integers` is for readings of nothing but integers and has their exponents in it; `anything`
    takes numbers as finished text. `order` are the places of the values that are shown, None for
    all of them as they come.
    """

    integers: str
    anything: str
    exponents: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def render(
        self,
        values: tuple[Number, ...],
        text: Callable[[Number, int], str] = decimal_text,
    ) -> str:
        """Fill in the values of a reading; `text` renders what is no integer."""
        if self.order is not None:
            values = tuple([values[index] for index in self.order])
        if set(map(type, values)) <= {int}:
            return self.integers % values
        return self.anything % tuple(map(text, values, self.exponents))


def divisor(exponent: int) -> int | Fraction:
    """Return what a number in units of `10 ** exponent` is divided by, so as to be rounded once."""
    return 10**-exponent if exponent <= 0 else Fraction(1, 10**exponent)


def divisors_of(shape: Shape) -> Divisors | None:
    """Return the divisor of each series, None where all numbers are in base units already."""
    divisors = tuple(divisor(series.exponent) for series in shape.series)
    return divisors if any(each != 1 for each in divisors) else None


def scaled(values: Sequence[Number], divisors: Divisors | None) -> Sequence[Number]:
    """Return values in base units, each rounded once."""
    return values if divisors is None else tuple(map(truediv, values, divisors))


def varint(number: int) -> bytes:
    """Encode a number of zero or more in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)

"""Names and labels of series as Prometheus has them, which all other formats follow."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from functools import lru_cache

from virtstatd.formats.numbers import decimal_text
from virtstatd.model import Field, Kind, Labels, Series


DEVICES = frozenset({"target_device", "vcpu", "iothread", "index"})
"""Labels that name a device of a domain."""

_SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
_GO_EXPONENT = 6  # Go's %g, which the canonical `le` follows, changes to 1e+06 there


@lru_cache(4096)
def family_name(field: Field) -> str:
    """Return the name of a family as OpenMetrics has it: without `_total` and `_info`."""
    name = re.sub(r"[^a-zA-Z0-9_:]", "_", field.family)
    return name.removesuffix(_SUFFIXES.get(field.kind, ""))


@lru_cache(4096)
def metric_name(field: Field) -> str:
    """Return the name that samples have, except for `_bucket`, `_sum` and `_count`."""
    return family_name(field) + _SUFFIXES.get(field.kind, "")


def name_of(series: Series) -> str:
    """Return the name of a series, `_total` and `_bucket` included."""
    name = metric_name(series.field)
    return f"{name}_{series.part}" if series.part else name


def labels_of(series: Series) -> Labels:
    """Return the labels of a series, with a bucket's bound in its canonical form."""
    if series.part != "bucket":
        return series.labels
    le, bound = series.labels[-1]
    return (*series.base_labels, (le, canonical(bound)))


@lru_cache(4096)
def label_name(text: str) -> str:
    """Replace by `_` what the name of a label cannot have."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", text)


def canonical(bound: str) -> str:
    """
    Return a bucket's upper bound as OpenMetrics writes it: `10.0`, `0.001`, `1e+06`, `+Inf`.

    The text format gets the same, since Prometheus before 3.0 takes `1` and `1.0` for two series
    when the negotiated format changes.
    """
    value = float(bound)
    if not math.isfinite(value) or value == 0:
        return decimal_text(value)
    sign, digits, _ = Decimal(repr(value)).normalize().as_tuple()
    power = Decimal(repr(value)).adjusted()
    if power < _GO_EXPONENT:
        return repr(value)
    fraction = "".join(map(str, digits[1:]))
    return f"{'-' * sign}{digits[0]}{'.' * bool(fraction)}{fraction}e+{power:02d}"


def visible(text: str) -> str:
    r"""Return a text that UTF-8 can carry: a lone surrogate becomes an escape such as `\udce9`."""
    return visible_bytes(text).decode()


def visible_bytes(text: str) -> bytes:
    """Return `visible` in UTF-8."""
    return text.encode("utf-8", "backslashreplace")

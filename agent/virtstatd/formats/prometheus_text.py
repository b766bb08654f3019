"""
Prometheus' text format 0.0.4 and OpenMetrics 1.0, rendered by one formatting call per reading.

Everything that stays the same is compiled into a `Template` once per shape: names, escapes, the
devices' labels. Two characters mark the places that a reading fills: U+0000 the domain's labels,
U+0001 the end of a family's lines. `escape` lets neither through, so that no label can forge them;
libvirt's XML cannot carry them in the first place.

The samples of both formats are the same bytes; only the lines that begin with `#` differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from weakref import WeakKeyDictionary

from virtstatd.model import Field, Kind, Labels, Number, Series, Shape


END_OF_OPENMETRICS = b"# EOF\n"

_LABELS = "\0"
_END_OF_FAMILY = "\1"
_ESCAPES = str.maketrans(
    {
        "\\": r"\\",
        '"': r"\"",
        "\n": r"\n",
        _LABELS: "\N{REPLACEMENT CHARACTER}",
        _END_OF_FAMILY: "\N{REPLACEMENT CHARACTER}",
    }
)
_TYPES = {  # of the text format, of OpenMetrics
    Kind.COUNTER: ("counter", "counter"),
    Kind.GAUGE: ("gauge", "gauge"),
    Kind.HISTOGRAM: ("histogram", "histogram"),
    Kind.INFO: ("gauge", "info"),
    Kind.UNKNOWN: ("untyped", "unknown"),
}
_GO_EXPONENT = 6  # Go's %g, which the canonical `le` follows, changes to 1e+06 there


@dataclass(frozen=True, slots=True)
class Family:
    """One family of a page: the name that keeps its block together, and its first lines."""

    name: str
    kind: Kind
    text: bytes
    openmetrics: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """
    What a shape's readings have in common: one page block per family, numbers left out.

    `claims` are the series as the page knows them, a histogram being one. `picked` are the
    positions of the values that are shown, None for all of them.
    """

    families: tuple[Family, ...]
    claims: frozenset[str]
    integers: str
    anything: str
    exponents: tuple[int, ...]
    picked: tuple[int, ...] | None

    def render(self, values: tuple[Number, ...], labels: bytes) -> list[bytes]:
        """Return the lines of each family, in the order of `families`."""
        if not self.families:
            return []  # where splitting would find one empty text
        if self.picked is not None:
            values = tuple(values[index] for index in self.picked)
        if set(map(type, values)) <= {int}:
            text = self.integers % values
        else:
            text = self.anything % tuple(map(number, values, self.exponents))
        return text.encode().replace(b"\0", labels).split(b"\1")


class Templates:
    """The templates of all shapes that are alive, each compiled at its first reading."""

    def __init__(self) -> None:
        self._of_domains: WeakKeyDictionary[Shape, Template] = WeakKeyDictionary()
        self._of_hosts: WeakKeyDictionary[Shape, Template] = WeakKeyDictionary()

    def get(self, shape: Shape, *, labelled: bool) -> Template:
        """Return the shape's template, `labelled` when a domain's labels go on every series."""
        known = self._of_domains if labelled else self._of_hosts
        template = known.get(shape)
        if template is None:
            template = known[shape] = compiled(shape, labelled=labelled)
        return template


def compiled(shape: Shape, *, labelled: bool, but: Collection[str] = ()) -> Template:
    """Compile the template of a shape, without the series whose claims are in `but`."""
    rows = [(index, each) for index, each in enumerate(shape.series) if _claim(each) not in but]
    families: list[Family] = []
    integers: list[str] = []
    anything: list[str] = []
    exponents: list[int] = []
    for field, members in groupby(rows, key=lambda row: row[1].field):
        families.append(family(field))
        integers.append("")
        anything.append("")
        for _, series in members:
            head = _head(series, labelled=labelled).replace("%", "%%")
            # the buckets and the count of a histogram are plain numbers, only its sum has a unit
            exponent = field.exponent if series.part in ("", "sum") else 0
            exponents.append(exponent)
            integers[-1] += f"{head} %se{exponent}\n" if exponent else f"{head} %s\n"
            anything[-1] += f"{head} %s\n"
    return Template(
        families=tuple(families),
        claims=frozenset(_claim(series) for _, series in rows),
        integers=_END_OF_FAMILY.join(integers),
        anything=_END_OF_FAMILY.join(anything),
        exponents=tuple(exponents),
        picked=tuple(index for index, _ in rows) if but else None,
    )


def family(field: Field) -> Family:
    """Return the block of a catalog line: `# HELP`, `# TYPE` and, in OpenMetrics, `# UNIT`."""
    base = _base(field)
    full = _sample(field)
    text, openmetrics = _TYPES[field.kind]
    help_text = _encodable(field.help).replace("\\", r"\\").replace("\n", r"\n")
    first = f"# HELP {full} {help_text}\n# TYPE {full} {text}\n"
    second = f"# TYPE {base} {openmetrics}\n"
    if field.unit and field.kind is not Kind.INFO and base.endswith(f"_{field.unit}"):
        second += f"# UNIT {base} {field.unit}\n"
    second += "# HELP {} {}\n".format(base, help_text.replace('"', r"\""))
    return Family(base, field.kind, first.encode(), second.encode())


def label_text(labels: Labels) -> bytes:
    """Return labels as they stand between the braces, in both formats."""
    return _pairs(labels).encode()


def escape(value: str) -> str:
    """Escape a label's value; what UTF-8 cannot carry becomes visible."""
    return _encodable(value).translate(_ESCAPES)


def number(value: Number, exponent: int = 0) -> str:
    """Render a number that is given in units of `10 ** exponent`, without rounding it."""
    if not isinstance(value, float):
        return f"{int(value)}e{exponent}" if exponent else f"{int(value)}"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(Decimal(repr(value)).scaleb(exponent)) if exponent else repr(value)


def canonical(bound: str) -> str:
    """
    Return a bucket's upper bound as OpenMetrics writes it: `10.0`, `0.001`, `1e+06`, `+Inf`.

    The text format gets the same, since Prometheus before 3.0 takes `1` and `1.0` for two series
    when the negotiated format changes.
    """
    value = float(bound)
    if not math.isfinite(value) or value == 0:
        return number(value)
    sign, digits, _ = Decimal(repr(value)).normalize().as_tuple()
    power = Decimal(repr(value)).adjusted()
    if power < _GO_EXPONENT:
        return repr(value)
    fraction = "".join(map(str, digits[1:]))
    return f"{'-' * sign}{digits[0]}{'.' * bool(fraction)}{fraction}e+{power:02d}"


def _base(field: Field) -> str:
    """Return the family's name as OpenMetrics has it: without `_total` and `_info`."""
    name = re.sub(r"[^a-zA-Z0-9_:]", "_", field.family)
    if field.kind is Kind.COUNTER:
        return name.removesuffix("_total")
    return name.removesuffix("_info") if field.kind is Kind.INFO else name


def _sample(field: Field) -> str:
    """Return the name that the samples bear, but for the parts of a histogram."""
    suffixes = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
    return _base(field) + suffixes.get(field.kind, "")


def _claim(series: Series) -> str:
    labels = series.labels[:-1] if series.part == "bucket" else series.labels
    return f"{_sample(series.field)}{{{_pairs(tuple(sorted(labels)))}}}"


def _head(series: Series, *, labelled: bool) -> str:
    """Return all of a line but its number."""
    name = _sample(series.field)
    labels = series.labels
    if series.part:
        name = f"{name}_{series.part}"
    if series.part == "bucket":
        le, bound = labels[-1]
        labels = (*labels[:-1], (le, canonical(bound)))
    within = [_LABELS] if labelled else []
    if labels:
        within.append(_pairs(labels))
    return f"{name}{{{','.join(within)}}}" if within else name


def _pairs(labels: Sequence[tuple[str, str]]) -> str:
    return ",".join(
        f'{re.sub(r"[^a-zA-Z0-9_]", "_", name)}="{escape(value)}"' for name, value in labels
    )


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

"""
Prometheus' text format 0.0.4 and OpenMetrics 1.0, rendered by one formatting call per reading.

Everything that stays the same, names, escapes and the devices' labels, is compiled into a
`TextTemplate` once per shape. Two characters mark the places that a reading fills: U+0000 the
domain's labels, U+0001 the end of a family's lines. `escape` lets neither through, so that no label
can forge them; libvirt's XML cannot carry them in the first place.

Numbers are plain decimals, exact to the last digit, since people read the page as well. The samples
of both formats are the same bytes; only the lines that begin with `#` differ.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from weakref import WeakKeyDictionary

from virtstatd._fast.plain import Filled
from virtstatd.formats.naming import (
    family_name,
    label_name,
    labels_of,
    metric_name,
    name_of,
    visible,
)
from virtstatd.formats.numbers import line_template
from virtstatd.model import Field, Kind, Labels, Number, Series, Shape


END_OF_OPENMETRICS = b"# EOF\n"

SHARED = 8192
"""So many families and beginnings of lines are kept for guests that have them, too."""

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


@dataclass(frozen=True, slots=True)
class Family:
    """One family of a page: the name that keeps its block together, and its first lines."""

    name: str
    kind: Kind
    text: bytes
    openmetrics: bytes


@dataclass(frozen=True, slots=True, eq=False)
class TextTemplate:
    """
    What a shape's readings have in common: one page block per family, numbers left out.

    `families` are one object where shapes have the same ones. `series` are those that are shown.
    """

    families: tuple[Family, ...]
    series: tuple[Series, ...]
    lines: Filled

    def claims(self, names: Container[str]) -> frozenset[str]:
        """Return what a page must not have twice, of families with these names."""
        return frozenset(_claim(each) for each in self.series if family_name(each.field) in names)

    def render(self, values: tuple[Number, ...], labels: bytes) -> list[bytes]:
        """Return the lines of each family, in the order of `families`."""
        if not self.families:
            return []  # where splitting would find one empty text
        return self.lines.render(values, labels)

    def append(
        self, values: tuple[Number, ...], labels: bytes, blocks: tuple[bytearray, ...]
    ) -> None:
        """Append the lines of each family to its block, in the order of `families`."""
        if self.families:
            self.lines.append(values, labels, blocks)


class TextTemplates:
    """The templates of all shapes that are alive, each compiled at its first reading."""

    def __init__(self) -> None:
        self._of_domains: WeakKeyDictionary[Shape, TextTemplate] = WeakKeyDictionary()
        self._of_hosts: WeakKeyDictionary[Shape, TextTemplate] = WeakKeyDictionary()

    def get(self, shape: Shape, *, labelled: bool) -> TextTemplate:
        """Return the shape's template, `labelled` when a domain's labels go on every series."""
        known = self._of_domains if labelled else self._of_hosts
        template = known.get(shape)
        if template is None:
            template = known[shape] = text_template(shape, labelled=labelled)
        return template


def text_template(shape: Shape, *, labelled: bool, but: Collection[str] = ()) -> TextTemplate:
    """Compile the template of a shape, without the series whose claims are in `but`."""
    rows = [
        (index, each)
        for index, each in enumerate(shape.series)
        if not but or _claim(each) not in but
    ]
    families: list[Family] = []
    lines: list[tuple[str, str]] = []
    for field, members in groupby(rows, key=lambda row: row[1].field):
        if lines:
            lines[-1] = (lines[-1][0], f"\n{_END_OF_FAMILY}")
        families.append(family_block(field))
        lines += [(f"{_head(series, labelled=labelled)} ", "\n") for _, series in members]
    return TextTemplate(
        families=_shared(tuple(families)),
        series=shape.series if not but else tuple(series for _, series in rows),
        lines=line_template(
            lines,
            [series.exponent for _, series in rows],
            [index for index, _ in rows],
            len(shape.series),
        ),
    )


@lru_cache(SHARED)
def _shared(families: tuple[Family, ...]) -> tuple[Family, ...]:
    return families


@lru_cache(SHARED)
def family_block(field: Field) -> Family:
    """Return the block of a catalog line: `# HELP`, `# TYPE` and, in OpenMetrics, `# UNIT`."""
    base = family_name(field)
    full = metric_name(field)
    text, openmetrics = _TYPES[field.kind]
    help_text = visible(field.help).replace("\\", r"\\").replace("\n", r"\n")
    first = f"# HELP {full} {help_text}\n# TYPE {full} {text}\n"
    second = f"# TYPE {base} {openmetrics}\n"
    if field.unit and field.kind is not Kind.INFO and base.endswith(f"_{field.unit}"):
        second += f"# UNIT {base} {field.unit}\n"
    second += "# HELP {} {}\n".format(base, help_text.replace('"', r"\""))
    return Family(base, field.kind, first.encode(), second.encode())


def with_created(lines: bytes, family: Family, began: int) -> bytes:
    """Return the lines of a counter, each with the one of OpenMetrics that says when it began."""
    suffix = len(family.name) + len("_total")
    name, at = f"{family.name}_created".encode(), f" {began / 1e9:.3f}".encode()
    parts: list[bytes] = []
    for line in lines.split(b"\n")[:-1]:  # a label can hold other line breaks
        head = line[: line.rindex(b" ")]
        parts += (line, b"\n", name, head[suffix:], at, b"\n")
    return b"".join(parts)


def label_text(labels: Labels) -> bytes:
    """Return labels as they stand between the braces, in both formats."""
    return _pairs(labels).encode()


def escape(value: str) -> str:
    """Escape a label's value; what UTF-8 cannot carry becomes visible."""
    return visible(value).translate(_ESCAPES)


def _claim(series: Series) -> str:
    return f"{metric_name(series.field)}{{{_pairs(tuple(sorted(series.base_labels)))}}}"


def _head(series: Series, *, labelled: bool) -> str:
    """Return all of a line but its number."""
    name = name_of(series)
    labels = labels_of(series)
    within = [_LABELS] if labelled else []
    if labels:
        within.append(_pairs(labels))
    return f"{name}{{{','.join(within)}}}" if within else name


@lru_cache(SHARED)
def _pairs(labels: Labels) -> str:
    return ",".join(f'{label_name(name)}="{escape(value)}"' for name, value in labels)

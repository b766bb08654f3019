r"""
Influx line protocol: a line for each set of tags of a reading, rendered by one formatting call.

```
libvirt_block,host=n1,domain=web,target_device=vda block_stats_read_bytes=4096 1738324800123456789
```

The measurement is the group, tags are the host's, the domain's and the device's names, fields are
named as in Prometheus without `libvirt_domain_`. Every number is always a float: a database
refuses a field that was another type before, and loses all of its point. What the database cannot
hold, NaN and infinity, is left out. An info series is one text field for each of its labels that
names no device: paths and addresses would be too many tags.

The protocol has no way to write a line feed in a tag, nor a backslash where an escape could be
meant. They become `␊` and a wide backslash, U+FF3C; all else arrives as it is.
"""

from __future__ import annotations

import functools
import math
import re
from weakref import WeakKeyDictionary

from virtstatd.formats.chunks import Chunk
from virtstatd.formats.naming import DEVICES, label_name, labels_of, name_of, visible
from virtstatd.formats.numbers import NumberTemplate, decimal_text
from virtstatd.model import Batch, Kind, Labels, Number, Reading, Series, Shape


_DOMAIN = "\0"
_TIME = "\1"
_LEFT_OUT = "\2"
_MARKS = str.maketrans(dict.fromkeys((_DOMAIN, _TIME, _LEFT_OUT), "\N{REPLACEMENT CHARACTER}"))
_WITHOUT = re.compile(rf"(?<=[ ,])[A-Za-z0-9_:]+={_LEFT_OUT},?")
_SPECIAL = re.compile(r"([,= ])")
_AMBIGUOUS = re.compile(r"\\+(?=[,= ]|$)")
_QUOTED = re.compile(r'(["\\])')


class LineProtocol:
    """Encode readings, with a template per live shape."""

    def __init__(self, prefix: str, tags: Labels) -> None:
        self._prefix = prefix
        self._tags = {label_name(name): text for name, text in tags}
        self._names = frozenset(self._tags)
        self._templates: WeakKeyDictionary[Shape, dict[frozenset[str], NumberTemplate]] = (
            WeakKeyDictionary()
        )

    def items(self, batch: Batch) -> list[Chunk]:
        """Return the chunks of a batch."""
        return [
            (len(reading.values), functools.partial(self.encode, reading, batch.taken_at))
            for reading in batch.readings
        ]

    def encode(self, reading: Reading, taken_at: int) -> bytes:
        """Return the lines of a reading; `taken_at` is in nanoseconds."""
        text = self._rendered(reading).replace(_TIME, f" {taken_at}\n")
        return text.replace(_DOMAIN, _domain(reading)).encode()

    def lines(self, reading: Reading, taken_at: int) -> list[bytes]:
        """Return the lines of a reading one by one; a text in them may hold line feeds."""
        domain = _domain(reading)
        *lines, _ = self._rendered(reading).split(_TIME)
        return [f"{line.replace(_DOMAIN, domain)} {taken_at}\n".encode() for line in lines]

    def _rendered(self, reading: Reading) -> str:
        labels = reading.domain.labels if reading.domain else ()
        hidden = self._names & _names(labels)  # the domain's own values stand
        templates = self._templates.get(reading.shape)
        if templates is None:
            templates = self._templates[reading.shape] = {}
        template = templates.get(hidden)
        if template is None:
            own = {name: text for name, text in self._tags.items() if name not in hidden}
            template = templates[hidden] = _template(reading.shape, self._prefix, own)
        text = template.render(reading.values, _number)
        return _whole(text) if _LEFT_OUT in text else text


@functools.lru_cache(maxsize=4096)
def _names(labels: Labels) -> frozenset[str]:
    return frozenset([label_name(name) for name, _ in labels])


def _domain(reading: Reading) -> str:
    return tags(dict(reading.domain.labels)) if reading.domain else ""


def _number(value: Number, exponent: int) -> str:
    return decimal_text(value, exponent) if math.isfinite(value) else _LEFT_OUT


def _whole(text: str) -> str:
    """Return lines without the fields that have no number, and none without any field."""
    lines = [_WITHOUT.sub("", line).removesuffix(",") for line in text.split(_TIME)]
    return _TIME.join([line for line in lines if not line.endswith(" ")])


def _template(shape: Shape, prefix: str, common: dict[str, str]) -> NumberTemplate:
    """Compile the lines of a shape; of `common` tags a line has those that its series has not."""
    lines: dict[tuple[str, int], dict[str, int | str]] = {}
    for index, series in enumerate(shape.series):
        name = field_name(series)
        if series.field.kind is Kind.INFO:
            own = {key: text for key, text in series.labels if key in DEVICES}
            members: dict[str, int | str] = {
                f"{name}_{label_name(key)}": quoted(text)
                for key, text in series.labels
                if key not in DEVICES
            } or {name: index}
        else:
            own = dict(labels_of(series))
            members = {name: index}
        held = {label_name(name) for name in own}
        before = tags({name: text for name, text in common.items() if name not in held})
        place = f"{before.translate(_MARKS)}{_DOMAIN}{tags(own).translate(_MARKS)}"
        row = 0  # a field that is there already begins a line of its own
        while members.keys() & lines.get((place, row), {}).keys():
            row += 1
        lines.setdefault((place, row), {}).update(members)
    measurement = escaped(f"{prefix}{shape.group}").translate(_MARKS)
    integers: list[str] = []
    anything: list[str] = []
    order: list[int] = []
    exponents: list[int] = []
    for (place, _), fields in lines.items():
        head = f"{measurement}{place} ".replace("%", "%%")
        for name, value in fields.items():
            if isinstance(value, str):
                text = f"{head}{name}={value.translate(_MARKS).replace('%', '%%')}"
                integers.append(text)
                anything.append(text)
            else:
                exponent = shape.series[value].exponent
                order.append(value)
                exponents.append(exponent)
                integers.append(f"{head}{name}=%s" + (f"e{exponent}" if exponent else ""))
                anything.append(f"{head}{name}=%s")
            head = ","
        integers.append(_TIME)
        anything.append(_TIME)
    return NumberTemplate("".join(integers), "".join(anything), tuple(exponents), tuple(order))


def field_name(series: Series) -> str:
    """Return the name of a field; neither commas nor spaces are in it."""
    return name_of(series).removeprefix("libvirt_domain_")


def tags(labels: dict[str, str]) -> str:
    """Return labels as the tags of a line, each after its comma; empty ones are none."""
    return "".join(f",{label_name(name)}={escaped(text)}" for name, text in labels.items() if text)


def escaped(text: str) -> str:
    """Return a name or a tag's value as the protocol has it."""
    text = visible(text).replace("\n", "\N{SYMBOL FOR LINE FEED}")
    text = _AMBIGUOUS.sub(lambda run: "\N{FULLWIDTH REVERSE SOLIDUS}" * len(run[0]), text)
    return _SPECIAL.sub(r"\\\1", text)


def quoted(text: str) -> str:
    """Return the value of a text field."""
    return '"' + _QUOTED.sub(r"\\\1", visible(text)) + '"'

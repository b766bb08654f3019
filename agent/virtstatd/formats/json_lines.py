"""
JSON lines: one object per device and group of a reading, rendered by one formatting call.

```json
{"time":"2025-01-31T12:00:00.123456789Z","host":"node1","source":"bulk","domain":"web",
 "uuid":"5b5f...","id":7,"group":"block","device":{"target_device":"vda"},"fields":{"read_bytes":4096,
 "read_time_seconds":123456789e-9,"read_latency_seconds":{"buckets":{"0.001":3,"+Inf":4},
 "sum":5000e-9,"count":4},"path_info":{"path":"/images/web.qcow2"}}}
```

`host` is the name that the sink gives this host, none on a terminal. `domain`, `uuid` and `id` are
left out for what belongs to the host, `device` for what belongs to no disk, NIC, vCPU or iothread.
`labels` holds what the configuration adds to a domain. Fields are named as in Prometheus, without
the prefix of their group; other labels than the device's nest by their values, and an info field is
the object of its labels. Numbers are in base units and exact: nanoseconds keep their digits as
`123456789e-9`, which is plain JSON. What JSON has no number for (NaN, infinity) is null. All text
is ASCII, so that no name can play tricks on a terminal.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from virtstatd.formats.chunks import packed
from virtstatd.formats.naming import DEVICES, canonical, visible
from virtstatd.formats.numbers import NumberTemplate, decimal_text
from virtstatd.model import Batch, Domain, Field, Kind, Labels, Number, Reading, Series, Shape


PIECE_BYTES = 65536

_HEAD = "\0"  # JSON escapes it within strings, so that no name can forge it

_Tree = dict[str, "_Tree | str | int"]
"""Fields by name and labels; leaves are finished text, or the index of a value."""


class Lines:
    """Turn batches into lines, with a template for every shape that is alive."""

    def __init__(self, host: str = "") -> None:
        self._host = f',"host":{_string(host)}' if host else ""
        self._templates: WeakKeyDictionary[Shape, NumberTemplate] = WeakKeyDictionary()

    def pieces(self, batch: Batch) -> Iterator[bytes]:
        """Yield the lines of a batch in pieces of 64 KiB at most, each of whole lines."""
        return packed((text.encode() for _, text in self.readings(batch)), PIECE_BYTES)

    def readings(self, batch: Batch) -> Iterator[tuple[Reading, str]]:
        """Yield each reading with its lines."""
        time = timestamp(batch.taken_at)
        start = f'{{"time":"{time}"{self._host},"source":{_string(batch.source)}'
        heads: dict[Domain | None, str] = {None: start}
        for reading in batch.readings:
            shape = reading.shape
            template = self._templates.get(shape)
            if template is None:
                template = self._templates[shape] = _template(shape)
            head = heads.get(reading.domain)
            if head is None and reading.domain is not None:
                head = heads[reading.domain] = start + _domain(reading.domain)
            text = template.render(reading.values, _number)
            yield reading, text.replace(_HEAD, head or start)


def timestamp(nanoseconds: int) -> str:
    """Return Unix time as RFC 3339 has it, in UTC, with every digit."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return f"{moment.isoformat()}.{fraction:09}Z"


def _template(shape: Shape) -> NumberTemplate:
    """
    Compile the lines of a shape without their beginnings.

    The fields of a device are together, in the order of the shape.
    """
    objects: dict[tuple[Labels, int], _Tree] = {}
    names = _names(shape)
    for index, series in enumerate(shape.series):
        device = tuple(pair for pair in series.labels if pair[0] in DEVICES)
        rest = tuple(pair for pair in series.base_labels if pair[0] not in DEVICES)
        line = 0
        while series.field.kind is Kind.INFO and names[series.field] in objects.get(
            (device, line), {}
        ):
            line += 1  # the name is taken: a line of its own
        _plant(objects.setdefault((device, line), {}), names[series.field], series, rest, index)
    integers: list[str] = []
    anything: list[str] = []
    order: list[int] = []
    for (device, _), tree in objects.items():
        start = f'{_HEAD},"group":{_string(shape.group)}'
        if device:
            start += f',"device":{_object({key: _string(text) for key, text in device})}'
        start = start.replace("%", "%%") + ',"fields":'
        integers.append(f"{start}{_text(tree, shape, None)}}}\n")
        anything.append(f"{start}{_text(tree, shape, order)}}}\n")
    return NumberTemplate(
        "".join(integers),
        "".join(anything),
        tuple(shape.series[index].exponent for index in order),
        tuple(order),
    )


def _names(shape: Shape) -> dict[Field, str]:
    """Name the fields without their prefix, where that is not ambiguous."""
    fields = list(dict.fromkeys(series.field for series in shape.series))
    short = {field: field.family.removeprefix(f"{field.prefix}_") for field in fields}
    used = Counter(short.values())
    return {field: name if used[name] == 1 else field.family for field, name in short.items()}


def _plant(tree: _Tree, name: str, series: Series, labels: Labels, index: int) -> None:
    """Put one series into the tree of its device."""
    if series.field.kind is Kind.INFO:
        tree[name] = {key: _string(text).replace("%", "%%") for key, text in labels}
        return
    path = [name, *(text for _, text in labels)]
    if series.part == "bucket":
        path += ["buckets", canonical(series.labels[-1][1])]
    elif series.part:
        path.append(series.part)
    for step in path[:-1]:
        branch = tree.setdefault(step, {})
        if not isinstance(branch, dict):  # the same field without that label
            branch = tree[step] = {"": branch}
        tree = branch
    leaf = tree.get(path[-1])
    if isinstance(leaf, dict):
        leaf[""] = index
    else:
        tree[path[-1]] = index


def _text(tree: _Tree, shape: Shape, order: list[int] | None) -> str:
    """Return a tree as a template: for any numbers, noting their order, or for integers only."""
    members = {}
    for key, branch in tree.items():
        if isinstance(branch, dict):
            members[key] = _text(branch, shape, order)
        elif isinstance(branch, str):
            members[key] = branch
        elif order is not None:
            order.append(branch)
            members[key] = "%s"
        else:
            exponent = shape.series[branch].exponent
            members[key] = f"%se{exponent}" if exponent else "%s"
    return (
        "{" + ",".join(f"{_string(key).replace('%', '%%')}:{members[key]}" for key in members) + "}"
    )


def _number(value: Number, exponent: int) -> str:
    return (
        "null"
        if isinstance(value, float) and not math.isfinite(value)
        else decimal_text(value, exponent)
    )


def _domain(domain: Domain) -> str:
    members = {
        "domain": _string(domain.name),
        "uuid": _string(domain.uuid),
        "id": str(domain.id),
    }
    others = {key: _string(text) for key, text in domain.labels if key != "domain"}
    if others:
        members["labels"] = _object(others)
    return "," + _object(members)[1:-1]


def _object(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{_string(key)}:{text}" for key, text in members.items()) + "}"


def _string(text: str) -> str:
    return json.dumps(visible(text))

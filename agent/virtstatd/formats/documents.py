r"""
JSON for destinations with an API of their own: a document per device, or a row per number.

Documents are the lines of `formats/json_lines.py`, wrapped as each API wants them. Rows are for
databases with columns, such as ClickHouse:

```json
{"time":"2025-01-31T12:00:00.123456789Z","host":"node1","domain":"web","uuid":"5b5f...","run":7,
 "metric":"libvirt_domain_vcpu_exits_total","labels":"{\"vcpu\": \"0\"}","value":4096}
```

`domain`, `uuid` and `run` are null for what belongs to the host, `value` for what is no number.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from virtstatd.formats.chunks import Chunk
from virtstatd.formats.json_lines import Lines, timestamp
from virtstatd.formats.naming import labels_of, name_of, visible
from virtstatd.formats.numbers import NumberTemplate, decimal_text
from virtstatd.model import Batch, Number, Reading, Shape


DocumentLine = Callable[[int, str], str]
"""Return what stands for a document of a time, in nanoseconds."""

_WHOSE = "\0"


class NumberRows:
    """Turn batches into rows, with a template for every shape that is alive."""

    def __init__(self, host: str) -> None:
        self._host = json.dumps(visible(host))
        self._templates: WeakKeyDictionary[Shape, NumberTemplate] = WeakKeyDictionary()

    def readings(self, batch: Batch) -> Iterator[tuple[Reading, str]]:
        """Yield each reading with its rows, a line each."""
        start = f'{{"time":"{timestamp(batch.taken_at)}","host":{self._host},'
        for reading in batch.readings:
            template = self._templates.get(reading.shape)
            if template is None:
                template = self._templates[reading.shape] = _rows(reading.shape)
            text = template.render(reading.values, _number)
            yield reading, text.replace(_WHOSE, start + _whose(reading))


def _rows(shape: Shape) -> NumberTemplate:
    integers: list[str] = []
    anything: list[str] = []
    for series in shape.series:
        labels = json.dumps({visible(key): visible(text) for key, text in labels_of(series)})
        own = f'"metric":"{name_of(series)}","labels":{json.dumps(labels)},"value":'
        row = _WHOSE + own.replace("%", "%%") + "%s"
        integers.append(row + (f"e{series.exponent}}}\n" if series.exponent else "}\n"))
        anything.append(f"{row}}}\n")
    exponents = tuple(series.exponent for series in shape.series)
    return NumberTemplate("".join(integers), "".join(anything), exponents)


def _whose(reading: Reading) -> str:
    domain = reading.domain
    if domain is None:
        return '"domain":null,"uuid":null,"run":null,'
    name, uuid = json.dumps(visible(domain.name)), json.dumps(domain.uuid)
    return f'"domain":{name},"uuid":{uuid},"run":{domain.id},'


def _number(value: Number, exponent: int) -> str:
    return decimal_text(value, exponent) if math.isfinite(value) else "null"


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What is around each document, between them, and around them all."""

    line: DocumentLine = lambda _, text: text
    between: str = "\n"
    head: str = ""
    tail: str = "\n"


def wrapping(wrapper: str, host: str, name: str) -> Wrapping:
    """Return the wrapping of an API; `name` is what it files documents under."""
    whose, name = json.dumps(visible(host)), json.dumps(visible(name))
    match wrapper:
        case "array":
            return Wrapping(between=",", head="[", tail="]\n")
        case "opensearch":
            return Wrapping(functools.partial(_created, name))
        case "loki":
            stream = f'{{"host":{whose},"job":{name}}}'
            head = f'{{"streams":[{{"stream":{stream},"values":['
            return Wrapping(_entry, ",", head, "]}]}\n")
        case "splunk":
            return Wrapping(functools.partial(_event, f'"host":{whose},"source":{name}'))
    return Wrapping()


class DocumentEncoder:
    """Turn batches into requests of documents."""

    def __init__(self, wrapper: str, host: str, name: str) -> None:
        self._wrapping = wrapping(wrapper, host, name)
        self._source = NumberRows(host) if wrapper == "clickhouse" else Lines(host)

    def items(self, batch: Batch) -> list[Chunk]:
        """Return the chunks of a batch."""
        return [
            (len(reading.values), functools.partial(self._encode, batch.taken_at, text))
            for reading, text in self._source.readings(batch)
        ]

    def request(self, encoded: list[bytes]) -> bytes:
        """Return the request that holds all these chunks."""
        around = self._wrapping
        return around.head.encode() + around.between.encode().join(encoded) + around.tail.encode()

    def _encode(self, time: int, text: str) -> bytes:
        around = self._wrapping
        return around.between.join([around.line(time, each) for each in text.splitlines()]).encode()


def _created(index: str, _: int, text: str) -> str:
    """Return a document of OpenSearch; its id is the same when it is sent again."""
    mark = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    document = text.replace('{"time":', '{"@timestamp":', 1)
    return f'{{"create":{{"_index":{index},"_id":"{mark}"}}}}\n{document}'


def _entry(time: int, text: str) -> str:
    return f'["{time}",{json.dumps(text)}]'


def _event(head: str, time: int, text: str) -> str:
    return f'{{"time":{time // 10**9}.{time % 10**9:09},{head},"event":{text}}}'

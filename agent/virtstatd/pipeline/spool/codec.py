"""
Batches as bytes and back.

Shapes and domains rarely change, so a record names them by number and explains a number where it is
first used. Each is explained in the first two records that use it: one record that is damaged costs
no other. Numbers are valid within one segment, which therefore can be read
without any other.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, MutableMapping
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from virtstatd.model import Batch, Domain, Field, Kind, Labels, Number, Reading, Series, Shape
from virtstatd.pipeline.spool.shapes import KnownShapes, flat, raw, texts


K = TypeVar("K", bound=Hashable)

_LENGTH = struct.Struct("<I")
_TWICE = 0
"""In place of a record's number, which begin at 1."""

_NOBODY = -1
"""In place of a domain's number where a reading belongs to the host or to the agent."""


class Unreadable(ValueError):  # noqa: N818 - named for what the record is
    """A record that is damaged, or that relies on a damaged one."""


class _Field(msgspec.Struct, array_like=True):
    number: int
    texts: tuple[bytes, bytes, bytes, bytes, bytes]
    exponent: int


class _Labels(msgspec.Struct, array_like=True):
    number: int
    texts: list[bytes]


class _Shape(msgspec.Struct, array_like=True):
    """`series` has three entries per series: the numbers of its field and labels, its part."""

    number: int
    digest: bytes
    group: bytes
    series: list[int | bytes]


class _Domain(msgspec.Struct, array_like=True):
    number: int
    uuid: bytes
    name: bytes
    id: int
    labels: list[bytes]


class _Meanings(msgspec.Struct, array_like=True):
    fields: list[_Field]
    labels: list[_Labels]
    shapes: list[_Shape]
    domains: list[_Domain]


class _Body(msgspec.Struct, array_like=True):
    """`domains`, `shapes` and `values` have one entry per reading."""

    source: bytes
    taken_at: int
    lifetime_seconds: int | float
    groups: list[bytes]
    gone: list[int]
    domains: list[int]
    shapes: list[int]
    values: list[tuple[bool | int | float | str, ...]]


_encoder = msgspec.msgpack.Encoder()
_meanings = msgspec.msgpack.Decoder(_Meanings)
_body = msgspec.msgpack.Decoder(_Body)


class _Table(Generic[K]):
    """Numbers for shapes and the like, each explained in the first two records that use it."""

    def __init__(self, known: MutableMapping[K, tuple[int, int]]) -> None:
        self._known = known
        """The number of a key, and the record that explained it first, or `_TWICE`."""
        self._next = 0

    def number(self, key: K, record: int) -> tuple[int, bool]:
        """Return the number of a key, and whether this record has to explain it."""
        if (known := self._known.get(key)) is None:
            number = self._next
            self._next += 1
            self._known[key] = number, record
            return number, True
        number, first = known
        if first in (_TWICE, record):
            return number, False
        self._known[key] = number, _TWICE
        return number, True


class RecordEncoder:
    """Encode the records of one segment, all of which must be written to it."""

    def __init__(self, shapes: KnownShapes) -> None:
        self._known = shapes
        self._records = 0
        self._fields: _Table[Field] = _Table({})
        self._labels: _Table[Labels] = _Table({})
        self._shapes: _Table[Shape] = _Table(WeakKeyDictionary())
        self._domains: _Table[Domain] = _Table({})

    def encode(self, batch: Batch) -> bytes:
        """Return the next record."""
        self._records += 1
        meanings = _Meanings([], [], [], [])
        domains: list[int] = []
        shapes: list[int] = []
        numbers: dict[Shape, int] = {}
        last: Domain | None = None
        domain = _NOBODY
        for reading in batch.readings:
            if reading.domain is not last:  # the readings of a domain are neighbours
                last = reading.domain
                domain = self._domain(last, meanings) if last else _NOBODY
            domains.append(domain)
            if (shape := reading.shape) not in numbers:
                numbers[shape] = self._shape(shape, meanings)
            shapes.append(numbers[shape])
        body = _Body(
            raw(batch.source),
            batch.taken_at,
            batch.lifetime_seconds,
            [raw(group) for group in sorted(batch.groups)],
            [self._domain(each, meanings) for each in batch.gone],
            domains,
            shapes,
            [reading.values for reading in batch.readings],
        )
        head = _encoder.encode(meanings)
        return b"".join((_LENGTH.pack(len(head)), head, _fit(body)))

    def _shape(self, shape: Shape, meanings: _Meanings) -> int:
        number, explain = self._shapes.number(shape, self._records)
        if explain:
            series: list[int | bytes] = []
            for each in shape.series:
                field, new = self._fields.number(each.field, self._records)
                if new:
                    meanings.fields.append(_Field(field, texts(each.field), each.field.exponent))
                labels, new = self._labels.number(each.labels, self._records)
                if new:
                    meanings.labels.append(_Labels(labels, flat(each.labels)))
                series += (field, labels, raw(each.part))
            digest = self._known.digest(shape)
            meanings.shapes.append(_Shape(number, digest, raw(shape.group), series))
        return number

    def _domain(self, domain: Domain, meanings: _Meanings) -> int:
        number, explain = self._domains.number(domain, self._records)
        if explain:
            texts = raw(domain.uuid), raw(domain.name)
            meanings.domains.append(_Domain(number, *texts, domain.id, flat(domain.labels)))
        return number


class RecordDecoder:
    """Decode the records of one segment, in their order."""

    def __init__(self, shapes: KnownShapes) -> None:
        self._known = shapes
        self._fields: dict[int, Field] = {}
        self._labels: dict[int, Labels] = {}
        self._shapes: dict[int, Shape] = {}
        self._domains: dict[int, Domain] = {}

    def learn(self, record: bytes) -> int:
        """
        Read the meanings in a record, which later ones rely on; return where its body begins.

        Raises `Unreadable`.
        """
        try:
            length: int = _LENGTH.unpack_from(record)[0]
            begin = _LENGTH.size + length
            meanings = _meanings.decode(memoryview(record)[_LENGTH.size : begin])
            for field in meanings.fields:
                prefix, name, kind, unit, text = map(_text, field.texts)
                self._fields[field.number] = Field(
                    prefix, name, Kind(kind), unit, text, field.exponent
                )
            for labels in meanings.labels:
                self._labels[labels.number] = _pairs(labels.texts)
            for shape in meanings.shapes:
                self._shapes[shape.number] = self._known.find(shape.digest) or self._made(shape)
            for each in meanings.domains:
                self._domains[each.number] = Domain(
                    _text(each.uuid), _text(each.name), each.id, _pairs(each.labels)
                )
        except (msgspec.MsgspecError, struct.error, LookupError, ValueError) as error:
            raise Unreadable(str(error)) from error
        return begin

    def decode(self, record: bytes) -> Batch:
        """Return the batch of a record. Raises `Unreadable`."""
        begin = self.learn(record)
        try:
            body = _body.decode(memoryview(record)[begin:])
            return Batch(
                _text(body.source),
                body.taken_at,
                tuple(
                    Reading(
                        None if domain == _NOBODY else self._domains[domain],
                        self._shapes[shape],
                        _numbers(values),
                    )
                    for domain, shape, values in zip(
                        body.domains, body.shapes, body.values, strict=True
                    )
                ),
                frozenset(map(_text, body.groups)),
                body.lifetime_seconds,
                tuple(self._domains[each] for each in body.gone),
            )
        except (msgspec.MsgspecError, LookupError, ValueError) as error:
            raise Unreadable(str(error)) from error

    def _made(self, known: _Shape) -> Shape:
        entries = iter(known.series)
        series = tuple(
            Series(self._fields[_int(field)], self._labels[_int(labels)], _text(_bytes(part)))
            for field, labels, part in zip(entries, entries, entries, strict=True)
        )
        shape = Shape(_text(known.group), series)
        self._known.add(known.digest, shape)
        return shape


def _fit(body: _Body) -> bytes:
    try:
        return _encoder.encode(body)
    except OverflowError:  # integers beyond 64 bits go as text
        body.values = [tuple(map(_small, values)) for values in body.values]
        return _encoder.encode(body)


def _small(value: bool | float | str) -> bool | int | float | str:  # noqa: FBT001 - a number
    large = isinstance(value, int) and not -(1 << 63) <= value < 1 << 64
    return str(value) if large else value


def _numbers(values: tuple[bool | int | float | str, ...]) -> tuple[Number, ...]:
    if str in set(map(type, values)):
        return tuple(int(each) if isinstance(each, str) else each for each in values)
    return values  # type: ignore[return-value]  # what was just looked for is not there


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _pairs(texts: Iterable[bytes]) -> Labels:
    entries = map(_text, texts)
    return tuple(zip(entries, entries, strict=True))


def _int(entry: int | bytes) -> int:
    if isinstance(entry, bytes):
        raise Unreadable("a text in place of a number")
    return entry


def _bytes(entry: int | bytes) -> bytes:
    if isinstance(entry, int):
        raise Unreadable("a number in place of a text")
    return entry

"""
Batches on their way into an archive: frames with a checksum, appended to a file.

A frame is its length and its CRC-32, four bytes each with the lowest first, and MessagePack: a
shape when it occurs first, then batches that name their shapes by number. What a kill or a power
cut has left of a frame ends the reading, and everything before it counts.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from virtstatd.formats.naming import labels_of, name_of, visible
from virtstatd.model import Batch, Domain, Number, Reading, Series, Shape
from virtstatd.sending.files import write_all


HOUR_NS = 3600 * 10**9
FRAME_BYTES_MAX = 1 << 30
"""Longest frame in bytes; a greater length is damage and must not be allocated."""

_HEAD = struct.Struct("<II")


class SeriesLine(msgspec.Struct, array_like=True, frozen=True):
    """A series: its name, kind, exponent and labels."""

    metric: str
    kind: str
    exponent: int
    labels: tuple[tuple[str, str], ...]


class Owner(msgspec.Struct, array_like=True, frozen=True):
    """The guest of a reading; `labels` are those that no column has."""

    uuid: str
    name: str
    run: int
    labels: tuple[tuple[str, str], ...]


class Columns(msgspec.Struct, array_like=True, frozen=True, tag="shape"):
    """A shape, from here on known by its number."""

    number: int
    lines: tuple[SeriesLine, ...]


class Rows(msgspec.Struct, array_like=True, frozen=True, tag="batch"):
    """A batch: owner, number of the shape and values of each reading."""

    source: str
    taken_at: int
    readings: tuple[tuple[Owner | None, int, tuple[bool | int | float, ...]], ...]


class Journal:
    """A file to which batches are appended whole or not at all."""

    def __init__(self, path: Path, begun_at: int) -> None:
        self.path = path
        self.begun_at = begun_at
        self.size = 0
        self._numbers: WeakKeyDictionary[Shape, int] = WeakKeyDictionary()
        self._next = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o640)

    def append(self, batch: Batch) -> None:
        """Write a batch; truncate what a failed write has left of it."""
        fresh: dict[Shape, int] = {}
        for reading in batch.readings:
            if reading.shape not in self._numbers and reading.shape not in fresh:
                fresh[reading.shape] = self._next + len(fresh)
        parts = [_frame(_columns(shape, number)) for shape, number in fresh.items()]
        parts.append(_frame(_rows(batch, {**self._numbers, **fresh})))
        text = b"".join(parts)
        try:
            write_all(self._fd, text)
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(text)
        self._numbers.update(fresh)
        self._next += len(fresh)

    def in_place(self) -> bool:
        """Whether the file is still where it was opened."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read(path: Path) -> Iterator[Columns | Rows]:
    """Yield what a journal holds, up to the first frame that is not whole."""
    decode = msgspec.msgpack.Decoder(Columns | Rows).decode
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if length > FRAME_BYTES_MAX:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != checksum:
                return
            yield decode(payload)


def _frame(content: Columns | Rows) -> bytes:
    payload = msgspec.msgpack.encode(content)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _columns(shape: Shape, number: int) -> Columns:
    return Columns(number, tuple(_line(series) for series in shape.series))


def _line(series: Series) -> SeriesLine:
    labels = _labels(labels_of(series))
    return SeriesLine(visible(name_of(series)), series.field.kind, series.exponent, labels)


def _rows(batch: Batch, numbers: dict[Shape, int]) -> Rows:
    owners: dict[Domain | None, Owner | None] = {None: None}
    for reading in batch.readings:
        if reading.domain not in owners and reading.domain is not None:
            owners[reading.domain] = _owner(reading.domain)
    return Rows(
        batch.source,
        batch.taken_at,
        tuple((owners[each.domain], numbers[each.shape], _values(each)) for each in batch.readings),
    )


def _owner(domain: Domain) -> Owner:
    others = tuple(pair for pair in domain.labels if pair[0] not in ("domain", "uuid"))
    return Owner(domain.uuid, visible(domain.name), domain.id, _labels(others))


def _values(reading: Reading) -> tuple[Number, ...]:
    """Return the values; an integer that MessagePack has no room for becomes a float."""
    if all(-(1 << 63) <= value < 1 << 64 for value in reading.values if isinstance(value, int)):
        return reading.values
    return tuple(
        float(value) if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64 else value
        for value in reading.values
    )


def _labels(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((visible(key), visible(text)) for key, text in labels)

"""
The format of a spool's files, and how to read on after damage.

    segment     header, record, record, ...
    header      magic, version, position of the first record, CRC
    record      magic, length, CRC, position, samples, bytes, payload
    checkpoint  three slots, the newest good one counts

A position counts every batch that ever went through the spool, with its samples and bytes, as an
odometer does: what is missing between two records is known without having been read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Tally


VERSION = 1

SLOT_BYTES = 4096
"""Bytes of a slot, a block of its own: a power cut during one write spares the others."""

SLOTS = (0, 1, 2)
"""Of a checkpoint: one that was synced, one that was written, and one to write to."""

_HEADER = struct.Struct("<8sHQQQI")
_RECORD = struct.Struct("<4sIIQQQQQ")
_AFTER_CRC = struct.Struct("<QQQQQ")
_SLOT = struct.Struct("<8sHQQQQQQQI")
_CRC = struct.Struct("<I")

_SEGMENT_MAGIC = b"virtspl\n"
_RECORD_MAGIC = b"\xf1vb\x1e"
_SLOT_MAGIC = b"virtspc\n"

HEADER_BYTES = _HEADER.size

Read = Callable[[int, int], bytes]
"""Read `size` bytes from an offset, fewer at the end of the file."""


class Position(NamedTuple):
    """Batches, samples and bytes before a record, counted since the spool was created."""

    batches: int = 0
    samples: int = 0
    bytes: int = 0

    def after(self, tally: Batch | Tally, batches: int = 1) -> Position:
        """Return the position behind a batch, or behind so many."""
        return Position(
            self.batches + batches, self.samples + tally.samples, self.bytes + tally.bytes
        )

    def since(self, earlier: Position) -> Tally:
        """Return what is between."""
        return Tally(
            self.batches - earlier.batches,
            self.samples - earlier.samples,
            self.bytes - earlier.bytes,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A record that is whole: where it is in its file, what it is in the spool."""

    begin: int
    end: int
    position: Position
    after: Position
    payload: bytes


class CheckpointMarks(NamedTuple):
    """A checkpoint: what is settled, and how far was written."""

    serial: int
    settled: Position
    end: Position


class Foreign(ValueError):  # noqa: N818 - named for what the file is
    """A segment in a format that this version of virtstatd does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"a later version of virtstatd wrote it, in format {version}")
        self.version = version


def header(first: Position) -> bytes:
    """Encode the header of a segment."""
    return _sealed(_HEADER.pack(_SEGMENT_MAGIC, VERSION, *first, 0))


def first_position(read: Read) -> Position | None:
    """Return where a segment begins, None when its header is damaged. Raises `Foreign`."""
    raw = read(HEADER_BYTES, 0)
    if len(raw) < HEADER_BYTES or not _is_sealed(raw):
        return None
    magic, version, batches, samples, size, _ = _HEADER.unpack(raw)
    if magic != _SEGMENT_MAGIC:
        return None
    if version != VERSION:
        raise Foreign(version)
    return Position(batches, samples, size)


def record(position: Position, batch: Batch, payload: bytes) -> bytes:
    """Encode a record."""
    rest = _AFTER_CRC.pack(*position, batch.samples, batch.bytes)
    length = _CRC.pack(len(payload))
    crc = crc32(payload, crc32(rest, crc32(length)))
    return b"".join((_RECORD_MAGIC, length, _CRC.pack(crc), rest, payload))


def next_record(read: Read, offset: int, end: int) -> Record | None:
    """
    Return the first whole record at or behind an offset, None when there is none.

    It begins at the offset unless something in front of it is damaged.
    """
    if found := _record_at(read, offset, end):
        return found
    rest = read(end - offset, offset)

    def cached(size: int, at: int) -> bytes:
        return rest[at - offset : at - offset + size]

    at = rest.find(_RECORD_MAGIC)
    while at >= 0:
        if found := _record_at(cached, offset + at, end):
            return found
        at = rest.find(_RECORD_MAGIC, at + 1)
    return None


def _record_at(read: Read, offset: int, end: int) -> Record | None:
    if end - offset < _RECORD.size:
        return None
    raw = read(_RECORD.size, offset)
    if len(raw) < _RECORD.size:
        return None
    magic, length, crc, batches, samples, size, own_samples, own_bytes = _RECORD.unpack(raw)
    begin = offset + _RECORD.size
    if magic != _RECORD_MAGIC or length > end - begin:
        return None
    payload = read(length, begin)
    if crc != crc32(payload, crc32(raw[12:], crc32(raw[4:8]))):
        return None
    position = Position(batches, samples, size)
    after = position.after(Tally(1, own_samples, own_bytes))
    return Record(offset, begin + length, position, after, payload)


def slot(marks: CheckpointMarks) -> bytes:
    """Encode a checkpoint."""
    return _sealed(_SLOT.pack(_SLOT_MAGIC, VERSION, marks.serial, *marks.settled, *marks.end, 0))


def marks(read: Read) -> tuple[CheckpointMarks, int] | None:
    """Return the newest checkpoint of a file and its slot, None when there is no good one."""
    found = []
    for place in SLOTS:
        raw = read(_SLOT.size, place * SLOT_BYTES)
        if len(raw) == _SLOT.size and _is_sealed(raw):
            magic, version, serial, *positions, _ = _SLOT.unpack(raw)
            if (magic, version) == (_SLOT_MAGIC, VERSION):
                known = CheckpointMarks(serial, Position(*positions[:3]), Position(*positions[3:]))
                found.append((known, place))
    return max(found, default=None)


def _sealed(raw: bytes) -> bytes:
    body = raw[: -_CRC.size]
    return body + _CRC.pack(crc32(body))


def _is_sealed(raw: bytes) -> bool:
    return raw == _sealed(raw)

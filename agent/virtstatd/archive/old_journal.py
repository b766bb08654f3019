"""
Read what version 0.1.0 has left: journals in a format of their own.

A frame is its length and its CRC-32, four bytes each with the lowest first, and MessagePack: a
shape when it occurs first, then batches that name their shapes by number. The first frame that is
not whole ends the reading.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from virtstatd.model import Batch, Domain, Field, Kind, Labels, Reading, Series, Shape


OLD_SUFFIX = ".journal"

_HEAD = struct.Struct("<II")


def old_batches(path: Path) -> Iterator[Batch]:
    """Yield the batches of a journal, with whole names in place of a field's parts."""
    shapes: dict[int, Shape] = {}
    for frame in map(msgspec.msgpack.decode, _frames(path.read_bytes())):
        match frame:
            case ["shape", number, lines]:
                shapes[number] = Shape("", tuple(_series(*line) for line in lines))
            case ["batch", source, taken_at, readings]:
                yield Batch(
                    source,
                    taken_at,
                    tuple(
                        Reading(owner and _domain(*owner), shapes[number], tuple(values))
                        for owner, number, values in readings
                    ),
                )


def _frames(content: bytes) -> Iterator[bytes]:
    at = 0
    while len(head := content[at : at + _HEAD.size]) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        begin, at = at + _HEAD.size, at + _HEAD.size + length
        if len(frame := content[begin:at]) < length or zlib.crc32(frame) != checksum:
            return
        yield frame


def _series(metric: str, kind: str, exponent: int, labels: list[list[str]]) -> Series:
    prefix, _, name = metric.partition("_")
    return Series(Field(prefix, name, Kind(kind), "", "", exponent), _pairs(labels))


def _domain(uuid: str, name: str, run: int, labels: list[list[str]]) -> Domain:
    return Domain(uuid, name, run, _pairs(labels))


def _pairs(labels: list[list[str]]) -> Labels:
    return tuple((name, text) for name, text in labels)

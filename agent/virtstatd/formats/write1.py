"""
Remote write 1.0 without an object per number.

Everything but the numbers, the time and the domain's labels is compiled once per shape, and a
reading is one call of `struct`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct, unpack
from weakref import WeakKeyDictionary

from virtstatd.formats.chunks import Chunk
from virtstatd.formats.lifetimes import EndedSeries, Plan
from virtstatd.formats.naming import label_name, labels_of, name_of, visible_bytes
from virtstatd.formats.numbers import Divisors, divisors_of, scaled, varint
from virtstatd.model import Labels, Number, Series, Shape


STALE: float = unpack("<d", bytes.fromhex("020000000000f07f"))[0]
"""Prometheus' stale marker, the not-a-number 0x7ff0000000000002: this series ended."""

TIME_BYTES = 6
_TIME_MAX = (1 << 7 * TIME_BYTES) - 1  # the year 2109
TIME = b"\x10"
_SAMPLE = b"\x12\x10\x09"  # samples: 16 bytes, of which a double comes first
_SAMPLE_BYTES = len(_SAMPLE) + 8 + 1 + TIME_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class WriteTemplate:
    """
    The series of a shape with holes for numbers, time and the domain's labels.

    `arguments` are what `layout` packs: for each series `stride` of them, the last two the number
    and the time, those at odd places before them the domain's labels.
    """

    layout: Struct
    arguments: tuple[bytes, ...]
    stride: int
    divisors: Divisors | None

    def encode(self, labels: Sequence[bytes], values: Sequence[Number], milliseconds: int) -> bytes:
        """Return the time series of one reading, scaled, ready to be joined with others."""
        arguments: list[bytes | Number] = list(self.arguments)
        count = len(values)
        for place, label in enumerate(labels):
            arguments[2 * place + 1 :: self.stride] = [label] * count
        arguments[self.stride - 2 :: self.stride] = values
        arguments[self.stride - 1 :: self.stride] = [time_field(TIME, milliseconds)] * count
        return self.layout.pack(*arguments)


class WriteEncoder:
    """Encode readings as the time series of a WriteRequest, with templates for all live shapes."""

    def __init__(self, external: Labels) -> None:
        self._external = dict(external)
        self._templates: WeakKeyDictionary[Shape, dict[tuple[object, ...], WriteTemplate]] = (
            WeakKeyDictionary()
        )

    def items(self, plan: Plan, _: Sequence[int]) -> list[Chunk]:
        """Return the chunks of the readings, then those of the stale markers, which matter less."""
        items: list[Chunk] = [
            (
                len(reading.values),
                functools.partial(
                    self.encode,
                    reading.shape,
                    reading.domain.labels if reading.domain else (),
                    reading.values,
                    plan.milliseconds,
                ),
            )
            for reading in plan.readings
        ]
        items += [
            (len(each.series), functools.partial(self.encode_marks, each)) for each in plan.ended
        ]
        return items

    def request(self, encoded: list[bytes]) -> bytes:
        """Return the request that holds all these time series."""
        return b"".join(encoded)

    def encode(
        self, shape: Shape, labels: Labels, values: Sequence[Number], milliseconds: int
    ) -> bytes:
        """Encode a reading's values, taken at a time, under the labels of its domain."""
        names, blobs = _blobs(labels)
        templates = self._templates.get(shape)
        if templates is None:
            templates = self._templates[shape] = {}
        sizes = tuple(map(len, blobs))
        template = templates.get((names, sizes))
        if template is None:
            template = templates[names, sizes] = write_template(shape, names, sizes, self._external)
        return template.encode(blobs, scaled(values, template.divisors), milliseconds)

    def encode_marks(self, ended: EndedSeries) -> bytes:
        """Encode stale markers; nothing is scaled, which would change the marker's bits."""
        names, blobs = _blobs(ended.labels)
        shape = Shape("", ended.series)
        template = write_template(shape, names, tuple(map(len, blobs)), self._external)
        return template.encode(blobs, (STALE,) * len(ended.series), ended.milliseconds)


def write_template(
    shape: Shape, names: tuple[str, ...], sizes: tuple[int, ...], external: dict[str, str]
) -> WriteTemplate:
    """Compile a shape for domains whose labels have these names, sorted, and encoded sizes."""
    arguments: list[bytes] = []
    layout: list[str] = []
    for series in shape.series:
        own = {**external, **labels_in(series)}
        static = sorted((name, label(name, own[name])) for name in own.keys() - set(names))
        pieces = [b""] * (len(names) + 1)
        for name, blob in static:
            pieces[sum(each < name for each in names)] += blob
        size = sum(map(len, pieces)) + sum(sizes) + _SAMPLE_BYTES
        pieces[0] = b"\x0a" + varint(size) + pieces[0]
        pieces[-1] += _SAMPLE
        for piece, domain_size in zip(pieces, (*sizes, 0), strict=True):
            arguments += (shared(piece), b"")
            layout.append(f"{len(piece)}s{domain_size}s")
        arguments.append(b"")
        layout[-1] = f"{len(pieces[-1])}sd{1 + TIME_BYTES}s"
    stride = 2 * len(names) + 3
    return WriteTemplate(
        Struct(f"<{''.join(layout)}"), tuple(arguments), stride, divisors_of(shape)
    )


def label(name: str, value: str) -> bytes:
    """Encode a label of a time series, as nothing when its value is empty."""
    if not value:
        return b""
    key = name.encode()
    text = visible_bytes(value)
    body = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(text)) + text
    return b"\x0a" + varint(len(body)) + body


@functools.lru_cache(maxsize=8192)
def shared(piece: bytes) -> bytes:
    """Return one object for equal pieces, to save memory: shapes differ in a device or two."""
    return piece


@functools.lru_cache(maxsize=16)
def time_field(tag: bytes, milliseconds: int) -> bytes:
    """Encode a time, always in as many bytes: a zero may be written long."""
    rest = min(max(milliseconds, 0), _TIME_MAX)
    encoded = [rest >> 7 * index & 0x7F | 0x80 for index in range(TIME_BYTES)]
    encoded[-1] &= 0x7F
    return tag + bytes(encoded)


@functools.lru_cache(maxsize=4096)
def _blobs(labels: Labels) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """Return the names of a domain's labels, sorted, and the labels encoded."""
    named = {label_name(name): value for name, value in labels}
    names = tuple(sorted(named))
    return names, tuple(label(name, named[name]) for name in names)


def labels_in(series: Series) -> dict[str, str]:
    """Return the labels of a series, its name among them."""
    labels = {label_name(key): value for key, value in labels_of(series)}
    return {**labels, "__name__": name_of(series)}

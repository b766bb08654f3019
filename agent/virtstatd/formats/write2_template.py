"""Compile a shape into the series of remote write 2.0, with holes for what each request fills."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from virtstatd.formats.naming import visible_bytes
from virtstatd.formats.numbers import Divisors, divisors_of, varint
from virtstatd.formats.write1 import TIME_BYTES, labels_in, shared
from virtstatd.model import Field, Kind, Series, Shape


REFERENCE_BYTES = 3

_TYPES = {Kind.COUNTER: 1, Kind.GAUGE: 2, Kind.HISTOGRAM: 3, Kind.INFO: 6, Kind.UNKNOWN: 0}
_COUNTING = (Kind.COUNTER, Kind.HISTOGRAM)

References = tuple[bytes | int, ...]
"""References to symbols that every request has, and numbers of those that the shape has."""


class LabelNames(NamedTuple):
    """The names of a domain's labels, and of those that have a value, sorted."""

    every: frozenset[str]
    valued: tuple[str, ...]


class Vocabulary:
    """The symbols that every request begins with; new ones are added at the end."""

    def __init__(self) -> None:
        self._references = {b"": b"\0"}  # the protocol wants the empty symbol first
        self._symbols: list[bytes] = []

    def __len__(self) -> int:
        return len(self._references)

    def reference(self, text: str) -> bytes:
        """Return the reference of a text, which never changes."""
        key = visible_bytes(text)
        found = self._references.get(key)
        if found is None:
            found = self._references[key] = varint(len(self._references))
        return found

    def symbols(self) -> bytes:
        """Return the encoded symbols."""
        for text in list(self._references)[len(self._symbols) :]:
            self._symbols.append(symbol(text))
        return b"".join(self._symbols)


@dataclass(frozen=True, slots=True, eq=False)
class Write2Template:
    """
    The series of a shape with holes for references, numbers and times.

    `arguments` are what `layout` packs: for each series `stride` of them, the last two the number
    and the times. Before them are, at even places, what refers to the labels of the series: those
    in `pieces` need the request's numbers of the shape's own `symbols`, and stand where `dynamic`
    says; at odd places are the values of the domain's labels.
    """

    layout: Struct
    arguments: tuple[bytes, ...]
    stride: int
    symbols: tuple[bytes, ...]
    pieces: tuple[References, ...]
    dynamic: tuple[tuple[int, tuple[int, ...]], ...]
    divisors: Divisors | None
    starting: tuple[bool, ...]


def write2_template(
    shape: Shape,
    names: LabelNames,
    external: dict[str, str],
    vocabulary: Vocabulary,
    *,
    started: bool,
) -> Write2Template:
    """Compile a shape for domains whose labels have these names, with or without start times."""
    symbols: dict[bytes, int] = {}
    rows: list[list[References]] = []
    layout: list[str] = []
    for series in shape.series:
        pieces = _pieces(series, names, external, vocabulary, symbols)
        references = sum(map(_size, pieces)) + REFERENCE_BYTES * len(names.valued)
        timed = 1 + TIME_BYTES
        if started and series.field.kind in _COUNTING:
            timed *= 2
        sample = 1 + 8 + timed
        tail = _metadata(series.field, vocabulary) + b"\x12" + varint(sample)
        head = b"\x0a" + varint(references)
        head = b"\x2a" + varint(len(head) + references + len(tail) + sample) + head
        pieces[0] = _merged((head, *pieces[0]))
        rows.append([*pieces, (tail + b"\x09",)])
        *sizes, last = map(_size, rows[-1])
        between = f"s{REFERENCE_BYTES}s".join(map(str, sizes))
        layout.append(f"{between}s{last}sd{timed}s")
    distinct: dict[References, int] = {}
    dynamic: list[tuple[int, tuple[int, ...]]] = []
    for number, column in enumerate(zip(*rows, strict=True)):
        if any(isinstance(part, int) for piece in column for part in piece):
            which = tuple(distinct.setdefault(piece, len(distinct)) for piece in column)
            dynamic.append((2 * number, which))
    return Write2Template(
        Struct(f"<{''.join(layout)}"),
        tuple(argument for row in rows for argument in _arguments(row)),
        2 * len(names.valued) + 4,
        tuple(symbols),
        tuple(distinct),
        tuple(dynamic),
        divisors_of(shape),
        tuple(series.field.kind in _COUNTING for series in shape.series),
    )


def _arguments(row: list[References]) -> Iterator[bytes]:
    """Yield the pieces of a series with holes after all but the last two, and two at the end."""
    *pieces, before, tail = row
    for piece in pieces:
        yield from (_static(piece), b"")
    yield from (_static(before), _static(tail), b"", b"")


def _pieces(
    series: Series,
    names: LabelNames,
    external: dict[str, str],
    vocabulary: Vocabulary,
    symbols: dict[bytes, int],
) -> list[References]:
    """Return the references of a series' labels, cut where the domain's values go."""
    own = labels_in(series)
    pieces: list[list[bytes | int]] = [[] for _ in range(len(names.valued) + 1)]
    for name, value in sorted({**external, **own}.items()):
        if name in names.every or not value:
            continue
        piece = pieces[sum(each < name for each in names.valued)]
        piece.append(vocabulary.reference(name))
        if name in own and name != "__name__":
            piece.append(symbols.setdefault(visible_bytes(value), len(symbols)))
        else:
            piece.append(vocabulary.reference(value))
    for piece, name in zip(pieces, names.valued, strict=False):
        piece.append(vocabulary.reference(name))
    return [_merged(piece) for piece in pieces]


def _metadata(field: Field, vocabulary: Vocabulary) -> bytes:
    """Return the encoded metadata: kind, help and unit."""
    kind = _TYPES[field.kind].to_bytes(1, "little")
    meaning = vocabulary.reference(field.help)
    unit = vocabulary.reference(field.unit)
    body = b"\x08" + kind + b"\x18" + meaning + b"\x20" + unit
    return b"\x2a" + varint(len(body)) + body


def _merged(piece: Iterable[bytes | int]) -> References:
    """Join neighbours without holes."""
    parts: list[bytes | int] = []
    for part in piece:
        if parts and isinstance(part, bytes) and isinstance(before := parts[-1], bytes):
            parts[-1] = before + part
        else:
            parts.append(part)
    return tuple(parts)


def _size(piece: References) -> int:
    return sum(len(part) if isinstance(part, bytes) else REFERENCE_BYTES for part in piece)


def _static(piece: References) -> bytes:
    """Return the bytes of a piece without holes, nothing for one with holes."""
    (part,) = piece if len(piece) == 1 else (b"",)
    return shared(part) if isinstance(part, bytes) else b""


def symbol(text: bytes) -> bytes:
    """Encode a symbol of a request."""
    return b"\x22" + varint(len(text)) + text

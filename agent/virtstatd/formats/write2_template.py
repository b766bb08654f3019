"""Compile a shape into the series of remote write 2.0, with holes for what each request fills."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from virtstatd.formats.naming import visible_bytes
from virtstatd.formats.numbers import Divisors, divisors_of, varint
from virtstatd.formats.write1 import TIME_BYTES, labels_in, shared
from virtstatd.model import Field, Kind, Labels, Number, Series, Shape


REFERENCE_BYTES = 3
START = b"\x18"

VALUES = 1024
"""Most values of labels that are in every request; those of the next are in their own."""

VALUE_BYTES = 32
"""Longest value that is in every request."""

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
        self._numbers = {b"": 0}  # the protocol wants the empty symbol first
        self._symbols: list[bytes] = []
        self._values = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def reference(self, text: str) -> bytes:
        """Return the reference of a text, which never changes."""
        return varint(self.number(visible_bytes(text)))

    @property
    def full(self) -> bool:
        """Whether no more values have a reference that never changes."""
        return self._values >= VALUES

    def value(self, text: bytes) -> int | None:
        """Return the number of a label's value that every request has, None for any other."""
        found = self._numbers.get(text)
        if found is None and not self.full and len(text) <= VALUE_BYTES:
            self._values += 1
            found = self.number(text)
        return found

    def number(self, text: bytes) -> int:
        """Return the number of a text, which never changes."""
        return self._numbers.setdefault(text, len(self._numbers))

    def symbols(self) -> bytes:
        """Return the encoded symbols."""
        for text in list(self._numbers)[len(self._symbols) :]:
            self._symbols.append(symbol(text))
        return b"".join(self._symbols)


@dataclass(slots=True, eq=False)
class Write2Template:
    """
    The series of a shape with holes for references, numbers and times.

    `arguments` are what `layout` packs, and are filled in again for each reading where they differ
    from the one before: for each series `stride` of them, the last three the number, the time and
    when a counter began. Before them are, at even places, what refers to the labels of the series:
    those in `dynamic`, each with its place, need the request's numbers of the shape's own
    `symbols`; at odd places are the values of the domain's labels. `filled` are the domain's labels
    and the start that are filled in, None where that holds for one request alone.
    """

    layout: Struct
    arguments: list[bytes | Number]
    stride: int
    symbols: tuple[bytes, ...]
    dynamic: tuple[tuple[int, References], ...]
    divisors: Divisors | None
    filled: tuple[Labels, int] | None = None


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
        start = 1 + TIME_BYTES if started and series.field.kind in _COUNTING else 0
        sample = 1 + 8 + 1 + TIME_BYTES + start
        tail = _metadata(series.field, vocabulary) + b"\x12" + varint(sample)
        head = b"\x0a" + varint(references)
        head = b"\x2a" + varint(len(head) + references + len(tail) + sample) + head
        pieces[0] = _merged((head, *pieces[0]))
        rows.append([*pieces, (tail + b"\x09",)])
        *sizes, last = map(_size, rows[-1])
        between = f"s{REFERENCE_BYTES}s".join(map(str, sizes))
        layout.append(f"{between}s{last}sd{1 + TIME_BYTES}s{start}s")
    stride = 2 * len(names.valued) + 5
    dynamic = [
        (stride * row + 2 * column, piece)
        for row, pieces in enumerate(rows)
        for column, piece in enumerate(pieces)
        if any(isinstance(part, int) for part in piece)
    ]
    return Write2Template(
        Struct(f"<{''.join(layout)}"),
        [argument for row in rows for argument in _arguments(row)],
        stride,
        tuple(symbols),
        tuple(dynamic),
        divisors_of(shape),
    )


def _arguments(row: list[References]) -> Iterator[bytes | Number]:
    """Yield the pieces of a series with holes after all but the last two, and three at the end."""
    *pieces, before, tail = row
    for piece in pieces:
        yield from (_static(piece), b"")
    yield from (_static(before), _static(tail), b"", b"", b"")


def _pieces(
    series: Series,
    names: LabelNames,
    external: dict[str, str],
    vocabulary: Vocabulary,
    symbols: dict[bytes, int],
) -> list[References]:
    """Return the references of a series' labels, cut where the domain's values go."""
    own = labels_in(series)
    common = series.field.kind is not Kind.INFO  # those are paths and addresses of one guest
    pieces: list[list[bytes | int]] = [[] for _ in range(len(names.valued) + 1)]
    for name, value in sorted({**external, **own}.items()):
        if name in names.every or not value:
            continue
        piece = pieces[sum(each < name for each in names.valued)]
        piece.append(vocabulary.reference(name))
        text = visible_bytes(value)
        if name not in own or name == "__name__":
            piece.append(vocabulary.reference(value))
        elif (number := vocabulary.value(text) if common else None) is not None:
            piece.append(varint(number))
        else:
            piece.append(symbols.setdefault(text, len(symbols)))
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

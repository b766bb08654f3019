"""
Records compiled to bytes: everything that stays the same is packed once, numbers are filled in.

A layout is the record of a flavor for one set of groups; bound to a guest it becomes a `Record`,
one `struct` whose items alternate between constant bytes and moving numbers. Packing 100 numbers is
then one list comprehension and one call, independent of the size of the names between them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from virtstatd_simulator.guests.fields import CODES, Field
from virtstatd_simulator.guests.load import UNIT_BITS
from virtstatd_simulator.wire.xdr import pack_string, pack_uint


@lru_cache(maxsize=4096)
def _compiled(sizes: tuple[int, ...], codes: str) -> struct.Struct:
    """Compile the format once for all guests whose names happen to be as long."""
    return struct.Struct(
        ">"
        + "".join(f"{size}s{code}" for size, code in zip(sizes, codes, strict=False))
        + f"{sizes[-1]}s"
    )


class Record:
    """One guest's compiled answer to one query."""

    __slots__ = ("_items", "_moving", "_struct", "params", "size")

    def __init__(
        self, pieces: list[bytes], codes: str, moving: Sequence[tuple[int, int, int]], params: int
    ) -> None:
        self._struct = _compiled(tuple(map(len, pieces)), codes)
        self._items: list[bytes | int] = [b""] * (len(pieces) + len(moving))
        self._items[::2] = pieces
        self._moving = moving
        self.params = params
        self.size = self._struct.size

    def pack(self, drivers: Sequence[int]) -> bytes:
        """Fill in the numbers."""
        items = self._items
        items[1::2] = [
            base + (rate * drivers[driver] >> UNIT_BITS) for base, rate, driver in self._moving
        ]
        return self._struct.pack(*items)


class Layout:
    """Holds the fields of a flavor for one set of groups."""

    __slots__ = ("_codes", "_moving", "_own", "_pieces", "params")

    def __init__(self, fields: Sequence[Field]) -> None:
        # a piece is the bytes between two moving numbers; in `_own` are those with a guest's text
        piece = bytearray()
        own: list[Field | bytes] = []
        self._pieces: list[bytes] = []
        self._own: list[tuple[int, list[Field | bytes]]] = []
        codes: list[str] = []
        moving: list[tuple[int, int, int]] = []
        for field in fields:
            piece += field.pack_head()
            if field.slot is not None:
                own += [bytes(piece), field]
                piece.clear()
            elif field.moves:
                self._end_piece(piece, own)
                piece, own = bytearray(), []
                codes.append(CODES[field.type])
                moving.append((int(field.base), field.rate, int(field.driver)))
            else:
                piece += field.pack_value()
        self._end_piece(piece, own)
        self._codes = "".join(codes)
        self._moving = tuple(moving)
        self.params = len(fields)

    def _end_piece(self, piece: bytearray, own: list[Field | bytes]) -> None:
        if own:
            self._own.append((len(self._pieces), [*own, bytes(piece)]))
        self._pieces.append(bytes(piece))

    def bind(self, domain: bytes, taps: Sequence[str], paths: Sequence[str]) -> Record:
        """Make the record of one guest; `domain` is its packed name, UUID and id."""
        pieces = self._pieces.copy()
        texts = {"tap": taps, "path": paths}
        for at, parts in self._own:
            pieces[at] = b"".join(
                part
                if isinstance(part, bytes)
                else pack_string(texts[str(part.slot)][int(part.base)])
                for part in parts
            )
        pieces[0] = domain + pack_uint(self.params) + pieces[0]
        return Record(pieces, self._codes, self._moving, self.params)

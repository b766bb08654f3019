"""
XDR (RFC 4506): the primitives that libvirt's messages are made of.

Every item is a multiple of four bytes, big endian. Packing concatenates `bytes`; unpacking goes
through a `Reader` that never reads past its end and never trusts an announced length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import TypeVar


Item = TypeVar("Item")

MAX_STRING = 4 * 1024 * 1024

_INT = struct.Struct(">i")
_UINT = struct.Struct(">I")
_HYPER = struct.Struct(">q")
_UHYPER = struct.Struct(">Q")
_DOUBLE = struct.Struct(">d")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

pack_int = _INT.pack
pack_uint = _UINT.pack
pack_hyper = _HYPER.pack
pack_uhyper = _UHYPER.pack
pack_double = _DOUBLE.pack


class XdrError(ValueError):
    """Signals bytes that are not the arguments of the procedure."""


def pack_opaque(blob: bytes) -> bytes:
    """Pack bytes of variable length: the length, the bytes, and zeros up to a multiple of four."""
    return pack_uint(len(blob)) + blob + _PADDING[len(blob) % 4]


def pack_string(text: str) -> bytes:
    """Pack a string as UTF-8, lone surrogates as the bytes they came from."""
    return pack_opaque(text.encode(errors="surrogateescape"))


def pack_optional(text: str | None) -> bytes:
    """Pack a string that may be absent."""
    return pack_uint(0) if text is None else pack_uint(1) + pack_string(text)


def pack_array(items: Iterable[bytes]) -> bytes:
    """Pack an array of variable length, its items packed already."""
    packed = list(items)
    return pack_uint(len(packed)) + b"".join(packed)


class Reader:
    """Unpacks one message, item by item; raises `XdrError` at the first that is missing."""

    __slots__ = ("_at", "_blob", "_end")

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0
        self._end = len(blob)

    def _advance(self, size: int) -> int:
        at = self._at
        if size > self._end - at:
            raise XdrError("the message ends too early")
        self._at = at + size
        return at

    def take_int(self) -> int:
        """Unpack a signed integer of 32 bits."""
        number: int = _INT.unpack_from(self._blob, self._advance(4))[0]
        return number

    def take_uint(self) -> int:
        """Unpack an unsigned integer of 32 bits."""
        number: int = _UINT.unpack_from(self._blob, self._advance(4))[0]
        return number

    def take_hyper(self) -> int:
        """Unpack a signed integer of 64 bits."""
        number: int = _HYPER.unpack_from(self._blob, self._advance(8))[0]
        return number

    def take_uhyper(self) -> int:
        """Unpack an unsigned integer of 64 bits."""
        number: int = _UHYPER.unpack_from(self._blob, self._advance(8))[0]
        return number

    def take_double(self) -> float:
        """Unpack a floating point number of 64 bits."""
        number: float = _DOUBLE.unpack_from(self._blob, self._advance(8))[0]
        return number

    def take_fixed(self, size: int) -> bytes:
        """Unpack opaque bytes of a size that both sides know."""
        at = self._advance(size + -size % 4)
        return self._blob[at : at + size]

    def take_opaque(self, limit: int = MAX_STRING) -> bytes:
        """Unpack bytes of variable length."""
        size = self.take_uint()
        if size > limit:
            raise XdrError(f"{size} bytes announced, {limit} allowed")
        return self.take_fixed(size)

    def take_string(self) -> str:
        """Unpack a string; what is not UTF-8 in it is kept as lone surrogates."""
        return self.take_opaque().decode(errors="surrogateescape")

    def take_optional(self) -> str | None:
        """Unpack a string that may be absent."""
        return self.take_string() if self.take_uint() else None

    def take_array(self, take: Callable[[], Item], limit: int) -> list[Item]:
        """Unpack an array of variable length."""
        size = self.take_uint()
        if size > limit:
            raise XdrError(f"{size} items announced, {limit} allowed")
        return [take() for _ in range(size)]

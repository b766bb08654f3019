"""The shapes that are alive, found by their content."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgspec

from virtstatd.model import Field, Labels, Shape


class KnownShapes:
    """
    Every shape that is alive, by its content.

    Encoders compile once per shape and find the result by identity. So reading a shape back from
    disk must return the object that was written, as long as it is alive.
    """

    def __init__(self) -> None:
        self._digests: WeakKeyDictionary[Shape, bytes] = WeakKeyDictionary()
        self._shapes: WeakValueDictionary[bytes, Shape] = WeakValueDictionary()

    def digest(self, shape: Shape) -> bytes:
        """Return a digest of the content of a shape."""
        known = self._digests.get(shape)
        if known is None:
            series = [
                (texts(each.field), each.field.exponent, flat(each.labels), raw(each.part))
                for each in shape.series
            ]
            known = hashlib.blake2b(
                msgspec.msgpack.encode((raw(shape.group), series)), digest_size=16
            ).digest()
            self._digests[shape] = known
            self._shapes.setdefault(known, shape)
        return known

    def find(self, digest: bytes) -> Shape | None:
        """Return the shape of this content, None where there is none."""
        return self._shapes.get(digest)

    def add(self, digest: bytes, shape: Shape) -> None:
        """Add a shape that was read."""
        self._digests[shape] = digest
        self._shapes[digest] = shape


def raw(text: str) -> bytes:
    """Return a text as bytes; lone surrogates are kept."""
    return text.encode("utf-8", "surrogatepass")


def texts(field: Field) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return the texts of a field, for a digest or a record."""
    return (
        raw(field.prefix),
        raw(field.name),
        raw(field.kind.value),
        raw(field.unit),
        raw(field.help),
    )


def flat(labels: Labels) -> list[bytes]:
    """Return names and values in turn."""
    return [raw(text) for pair in labels for text in pair]

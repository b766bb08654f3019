"""What the encoders of protocol buffers share."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction


def varint(number: int) -> bytes:
    """Encode a number of zero or more in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def divisor(exponent: int) -> int | Fraction:
    """Return what a number in units of `10 ** exponent` is divided by, so as to be rounded once."""
    return 10**-exponent if exponent <= 0 else Fraction(1, 10**exponent)


def fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the number and the value of each field; raise ValueError for what is no message."""
    place = 0
    while place < len(message):
        tag, place = _number(message, place)
        match tag & 7:
            case 0:
                value, place = _number(message, place)
                yield tag >> 3, value
            case 1 | 5 as kind:
                size = 8 if kind == 1 else 4
                yield tag >> 3, message[place : place + size]
                place += size
            case 2:
                size, place = _number(message, place)
                yield tag >> 3, message[place : place + size]
                place += size
            case _:
                raise ValueError("no protocol buffers")
    if place > len(message):
        raise ValueError("the message is cut off")


def _number(message: bytes, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - no more to come
            return number, place
    raise ValueError("a number has no end")

"""What the encoders of protocol buffers share."""

from __future__ import annotations

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

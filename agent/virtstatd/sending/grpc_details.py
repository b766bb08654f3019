"""Read google.rpc.Status, which gRPC servers send in `grpc-status-details-bin`."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator


_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


def retry_delay(details: str) -> float | None:
    """Return the seconds in the RetryInfo of a google.rpc.Status, None without one."""
    try:
        status = b64decode(details + "=" * (-len(details) % 4), validate=True)
        for number, detail in message_fields(status):
            if number == 3 and isinstance(detail, bytes):  # noqa: PLR2004 - Status.details
                of = dict(message_fields(detail))
                if of.get(1) == _RETRY_INFO and isinstance(value := of.get(2), bytes):
                    return _seconds(value)
    except (binascii.Error, ValueError):
        pass  # unreadable details do not change what the status means
    return None


def _seconds(retry_info: bytes) -> float:
    delay = dict(message_fields(retry_info)).get(1, b"")
    parts = dict(message_fields(delay)) if isinstance(delay, bytes) else {}
    seconds, nanoseconds = parts.get(1, 0), parts.get(2, 0)
    if isinstance(seconds, bytes) or isinstance(nanoseconds, bytes):  # a text "nan" would be one
        raise ValueError("not a duration")  # noqa: TRY004 - of the message, not of the call
    return seconds + nanoseconds / 1e9


def message_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield number and value of each field of a protocol buffers message; raises ValueError."""
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

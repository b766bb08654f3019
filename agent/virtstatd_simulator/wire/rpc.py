"""
libvirt's RPC: framing, headers and errors, as `virnetprotocol.x` and `remote_protocol.x` define.

A frame is a length (itself included), a header of six words and a payload. The limits are libvirt's
own, so that a client reaches them here as with libvirtd.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from virtstatd_simulator.wire.xdr import pack_int, pack_optional, pack_uint


REMOTE_PROGRAM = 0x20008086
REMOTE_VERSION = 1
KEEPALIVE_PROGRAM = 0x6B656570
KEEPALIVE_VERSION = 1
PING = 1
PONG = 2

CALL = 0
REPLY = 1
MESSAGE = 2
STREAM = 3
CALL_WITH_FDS = 4

OK = 0
ERROR = 1

MAX_MESSAGE = 32 * 1024 * 1024  # VIR_NET_MESSAGE_MAX: header and payload, without the length
MAX_PAYLOAD = MAX_MESSAGE - 24
MAX_LISTED = 16384  # REMOTE_DOMAIN_LIST_MAX
MAX_PARAMS = 262144  # REMOTE_CONNECT_GET_ALL_DOMAIN_STATS_MAX, of one record

_LENGTH = struct.Struct(">I")
_HEADER = struct.Struct(">IIiIII")
_FRAME = struct.Struct(">IIIiIII")


class FrameError(ValueError):
    """Signals bytes that are no frame; libvirtd disconnects such a client."""


class Header(NamedTuple):
    """Describes the payload of a frame."""

    program: int
    version: int
    procedure: int
    type: int
    serial: int
    status: int


def frame(header: Header, payload_bytes: int) -> bytes:
    """Return the first 28 bytes of a frame whose payload has `payload_bytes`."""
    return _FRAME.pack(_FRAME.size + payload_bytes, *header)


class Frames:
    """Cuts a stream of bytes into frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, blob: bytes) -> None:
        """Append bytes from the socket."""
        self._buffer += blob

    def __iter__(self) -> Iterator[tuple[Header, bytes]]:
        """Remove complete frames from the front; raises `FrameError` for an impossible length."""
        return self

    def __next__(self) -> tuple[Header, bytes]:
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            raise StopIteration
        (size,) = _LENGTH.unpack_from(buffer)
        if not _FRAME.size <= size <= MAX_MESSAGE + _LENGTH.size:
            raise FrameError(f"a frame of {size} bytes")
        if len(buffer) < size:
            raise StopIteration
        header = Header._make(_HEADER.unpack_from(buffer, _LENGTH.size))
        payload = bytes(buffer[_FRAME.size : size])
        del buffer[:size]
        return header, payload


# virErrorDomain and virErrorNumber, those that the simulator answers with
FROM_RPC, FROM_QEMU, FROM_DOMAIN, FROM_CGROUP = 7, 10, 20, 54
INTERNAL, NO_SUPPORT, INVALID_ARG, DENIED, SYSTEM_ERROR, RPC = 1, 3, 8, 29, 38, 39
NO_DOMAIN, INVALID_OPERATION, NOT_SUPPORTED, NO_METADATA, UNSUPPORTED = 42, 55, 84, 80, 74

_PREFIXES = {
    INTERNAL: "internal error: %s",
    NO_SUPPORT: "this function is not supported by the connection driver: %s",
    INVALID_ARG: "invalid argument: %s",
    DENIED: "operation forbidden: %s",
    RPC: "%s",
    NO_DOMAIN: "Domain not found: %s",
    INVALID_OPERATION: "Requested operation is not valid: %s",
    UNSUPPORTED: "argument unsupported: %s",
    NO_METADATA: "metadata not found: %s",
    NOT_SUPPORTED: "Operation not supported: %s",
}


class RpcError(Exception):
    """Answers a call with an error (`remote_error`)."""

    def __init__(self, code: int, domain: int, text: str) -> None:
        prefix = _PREFIXES.get(code, "%s")
        super().__init__(prefix % text)
        self.code = code
        self.domain = domain
        self.strings: tuple[str | None, str | None] = (prefix, text)
        self.numbers = (-1, -1)

    @classmethod
    def bad_argument(cls, domain: int, text: str, function: str, argument: str) -> RpcError:
        """Build the error of libvirt's argument checks, which names function and argument."""
        error = cls(INVALID_ARG, domain, text)
        error.args = (text,)
        error.strings = (function, argument)
        error.numbers = (0, 0)
        return error

    def pack(self) -> bytes:
        """Pack it as a payload."""
        return b"".join(
            (
                pack_int(self.code),
                pack_int(self.domain),
                pack_optional(str(self)),
                pack_int(2),  # VIR_ERR_ERROR
                pack_uint(0),  # no domain: unused for long
                pack_optional(self.strings[0]),
                pack_optional(self.strings[1]),
                pack_optional(None),
                pack_int(self.numbers[0]),
                pack_int(self.numbers[1]),
                pack_uint(0),  # no network
            )
        )

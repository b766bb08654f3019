"""
Calls of gRPC with one message and one answer, and what each status means to an outlet.

| status | raised |
|---|---|
| none: network error | `TryLater` |
| UNAVAILABLE and the others of `_LATER` | `TryLater`, with what RetryInfo said |
| RESOURCE_EXHAUSTED | with RetryInfo `TryLater`; of a message that is too large `TooLarge` |
| UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND, UNIMPLEMENTED | `Denied` |
| any other but OK | `Rejected` |

Which of them may be tried again is OTLP's own list.
"""

from __future__ import annotations

import asyncio
import binascii
import struct
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from http import HTTPStatus
from urllib.parse import unquote_to_bytes, urlsplit

from virtstatd import __version__
from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.formats.protobuf import fields
from virtstatd.sending.access import Access
from virtstatd.sending.http import CONNECT_SECONDS, sanitised
from virtstatd.sending.http2 import PROTOCOL, Answer, Connection
from virtstatd.sending.link import Link, told
from virtstatd.sending.secrets import Secret


class Status(IntEnum):
    """All codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_NAMES = {int(status): status.name for status in Status}
_LATER = {
    Status.CANCELLED,
    Status.DEADLINE_EXCEEDED,
    Status.ABORTED,
    Status.OUT_OF_RANGE,
    Status.UNAVAILABLE,
    Status.DATA_LOSS,
}
_DENIED = {
    Status.UNAUTHENTICATED,
    Status.PERMISSION_DENIED,
    Status.NOT_FOUND,
    Status.UNIMPLEMENTED,
}
_OF_HTTP: dict[int, Status] = {
    HTTPStatus.UNAUTHORIZED: Status.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: Status.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: Status.UNIMPLEMENTED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Status.RESOURCE_EXHAUSTED,
    HTTPStatus.TOO_MANY_REQUESTS: Status.UNAVAILABLE,
    HTTPStatus.BAD_GATEWAY: Status.UNAVAILABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: Status.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: Status.UNAVAILABLE,
}
"""What an answer means that is of a proxy, and not of gRPC."""

_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"
_GZIP = 16 + zlib.MAX_WBITS


class Client:
    """One method of one server."""

    def __init__(self, access: Access, method: str, link: Link[Connection]) -> None:
        parts = urlsplit(access.url)
        self._access = access
        self._link = link
        self._place = parts.netloc
        self._secret = Secret(access.secret_file)
        self._head = [
            (":method", "POST"),
            (":scheme", parts.scheme),
            (":path", method),
            (":authority", parts.netloc),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"virtstatd/{__version__}"),
            ("grpc-accept-encoding", "identity"),
        ]

    async def call(self, message: bytes, *, compress: bool) -> bytes:
        """Call with an encoded message; return the answer's, or raise as the table above has it."""
        secret = self._secret.read()
        headers = [*self._head]
        if compress:
            headers.append(("grpc-encoding", "gzip"))
            message = zlib.compress(message, 1, wbits=_GZIP)
        own = {**self._access.headers, **self._access.authorization(secret)}
        ours = {name for name, _ in headers}
        headers += [(name.lower(), text) for name, text in own.items() if name.lower() not in ours]
        try:
            async with self._link.held() as connection:
                answer = await connection.ask(
                    headers, struct.pack(">?I", compress, len(message)) + message
                )
        except OSError as error:
            raise TryLater(f"{self._place}: {told(error)}") from error
        if fault := self._fault(answer, secret):
            raise fault
        return _message(bytes(answer.body))

    def _fault(self, answer: Answer, secret: str) -> TryLater | Rejected | None:
        status = _status(answer)
        if status == Status.OK:
            return None
        said = sanitised(unquote_to_bytes(answer.headers.get("grpc-message", "")), secret)
        name = _NAMES.get(status, f"status {status}")
        reason = f"{self._place} answers {name}" + (f": {said}" if said else "")
        wait = retry_delay(answer.headers.get("grpc-status-details-bin", ""))
        if status in _LATER:
            return TryLater(reason, wait, answered=True)
        if status == Status.RESOURCE_EXHAUSTED and wait is not None:
            return TryLater(reason, wait)
        if status == Status.RESOURCE_EXHAUSTED and "larger than max" in said:
            return TooLarge(reason)
        return Denied(reason) if status in _DENIED else Rejected(reason)


@asynccontextmanager
async def connected(access: Access, method: str) -> AsyncIterator[Client]:
    """Yield a client; raise StartError for files that cannot be read. Nothing is connected yet."""
    context = await asyncio.to_thread(
        access.tls_context, tls=access.encrypted, protocols=(PROTOCOL,)
    )
    parts = urlsplit(access.url)

    async def connect() -> Connection:
        loop = asyncio.get_running_loop()
        port = parts.port or (443 if access.encrypted else 80)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    Connection, parts.hostname or "", port, ssl=context
                )
        except TimeoutError as error:
            raise ConnectionError("no connection in time") from error
        return connection

    async def close(connection: Connection) -> None:
        connection.close()

    link = Link(connect, close, lambda connection: connection.alive)
    try:
        yield Client(access, method, link)
    finally:
        await link.close()


def retry_delay(details: str) -> float | None:
    """Return the seconds in the RetryInfo of a google.rpc.Status, None without one."""
    try:
        status = b64decode(details + "=" * (-len(details) % 4), validate=True)
        for number, detail in fields(status):
            if number == 3 and isinstance(detail, bytes):  # noqa: PLR2004 - Status.details
                of = dict(fields(detail))
                if of.get(1) == _RETRY_INFO and isinstance(value := of.get(2), bytes):
                    return _seconds(value)
    except (binascii.Error, ValueError):
        pass  # the status counts, whatever is said beside it
    return None


def _seconds(retry_info: bytes) -> float:
    delay = dict(fields(retry_info)).get(1, b"")
    parts = dict(fields(delay)) if isinstance(delay, bytes) else {}
    seconds, nanoseconds = parts.get(1, 0), parts.get(2, 0)
    return float(seconds) + float(nanoseconds) / 1e9


def _status(answer: Answer) -> int:
    text = answer.headers.get("grpc-status", "")
    if text.isascii() and text.isdigit():
        return int(text[:9])
    http = answer.headers.get(":status", "")
    if http.isascii() and http.isdigit():
        return _OF_HTTP.get(int(http[:9]), Status.UNKNOWN)
    return Status.UNKNOWN


def _message(body: bytes) -> bytes:
    """Return the message of an answer; one that is compressed was not asked for, and is nothing."""
    return body[5:] if body[:1] == b"\0" else b""

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
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from http import HTTPStatus
from urllib.parse import unquote_to_bytes, urlsplit

from virtstatd import __version__
from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.runtime.compress import compressed
from virtstatd.sending.access import Access
from virtstatd.sending.credentials import Credentials, opened_credentials
from virtstatd.sending.dialing import dialed
from virtstatd.sending.grpc_details import retry_delay
from virtstatd.sending.http import CONNECT_SECONDS, sanitised
from virtstatd.sending.http2 import PROTOCOL, Headers, Http2Answer, Http2Connection, NotProcessed
from virtstatd.sending.link import KeptConnection, reason_of
from virtstatd.sending.tls import renewed_tls


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
"""The status of an answer that comes from a proxy and has none of gRPC."""


class GrpcClient:
    """One method of one server."""

    def __init__(
        self,
        access: Access,
        credentials: Credentials,
        method: str,
        link: KeptConnection[Http2Connection],
    ) -> None:
        parts = urlsplit(access.url)
        self._credentials = credentials
        self._link = link
        self._place = parts.netloc
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
        """Call with an encoded message and return the answer's; raises as in the table above."""
        headers = [*self._head]
        if compress:
            headers.append(("grpc-encoding", "gzip"))
            message = await compressed(message)
        own = await self._credentials.headers()
        ours = {name for name, _ in headers}
        headers += [(name.lower(), text) for name, text in own.items() if name.lower() not in ours]
        body = struct.pack(">?I", compress, len(message)) + message
        try:
            try:
                answer = await self._ask(headers, body)
            except NotProcessed:  # as when a server is replaced: the next connection is to another
                answer = await self._ask(headers, body)
        except OSError as error:
            reason = self._credentials.hidden(reason_of(error))
            raise TryLater(f"{self._place}: {reason}") from error
        if fault := self._fault(answer):
            raise fault
        return _message(bytes(answer.body))

    async def _ask(self, headers: Headers, body: bytes) -> Http2Answer:
        async with self._link.held() as connection:
            return await connection.ask(headers, body)

    def _fault(self, answer: Http2Answer) -> TryLater | Rejected | None:
        status = _status(answer)
        if status == Status.OK:
            return None
        message = unquote_to_bytes(answer.headers.get("grpc-message", ""))
        said = sanitised(message, self._credentials.hidden)
        if status == Status.UNAUTHENTICATED:
            self._credentials.refused()
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
async def grpc_client(access: Access, method: str) -> AsyncIterator[GrpcClient]:
    """Yield a client; raise StartError for files that cannot be read. Nothing is connected yet."""
    context = await access.opened_tls(tls=access.encrypted, protocols=(PROTOCOL,))
    parts = urlsplit(access.url)

    async def connect() -> Http2Connection:
        loop = asyncio.get_running_loop()
        port = parts.port or (443 if access.encrypted else 80)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                tls = await renewed_tls(context)
                sock = await dialed(parts.hostname or "", port)
                try:
                    _, connection = await loop.create_connection(
                        Http2Connection,
                        sock=sock,
                        ssl=tls,
                        server_hostname=parts.hostname if tls else None,
                    )
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError as error:
            raise ConnectionError("no connection in time") from error
        return connection

    async def close(connection: Http2Connection) -> None:
        connection.close()

    link = KeptConnection(connect, close, lambda connection: connection.alive)
    async with opened_credentials(access) as credentials:
        try:
            yield GrpcClient(access, credentials, method, link)
        finally:
            await link.close()


def _status(answer: Http2Answer) -> int:
    text = answer.headers.get("grpc-status", "")
    if text.isascii() and text.isdigit():
        return int(text[:9])
    http = answer.headers.get(":status", "")
    if http.isascii() and http.isdigit():
        return _OF_HTTP.get(int(http[:9]), Status.UNKNOWN)
    return Status.UNKNOWN


def _message(body: bytes) -> bytes:
    """Return the message of an answer, nothing for a compressed one, which no request allows."""
    return body[5:] if body[:1] == b"\0" else b""

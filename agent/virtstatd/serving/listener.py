"""
A small HTTP/1.1 server for a scrape endpoint, with bounds for every client.

It answers GET and HEAD and reads no bodies. Every wait has a bound; when all connections are in
use, the one that has been waiting the longest for its client makes room.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

from structlog.typing import FilteringBoundLogger


HEADER_BYTES = 16384
UNSENT_BYTES = 65536
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds for clients: number of connections, and seconds for each phase."""

    connections: int = 64
    request_seconds: float = 10.0
    idle_seconds: float = 90.0  # between requests; Prometheus keeps its connection
    write_seconds: float = 30.0
    linger_seconds: float = 1.0
    grace_seconds: float = 0.25  # a new connection is not cut off sooner


@dataclass(frozen=True, slots=True)
class Request:
    """A request without a body; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    keep: bool


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of known length, whose body is taken piece by piece as the client reads."""

    body: Iterable[bytes]
    length: int
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[Request], Awaitable[Response]]


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """An error response that ends the connection."""

    def __init__(self, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status.phrase)
        self.response = text_response(status.phrase, status, headers)


def text_response(
    line: str, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response of one line of text."""
    body = f"{line}\n".encode()
    return Response((body,), len(body), status=status, headers=headers or {})


@asynccontextmanager
async def listening(
    sock: socket.socket,
    answer: Respond,
    log: FilteringBoundLogger,
    limits: ClientLimits | None = None,
) -> AsyncIterator[None]:
    """Answer the requests of a listening socket within the block, and close it at the end."""
    connections = _Connections(answer, log, limits or ClientLimits())
    server = await asyncio.start_server(connections.accept, sock=sock, limit=HEADER_BYTES)
    try:
        yield
    finally:
        server.close()
        await connections.close()
        await server.wait_closed()


class _Connections:
    """All connections of one listener, and which of them wait for their client."""

    def __init__(self, answer: Respond, log: FilteringBoundLogger, limits: ClientLimits) -> None:
        self._answer = answer
        self._log = log
        self._limits = limits
        self._open: set[asyncio.StreamWriter] = set()
        self._waiting: dict[asyncio.StreamWriter, float] = {}  # since when, the longest first
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection, or turn it away at once and without a task."""
        if len(self._open) >= self._limits.connections and not self._make_room():
            writer.write(FULL)
            writer.close()
            return
        self._open.add(writer)
        task = asyncio.create_task(self._serve(reader, writer), name="scrape")
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._forget(task, writer))

    async def close(self) -> None:
        """Close all connections at once."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        try:
            await self._converse(reader, writer)
            await self._closed(writer)
        except Refusal as refusal:
            await self._refuse(reader, writer, refusal)
        except (OSError, EOFError, TimeoutError):
            pass  # the client went away or was too slow
        except Exception:  # noqa: BLE001 - not even our own fault may end the agent
            self._log.exception("scrape.crashed")

    def _forget(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        """Clear up after a connection's task, which may have been cancelled before it began."""
        self._tasks.discard(task)
        self._open.discard(writer)
        self._waiting.pop(writer, None)
        writer.transport.abort()  # does nothing to what is closed already

    def _make_room(self) -> bool:
        now = asyncio.get_running_loop().time()
        for writer, since in self._waiting.items():
            if now - since < self._limits.grace_seconds:
                return False
            del self._waiting[writer]
            self._open.discard(writer)
            writer.transport.abort()
            return True
        return False

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        patience = self._limits.request_seconds
        while True:
            self._waiting[writer] = asyncio.get_running_loop().time()
            request = parse_request(await self._head(reader, patience))
            self._waiting.pop(writer, None)
            await self._send(writer, await self._answer(request), request)
            if not request.keep:
                return
            patience = self._limits.idle_seconds

    async def _head(self, reader: asyncio.StreamReader, patience: float) -> bytes:
        """Read up to the blank line; the deadline of the request begins with its first byte."""
        try:
            async with asyncio.timeout(patience):
                first = await reader.readexactly(1)
            async with asyncio.timeout(self._limits.request_seconds):
                return first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from error

    async def _send(
        self, writer: asyncio.StreamWriter, response: Response, request: Request | None
    ) -> None:
        async with asyncio.timeout(self._limits.write_seconds):
            writer.write(_status_and_headers(response, keep=request is not None and request.keep))
            if request is None or request.method != "HEAD":
                for piece in response.body:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)  # a client that reads fast must not keep the loop
            await writer.drain()

    async def _closed(self, writer: asyncio.StreamWriter) -> None:
        """Close when the client has read everything, or cut it off."""
        async with asyncio.timeout(self._limits.write_seconds):
            writer.close()
            await writer.wait_closed()

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refusal: Refusal
    ) -> None:
        """Answer with an error, and let the client read it: a reset would take it away."""
        with suppress(OSError, TimeoutError):
            await self._send(writer, refusal.response, None)
            writer.write_eof()
            async with asyncio.timeout(self._limits.linger_seconds):
                while await reader.read(HEADER_BYTES):
                    pass


def parse_request(head: bytes) -> Request:
    """Read the first line and the headers; raise Refusal on what is not plain HTTP/1."""
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    try:
        method, target, version = first.split(" ")
    except ValueError:
        raise Refusal(HTTPStatus.BAD_REQUEST) from None
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        known = version.startswith("HTTP/")
        raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if known else HTTPStatus.BAD_REQUEST)
    if method not in ("GET", "HEAD"):
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Refusal(HTTPStatus.BAD_REQUEST)
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if target.startswith("http://"):  # the form for proxies, RFC 9112 section 3.2.2
        target = "/" + target[7:].partition("/")[2]
    wish = headers.get("connection", "").lower()
    keep = wish != "close" if version == "HTTP/1.1" else wish == "keep-alive"
    return Request(method, target.partition("?")[0], headers, keep)


def _status_and_headers(response: Response, *, keep: bool) -> bytes:
    lines = {
        "Date": formatdate(usegmt=True),
        "Content-Type": response.content_type,
        "Content-Length": str(response.length),
        "X-Content-Type-Options": "nosniff",
        "Connection": "keep-alive" if keep else "close",
        **response.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n{head}\r\n".encode()

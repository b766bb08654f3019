"""
A small HTTP/1.1 server, with and without TLS, with bounds for every client.

It answers GET and HEAD and reads no bodies. Every wait has a bound. When all connections are in
use, one that waits for its client makes room, or one whose client does not read; no client address
holds more than its share.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from itertools import chain
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.serving.http import (
    Refusal,
    Request,
    Respond,
    Response,
    parse_request,
    status_and_headers,
)


HEADER_BYTES: Final = 16384
PIECE_BYTES: Final = 16384
UNSENT_BYTES: Final = 16384
KERNEL_BYTES: Final = 131072
"""What the kernel keeps for a client that does not read; it takes twice as much for itself."""

ACCEPTED_AT_ONCE: Final = 32
WAITING_AT_ONCE: Final = 256
WAITING_SECONDS: Final = 1.0
"""How many connections, and how long, wait for one that makes room, before they are refused."""

TURN_SECONDS: Final = 0.01
"""Between two looks at who has to make room for those that wait."""

FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
RECEIVED: Final = slice(128, 136)
"""`tcpi_bytes_received` of the kernel's `struct tcp_info`."""

NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

GetContext = Callable[[], Awaitable[ssl.SSLContext | None]]


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds for clients: number of connections, and seconds for each phase."""

    connections: int = 64
    connections_per_client: int = 32
    request_seconds: float = 10.0
    idle_seconds: float = 90.0  # between requests; Prometheus keeps its connection
    stall_seconds: float = 5.0  # for a client that reads nothing
    write_seconds: float = 60.0
    linger_seconds: float = 1.0
    grace_seconds: float = 0.25  # for a client to read or ask before it makes room
    brief_grace_seconds: float = 0.02  # the same for one that has all that it may have


class State(Enum):
    """Who has to do the next step on a connection."""

    WAITING = "the client has to ask"
    WORKING = "an answer is made"
    SENDING = "the client has to read"


class Held:
    """One connection: who has the next step, and since when that is so without any progress."""

    __slots__ = (
        *("answered", "client", "given_away", "peer", "since", "sock", "state", "task"),
        "transport",
    )

    def __init__(self, sock: socket.socket, peer: str, now: float) -> None:
        self.sock = sock
        self.peer = peer
        self.client = client_of(peer)
        self.state = State.WAITING
        self.since = now
        self.given_away = False  # the socket, to a transport
        self.answered = 0  # bytes of the client that are answered
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None

    def has_asked(self) -> bool:
        """Return whether bytes of the client wait to be read or answered."""
        return self.received() > self.answered

    def received(self) -> int:
        """Return how many bytes have come from the client, read or not, as the kernel counts."""
        try:
            counts = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.stop)
        except OSError:
            return 0
        return int.from_bytes(counts[RECEIVED], sys.byteorder)

    def cut(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abort()
        else:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            if not self.given_away:
                self.sock.close()
        if self.task is not None:
            self.task.cancel()


def client_of(peer: str) -> str:
    """Return what counts as one client: an address, of IPv6 its network of 64 bits."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return peer
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return peer if address.is_loopback else str(int(address) >> 64)


class Connections:
    """All connections of the listeners of one agent, and which ones make room for others."""

    def __init__(self, log: FilteringBoundLogger, limits: ClientLimits | None = None) -> None:
        self.log = log
        self.limits = limits or ClientLimits()
        self.refused = 0
        self.evicted = 0
        self._held: dict[str, dict[Held, None]] = {}  # by client, the oldest first
        self._count = 0

    def __len__(self) -> int:
        """Return how many are open."""
        return self._count

    def admitted(self, held: Held, now: float) -> bool:
        """Count a connection in, after another one made room if need be, and if one can."""
        own = self._held.get(held.client, {})
        brief = now - self.limits.brief_grace_seconds
        early = now - self.limits.grace_seconds
        if len(own) >= self.limits.connections_per_client:
            room = self._evict(own, now, brief, early)
        elif self._count >= self.limits.connections:
            most = max(self._held.values(), key=len)
            room = (
                # a client that holds more than others has next to no grace before them
                len(most) > len(own) + 1 and self._evict(most, now, brief, brief)
            ) or self._evict(chain.from_iterable(self._held.values()), early, early, early)
        else:
            room = True
        if room:
            held.since = now
            self._held.setdefault(held.client, {})[held] = None
            self._count += 1
        return room

    def forget(self, held: Held) -> None:
        """Count a connection out; does nothing for one that made room before."""
        own = self._held.get(held.client, {})
        if held in own:
            del own[held]
            self._count -= 1
            if not own:
                del self._held[held.client]

    def _evict(self, among: Iterable[Held], silent: float, asked: float, sending: float) -> bool:
        """
        Cut off the connection without progress for the longest, if there is one.

        First go those that have sent nothing since their last answer, if that is before `silent`;
        what others have sent, before `asked`, may have waited for the loop and not for the client.
        Last go those that have read nothing since `sending`.
        """
        idle = sorted(among, key=lambda each: each.since)
        waiting = [each for each in idle if each.state is State.WAITING]
        reading = (each for each in idle if each.state is State.SENDING and each.since <= sending)
        victims = chain(
            (each for each in waiting if each.since <= silent and not each.has_asked()),
            (each for each in waiting if each.since <= asked),
            reading,
        )
        victim = next(victims, None)
        if victim is None:
            return False
        self.forget(victim)
        victim.cut()
        self.evicted += 1
        return True


@asynccontextmanager
async def listening(
    sock: socket.socket,
    answer: Respond,
    connections: Connections,
    tls: GetContext | None = None,
) -> AsyncIterator[None]:
    """
    Answer the requests of a listening socket within the block, and close it at the end.

    `tls` returns the context of the next connection, None for none.
    """
    server = _Server(sock, answer, connections, tls)
    server.start()
    try:
        yield
    finally:
        await server.close()


class _Server:
    """One listening socket and what came of it."""

    def __init__(
        self,
        sock: socket.socket,
        answer: Respond,
        connections: Connections,
        tls: GetContext | None,
    ) -> None:
        self._sock = sock
        self._answer = answer
        self._connections = connections
        self._limits = connections.limits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._waiting: list[Held] = []
        self._turn: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._again = None
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._accept)

    async def close(self) -> None:
        """Accept no more and close all connections at once."""
        for timer in (self._again, self._turn):
            if timer is not None:
                timer.cancel()
        for held in self._waiting:
            held.cut()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, place = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_ROOM:  # the queue stays full: pause, or the loop spins
                    self._loop.remove_reader(self._sock.fileno())
                    self._again = self._loop.call_later(1.0, self.start)
                    self._connections.log.warning("web.crowded", reason=error.strerror)
                    return
                continue  # the client went away again
            sock.setblocking(False)
            self._take(sock, str(place[0]) if place else "")

    def _take(self, sock: socket.socket, peer: str) -> None:
        now = self._loop.time()
        held = Held(sock, peer, now)
        if self._connections.admitted(held, now):
            self._begin(held)
        elif len(self._waiting) < WAITING_AT_ONCE:
            self._waiting.append(held)
            if self._turn is None:
                self._turn = self._loop.call_later(TURN_SECONDS, self._take_waiting)
        else:
            self._refuse_at_once(held)

    def _take_waiting(self) -> None:
        """Begin with those that wait, in their order, as far as there is room now."""
        self._turn = None
        now = self._loop.time()
        waiting, self._waiting = self._waiting, []
        full: set[str] = set()
        for held in waiting:
            if held.client not in full and self._connections.admitted(held, now):
                self._begin(held)
            elif now - held.since > WAITING_SECONDS:
                self._refuse_at_once(held)
            else:
                full.add(held.client)
                self._waiting.append(held)
        if self._waiting:
            self._turn = self._loop.call_later(TURN_SECONDS, self._take_waiting)

    def _refuse_at_once(self, held: Held) -> None:
        self._connections.refused += 1
        if self._tls is None:
            with suppress(OSError):
                held.sock.recv(HEADER_BYTES)  # closing on unread bytes would take the answer away
            with suppress(OSError):
                held.sock.send(FULL)
        held.sock.close()

    def _begin(self, held: Held) -> None:
        with suppress(OSError):
            held.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
            held.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held.task = asyncio.create_task(self._serve(held), name="web client")
        self._tasks.add(held.task)
        held.task.add_done_callback(lambda task: self._done(task, held))

    def _done(self, task: asyncio.Task[None], held: Held) -> None:
        """Clear up after a connection's task, which may have been cancelled before it began."""
        self._tasks.discard(task)
        self._connections.forget(held)
        held.task = None
        held.cut()  # does nothing to what is closed already

    async def _serve(self, held: Held) -> None:
        try:
            reader, writer = await self._opened(held)
            try:
                await self._converse(held, reader, writer)
                await self._closed(writer)
            except Refusal as refusal:
                await self._refuse(held, reader, writer, refusal)
        except (OSError, EOFError, TimeoutError):
            pass  # the client went away, was too slow, or speaks no TLS
        except Exception as error:
            self._connections.log.error("web.crashed", exc_info=error)  # noqa: TRY400 - of the table

    async def _opened(self, held: Held) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = await self._tls() if self._tls else None
        reader = asyncio.StreamReader(limit=HEADER_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        seconds = self._limits.request_seconds
        bounds = {"ssl_handshake_timeout": seconds, "ssl_shutdown_timeout": 1.0} if context else {}
        held.given_away = True
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol, held.sock, ssl=context, **bounds
        )
        held.transport = transport
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        return reader, writer

    async def _converse(
        self, held: Held, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        names = certificate_names(writer.get_extra_info("peercert"))
        patience = self._limits.request_seconds
        while True:
            held.state, held.since = State.WAITING, self._loop.time()
            head = await self._head(reader, patience)
            held.state, held.since = State.WORKING, self._loop.time()
            request = parse_request(head, held.peer, names)
            response = await self._answer(request)
            if response.length is None:
                request = replace(request, keep=False)
            await self._send(held, writer, response, request)
            if not request.keep:
                return
            patience = self._limits.idle_seconds
            held.answered = held.received()

    async def _head(self, reader: asyncio.StreamReader, patience: float) -> bytes:
        """Read up to the blank line; the deadline of the request begins with its first byte."""
        async with asyncio.timeout(patience):
            first = await reader.readexactly(1)
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                head = first if first == b"\n" else first + await reader.readuntil(b"\n")
                while not head.strip(b"\r\n"):  # one empty line may come first, RFC 9112, 2.2
                    if len(head) > 2:  # noqa: PLR2004 - CR and LF
                        raise Refusal(HTTPStatus.BAD_REQUEST)
                    head += await reader.readuntil(b"\n")
                head = head.lstrip(b"\r\n")
                while (line := await reader.readuntil(b"\n")) not in (b"\r\n", b"\n"):
                    head += line
                    if len(head) > HEADER_BYTES:
                        raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return head
        except asyncio.LimitOverrunError as error:
            raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from error

    async def _send(
        self,
        held: Held,
        writer: asyncio.StreamWriter,
        response: Response,
        request: Request | None,
    ) -> None:
        held.state, held.since = State.SENDING, self._loop.time()
        async with asyncio.timeout(self._limits.write_seconds) as limit:
            writer.write(status_and_headers(response, keep=request is not None and request.keep))
            if isinstance(response.body, AsyncGenerator):
                limit.reschedule(None)  # a stream has no end, and a client that reads is let be
                async with aclosing(response.body) as body:
                    if request is None or request.method != "HEAD":
                        await self._stream(held, writer, body)
            elif request is None or request.method != "HEAD":
                for piece in pieces_of(response.body):
                    writer.write(piece)
                    await self._drained(held, writer)
                    await asyncio.sleep(0)  # a client that reads fast must not keep the loop
            writer.transport.set_write_buffer_limits(high=1)  # with 0, TLS would never go on
            await self._drained(held, writer)
            writer.transport.set_write_buffer_limits(high=UNSENT_BYTES)

    async def _stream(
        self, held: Held, writer: asyncio.StreamWriter, body: AsyncGenerator[bytes, None]
    ) -> None:
        """Send what is made when it is made; in between the connection may make room."""
        held.answered = held.received()
        await self._drained(held, writer)
        held.state = State.WAITING
        async for piece in body:
            held.state = State.SENDING
            writer.write(piece)
            await self._drained(held, writer)
            held.state = State.WAITING

    async def _drained(self, held: Held, writer: asyncio.StreamWriter) -> None:
        """Wait until the client has read, which is progress; one that reads nothing is cut off."""
        async with asyncio.timeout(self._limits.stall_seconds):
            await writer.drain()
        held.since = self._loop.time()

    async def _closed(self, writer: asyncio.StreamWriter) -> None:
        """Close when the client has read everything, or cut it off."""
        async with asyncio.timeout(self._limits.stall_seconds):
            writer.close()
            await writer.wait_closed()

    async def _refuse(
        self,
        held: Held,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        refusal: Refusal,
    ) -> None:
        """Answer with an error, and let the client read it: a reset would take it away."""
        with suppress(OSError, TimeoutError):
            await self._send(held, writer, refusal.response, None)
            held.state = State.WAITING
            if writer.can_write_eof():
                writer.write_eof()
            async with asyncio.timeout(self._limits.linger_seconds):
                while await reader.read(HEADER_BYTES):
                    pass


def pieces_of(body: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a body in pieces that are small: a client that does not read holds one."""
    for piece in body:
        for start in range(0, len(piece), PIECE_BYTES):
            yield piece[start : start + PIECE_BYTES]


def certificate_names(certificate: object) -> frozenset[str]:
    """Return the common name and the alternative names of a client's certificate, if any."""
    if not isinstance(certificate, dict):
        return frozenset()
    common = (
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    )
    others = (value for _, value in certificate.get("subjectAltName", ()))
    return frozenset({*common, *others, ANY_CERTIFICATE})


ANY_CERTIFICATE: Final = "*certificate*"
"""Among the names of a client that has shown a certificate, even one without a name."""

"""One client: frames in, calls to the workers, replies and events out, keepalive both ways."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.rpc import FrameError, Frames, Header


MAX_REQUESTS = 5  # max_client_requests
KEEPALIVE_SECONDS = 5.0
KEEPALIVE_COUNT = 5
MAX_BACKLOG = 64 * 1024 * 1024  # bytes that a client leaves unread before its events are dropped

Payload = bytes | Sequence[bytes]


class Dispatch(Protocol):
    """What a connection needs of the server: somebody who takes its calls."""

    def __call__(self, connection: Connection, header: Header, payload: bytes) -> None:
        """Answer a call by `Connection.reply`, now or later."""
        ...


class Connection(asyncio.Protocol):
    """
    A client's end of the socket.

    It reads no further while `MAX_REQUESTS` calls are unanswered, keepalive included: a client
    that lets it come to that is dropped after 30 seconds, as libvirtd does.
    """

    def __init__(self, dispatch: Dispatch, lost: Callable[[Connection], None]) -> None:
        self.opened = False
        self.readonly = False
        self.callbacks: dict[int, tuple[int, bytes | None]] = {}  # event and domain by callback
        self._next_callback = 0
        self._dispatch = dispatch
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._frames = Frames()
        self._requests = 0
        self._outgoing: deque[tuple[Sequence[bytes], bool, int | None]] = deque()
        self._backlog = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._writer: asyncio.Task[None] | None = None
        self._pinger: asyncio.TimerHandle | None = None
        self._patience = KEEPALIVE_COUNT
        self._heard_at = 0.0
        self._reading = True
        self._closing = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        transport.set_write_buffer_limits(high=1 << 20)
        self._transport = transport
        if not self._thawed.is_set():
            self._want(False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Forget everything; calls that run go on and are answered to nobody."""
        self._transport = None
        if self._pinger is not None:
            self._pinger.cancel()
        if self._writer is not None:
            self._writer.cancel()
        self._outgoing.clear()
        self._lost(self)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Write on."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Cut frames and answer them."""
        self._frames.feed(data)
        self._read()

    # incoming

    def _read(self) -> None:
        try:
            while self._may_read() and (pair := next(self._frames, None)) is not None:
                self._take(*pair)
        except FrameError:
            self.abort()
            return
        self._want(self._may_read())

    def _may_read(self) -> bool:
        return self._requests < MAX_REQUESTS and self._thawed.is_set() and not self._closing

    def _want(self, more: bool) -> None:  # noqa: FBT001 - on or off
        """Read from the socket or leave it be."""
        transport = self._transport
        if transport is None or transport.is_closing() or more == self._reading:
            return
        self._reading = more
        if more:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _take(self, header: Header, payload: bytes) -> None:
        self._patience = KEEPALIVE_COUNT
        self._heard_at = asyncio.get_running_loop().time()
        if (header.program, header.version, header.type) == (
            rpc.KEEPALIVE_PROGRAM,
            rpc.KEEPALIVE_VERSION,
            rpc.MESSAGE,
        ):
            if header.procedure == rpc.PING:
                self._keepalive(rpc.PONG)
            return
        if header.type not in (rpc.CALL, rpc.CALL_WITH_FDS):
            return
        if header.type == rpc.CALL_WITH_FDS:
            if payload[:4] != b"\0\0\0\0":
                raise FrameError("file descriptors are not taken here")
            payload = payload[4:]
        self._requests += 1
        self._dispatch(self, header, payload)

    # outgoing

    def reply(
        self, header: Header, payload: Payload, *, ok: bool = True, cut_at: int | None = None
    ) -> None:
        """Answer a call; with `cut_at` hang up after that many bytes of the answer."""
        chunks = [payload] if isinstance(payload, bytes) else payload
        self._send(
            header._replace(type=rpc.REPLY, status=rpc.OK if ok else rpc.ERROR),
            chunks,
            counted=True,
            cut_at=cut_at,
        )

    def announce_too_much(self, header: Header) -> None:
        """Answer with a frame that says it is longer than libvirt allows, then hang up."""
        if self._transport is not None:
            head = header._replace(type=rpc.REPLY, status=rpc.OK)
            self._transport.write(rpc.frame(head, 2 * rpc.MAX_MESSAGE) + bytes(64))

    def message(self, procedure: int, payload: bytes) -> None:
        """Tell the client something it did not ask for."""
        if self._backlog > MAX_BACKLOG:
            return
        header = Header(rpc.REMOTE_PROGRAM, rpc.REMOTE_VERSION, procedure, rpc.MESSAGE, 1, rpc.OK)
        self._send(header, [payload])

    def _keepalive(self, procedure: int) -> None:
        header = Header(
            rpc.KEEPALIVE_PROGRAM, rpc.KEEPALIVE_VERSION, procedure, rpc.MESSAGE, 0, rpc.OK
        )
        self._send(header, [])

    def _send(
        self,
        header: Header,
        chunks: Sequence[bytes],
        *,
        counted: bool = False,
        cut_at: int | None = None,
    ) -> None:
        transport = self._transport
        if transport is None:
            return
        size = sum(map(len, chunks))
        head = rpc.frame(header, size)
        at_once = not self._outgoing and self._writer is None and self._thawed.is_set()
        if at_once and len(chunks) <= 1 and cut_at is None and self._writable.is_set():
            transport.write(b"".join((head, *chunks)))
            if counted:
                self._answered()
            return
        self._outgoing.append(((head, *chunks), counted, cut_at))
        self._backlog += size
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(self._write(transport), name="simulator writer")

    async def _write(self, transport: asyncio.Transport) -> None:
        """Write what is queued, never more than the client takes; cancelled when it is gone."""
        while self._outgoing:
            chunks, counted, left = self._outgoing.popleft()
            for chunk in chunks:
                await self._thawed.wait()
                await self._writable.wait()
                if left is not None and left < len(chunk):
                    transport.write(chunk[:left])
                    self.close()
                    return
                transport.write(chunk)
                self._backlog -= len(chunk)
                left = None if left is None else left - len(chunk)
            if counted:
                self._answered()
        self._writer = None
        if self._closing:
            self.close()

    def _answered(self) -> None:
        self._requests -= 1
        if self._closing:
            self.close()
        elif self._requests == MAX_REQUESTS - 1:
            # later: this may run inside `_read`
            asyncio.get_running_loop().call_soon(self._read)

    # life and death

    def start_keepalive(self, seconds: float = KEEPALIVE_SECONDS) -> None:
        """Ask the client whether it is there whenever it was silent for `seconds`."""
        if self._pinger is None:
            self._heard_at = asyncio.get_running_loop().time()
            self._ping_in(seconds, seconds)

    def _ping_in(self, wait: float, seconds: float) -> None:
        self._pinger = asyncio.get_running_loop().call_later(wait, self._ping, seconds)

    def _ping(self, seconds: float) -> None:
        if self._transport is None:
            return
        silent = asyncio.get_running_loop().time() - self._heard_at
        if self._patience == KEEPALIVE_COUNT and silent < seconds - 0.01:
            self._ping_in(seconds - silent, seconds)
            return
        if self._thawed.is_set():
            if self._patience == 0:
                self.abort()
                return
            self._patience -= 1
            self._keepalive(rpc.PING)
        self._ping_in(seconds, seconds)

    def new_callback(self, event: int, domain: bytes | None) -> int:
        """Register an event callback and give its number."""
        number = self._next_callback
        self._next_callback += 1
        self.callbacks[number] = (event, domain)
        return number

    def freeze(self) -> None:
        """Stop reading and writing, as a stopped process does."""
        self._thawed.clear()
        self._want(False)

    def thaw(self) -> None:
        """Go on."""
        self._thawed.set()
        self._read()

    def close_soon(self) -> None:
        """Close once the answer that is on its way is out."""
        self._closing = True

    def close(self) -> None:
        """Close after what is written already."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

"""One client's connection: splits frames, passes calls on, writes replies and events, pings."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.rpc import FrameError, Frames, Header


MAX_REQUESTS = 5  # max_client_requests
KEEPALIVE_SECONDS = 5.0
KEEPALIVE_COUNT = 5
AT_ONCE = 2  # chunks that are written without a task: a head and a payload in one piece
MAX_BACKLOG = 64 * 1024 * 1024  # bytes that a client leaves unread before its events are dropped

Payload = bytes | Sequence[bytes]


class _Frame(NamedTuple):
    """Bytes to write; `answers` whether a call is answered with them, `last` hangs up after."""

    chunks: Sequence[bytes]
    answers: bool
    last: bool


class Connection(asyncio.Protocol):
    """
    The daemon's side of a client's connection.

    Calls go to `dispatch`, which answers each by `reply`, now or later. No more is read while
    `MAX_REQUESTS` calls are unanswered, keepalive included: such a client is dropped after 30
    seconds, as libvirtd does.
    """

    def __init__(
        self,
        dispatch: Callable[[Connection, Header, bytes], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self.opened = False
        self.readonly = False
        self.callbacks: dict[int, tuple[int, bytes | None]] = {}  # event and domain by callback
        self._next_callback = 0
        self._dispatch = dispatch
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._frames = Frames()
        self._requests = 0
        self._outgoing: deque[_Frame] = deque()
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
        """Drop what is queued; running calls continue, and their answers are discarded."""
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
        """Continue to write."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Split frames and answer them."""
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
        """Start or stop reading from the socket."""
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
        """Answer a call; with `cut_at` send at most that many bytes of the frame and hang up."""
        chunks = [payload] if isinstance(payload, bytes) else payload
        header = header._replace(type=rpc.REPLY, status=rpc.OK if ok else rpc.ERROR)
        chunks = [rpc.frame(header, sum(map(len, chunks))), *chunks]
        if cut_at is not None:
            chunks = _cut(chunks, cut_at)
        self._send(_Frame(chunks, answers=True, last=cut_at is not None))

    def announce_too_much(self, header: Header) -> None:
        """Answer with a frame that announces more than libvirt allows, and hang up."""
        header = header._replace(type=rpc.REPLY, status=rpc.OK)
        chunks = [rpc.frame(header, 2 * rpc.MAX_MESSAGE), bytes(64)]
        self._send(_Frame(chunks, answers=True, last=True))

    def message(self, procedure: int, payload: bytes) -> None:
        """Send an event; it is dropped if the client leaves too much unread."""
        if self._backlog > MAX_BACKLOG:
            return
        header = Header(rpc.REMOTE_PROGRAM, rpc.REMOTE_VERSION, procedure, rpc.MESSAGE, 1, rpc.OK)
        chunks = [rpc.frame(header, len(payload)), payload]
        self._send(_Frame(chunks, answers=False, last=False))

    def _keepalive(self, procedure: int) -> None:
        header = Header(
            rpc.KEEPALIVE_PROGRAM, rpc.KEEPALIVE_VERSION, procedure, rpc.MESSAGE, 0, rpc.OK
        )
        self._send(_Frame([rpc.frame(header, 0)], answers=False, last=False))

    def _send(self, frame: _Frame) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        at_once = not self._outgoing and self._writer is None and self._thawed.is_set()
        if at_once and len(frame.chunks) <= AT_ONCE and self._writable.is_set():
            transport.write(b"".join(frame.chunks))
            self._written(frame)
            return
        self._outgoing.append(frame)
        self._backlog += sum(map(len, frame.chunks))
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(self._write(transport), name="simulator writer")

    async def _write(self, transport: asyncio.Transport) -> None:
        """Write what is queued, never more than the client reads; cancelled when it is gone."""
        while self._outgoing:
            frame = self._outgoing.popleft()
            for chunk in frame.chunks:
                await self._thawed.wait()
                await self._writable.wait()
                transport.write(chunk)
                self._backlog -= len(chunk)
            self._written(frame)
        self._writer = None

    def _written(self, frame: _Frame) -> None:
        if frame.answers:
            self._requests -= 1
        if frame.last or (self._closing and not self._outgoing):
            self._closing = True
            self._outgoing.clear()
            self.close()
        elif frame.answers and self._requests == MAX_REQUESTS - 1:
            # later: this may run inside `_read`
            asyncio.get_running_loop().call_soon(self._read)

    # life and death

    def start_keepalive(self, seconds: float = KEEPALIVE_SECONDS) -> None:
        """Ping the client whenever it was silent for `seconds`; drop it when it never answers."""
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
        """Register an event callback and return its number."""
        number = self._next_callback
        self._next_callback += 1
        self.callbacks[number] = (event, domain)
        return number

    def freeze(self) -> None:
        """Stop reading and writing, as a stopped process does."""
        self._thawed.clear()
        self._want(False)

    def thaw(self) -> None:
        """Read and write again."""
        self._thawed.set()
        self._read()

    def close_soon(self) -> None:
        """Close as soon as the queue and the next answer are written."""
        self._closing = True

    def close(self) -> None:
        """Close after everything written so far has been sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()


def _cut(chunks: Sequence[bytes], size: int) -> list[bytes]:
    """Return the first `size` bytes."""
    kept = []
    for chunk in chunks:
        kept.append(chunk[:size])
        size -= len(kept[-1])
    return kept

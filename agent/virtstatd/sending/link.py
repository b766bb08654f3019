"""Connections that are opened when needed and dropped at the first fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

from virtstatd.errors import TryLater, plain_reason


CLOSE_SECONDS = 2.0
REASON_CHARACTERS = 256

FIX_SECONDS = 30.0
"""Pause after a failure that a person has to fix; nothing was sent, so no batch is lost."""

CONNECT_SECONDS = 60.0
"""When a connection is given up that its own limits did not end."""

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class KeptConnection(Generic[T]):
    """
    Keep one connection open between sends.

    `connect` opens one, or raises and leaves nothing open. It runs in a task of its own: where the
    answers of a far destination take longer together than one attempt may, the next attempt goes on
    waiting for the same connection. `close` may take long or never return: it runs in a task as
    well, for `close_seconds` at most.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[T]],
        close: Callable[[T], Awaitable[None]],
        alive: Callable[[T], bool],
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._connect = connect
        self._close = close
        self._alive = alive
        self._close_seconds = close_seconds
        self._connection: T | None = None
        self._connecting: asyncio.Task[T] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[T]:
        """Yield a connection; one whose block was left by an exception is not used again."""
        if self._connection is not None and not self._alive(self._connection):
            self.drop()
        if self._connection is None:
            self._connection = await self._opened()
        try:
            yield self._connection
        except BaseException:
            self.drop()
            raise

    async def _opened(self) -> T:
        """Wait for the connection that is being opened, by this attempt or by an earlier one."""
        task = self._connecting
        if task and _succeeded(task) and not self._alive(task.result()):
            self._connection, self._connecting = task.result(), None  # it was lost unused
            self.drop()
        if self._connecting is None:
            await self._closed()  # so that no more than two are open at once
            self._connecting = asyncio.create_task(self._connected(), name="link connecting")
        task = self._connecting
        await asyncio.wait({task})  # cancelled here, the connection is the next attempt's
        self._connecting = None
        return task.result()

    async def _connected(self) -> T:
        try:
            async with asyncio.timeout(CONNECT_SECONDS) as limit:
                return await self._connect()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TryLater(f"no connection within {CONNECT_SECONDS:g} s") from error

    def drop(self) -> None:
        """Close the connection in the background."""
        if self._connection is not None:
            task = asyncio.create_task(self._end(self._connection), name="link closing")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._connection = None

    async def close(self) -> None:
        """Close, and wait for all connections that were dropped."""
        if task := self._connecting:
            self._connecting = None
            task.cancel()
            await asyncio.wait({task}, timeout=self._close_seconds)
            if _succeeded(task):
                self._connection = task.result()
        self.drop()
        await self._closed()

    async def _closed(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing)

    async def _end(self, connection: T) -> None:
        with suppress(Exception):  # the connection is given up anyway
            async with asyncio.timeout(self._close_seconds):
                await self._close(connection)


def _succeeded(task: asyncio.Task[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


class Stream:
    """Text over a stream without confirmation: sent means that the kernel has it."""

    def __init__(self, name: str, connect: Callable[[], Awaitable[Streams]]) -> None:
        self._name = name
        self._link = KeptConnection(connect, _cut, _is_up)
        self.close = self._link.close

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Write all pieces; after a failure all of them go to the next connection."""
        try:
            async with self._link.held() as (_, writer):
                writer.transport.set_write_buffer_limits(high=0)  # sent is what the kernel has
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)  # a fast reader must not keep the loop
        except OSError as error:
            raise TryLater(f"{self._name}: {error.strerror or error}") from error


async def _cut(streams: Streams) -> None:
    streams[1].transport.abort()


def _is_up(streams: Streams) -> bool:
    reader, writer = streams
    return not reader.at_eof() and not writer.is_closing()


def quieten(library: str) -> None:
    """Silence the log of a library that raises what it logs as well."""
    logging.getLogger(library).setLevel(logging.CRITICAL + 1)


def reason_of(error: Exception) -> str:
    """Return the text of an exception in one line of at most 256 characters."""
    text = plain_reason(error)
    return " ".join(text.split())[:REASON_CHARACTERS]

"""A connection that is made when it is needed, and given up at the first fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar


CLOSE_SECONDS = 2.0
TOLD_CHARACTERS = 256

MEND_SECONDS = 30.0
"""Pause after a user was refused before anything was sent: no batch is lost by that."""

Connection = TypeVar("Connection")


class Link(Generic[Connection]):
    """
    Hold one connection between sends.

    `connect` makes one or raises, and leaves nothing behind then. `close` may take its time, or
    never return: it is waited for by nobody but the end, and within a bound.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        close: Callable[[Connection], Awaitable[None]],
        alive: Callable[[Connection], bool],
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._connect = connect
        self._close = close
        self._alive = alive
        self._close_seconds = close_seconds
        self._connection: Connection | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Connection]:
        """Yield a connection; one whose block was left by an exception is not used again."""
        if self._connection is not None and not self._alive(self._connection):
            self.drop()
        if self._connection is None:
            await self._closed()  # so that no more than two are open at once
            self._connection = await self._connect()
        try:
            yield self._connection
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            task = asyncio.create_task(self._end(self._connection), name="link closing")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._connection = None

    async def close(self) -> None:
        """Close, and wait for what was dropped before."""
        self.drop()
        await self._closed()

    async def _closed(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing)

    async def _end(self, connection: Connection) -> None:
        with suppress(Exception):  # it has failed before, or nobody wants it any more
            async with asyncio.timeout(self._close_seconds):
                await self._close(connection)


def quieten(library: str) -> None:
    """Keep a library's own log still: what it has to say is raised as well, and told once."""
    logging.getLogger(library).setLevel(logging.CRITICAL + 1)


def told(error: Exception) -> str:
    """Return what a library says of its fault, in one line."""
    text = str(error) or type(error).__name__
    return " ".join(text.split())[:TOLD_CHARACTERS]

"""The daemon's socket: accepts connections and passes their calls to the workers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from virtstatd_simulator.wire.connection import Connection
from virtstatd_simulator.wire.rpc import Header
from virtstatd_simulator.wire.workers import Workers


class Answers(Protocol):
    """Answers the calls of all connections."""

    def urgent(self, procedure: int) -> bool:
        """Return whether a call may use the workers that are kept for urgent ones."""
        ...

    def answer(
        self, connection: Connection, header: Header, payload: bytes
    ) -> Coroutine[None, None, None] | None:
        """Answer a call by `Connection.reply`, at once or in the coroutine that is returned."""
        ...


class RestartError(Exception):
    """Reports in one sentence why the daemon cannot restart."""


class Server:
    """libvirtd's socket at `path`, its connections and its workers."""

    def __init__(self, path: Path, answers: Answers) -> None:
        self.path = path
        self.workers = Workers()
        self.connections: set[Connection] = set()
        self.frozen = False
        self._answers = answers
        self._server: asyncio.AbstractServer | None = None
        self._restarting = False
        self._closed = False

    async def open(self) -> None:
        """Bind the socket, replacing one that a dead process left, and accept clients."""
        listener = claimed(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connect, sock=listener, backlog=512)

    async def close(self) -> None:
        """Disconnect every client and remove the socket; a restart in progress ends too."""
        self._closed = True
        await self._die()

    async def _die(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            with suppress(OSError):
                self.path.unlink()
        for connection in list(self.connections):
            connection.abort()
        await self.workers.cancel()
        await asyncio.sleep(0)  # transports report their end in the next turn of the loop

    async def restart(self, down_seconds: float = 0.0) -> None:
        """
        Close and open again: connections, callbacks and running calls end, guests keep running.

        Raises `RestartError` while another restart is in progress, and if the socket cannot be
        bound again: the daemon then stays down until the next restart.
        """
        if self._restarting:
            raise RestartError("the daemon is restarting already")
        self._restarting = True
        try:
            await self._die()
            self.thaw()
            self.workers = Workers()
            await asyncio.sleep(down_seconds)
            if not self._closed:
                await self.open()
        except OSError as error:
            reason = error.strerror or str(error)
            raise RestartError(f"the daemon cannot listen at {self.path}: {reason}") from error
        finally:
            self._restarting = False

    def freeze(self) -> None:
        """Stop reading, writing and answering, as a stopped process does; clients can connect."""
        self.frozen = self.workers.paused = True
        for connection in self.connections:
            connection.freeze()

    def thaw(self) -> None:
        """Continue."""
        self.frozen = self.workers.paused = False
        for connection in list(self.connections):
            connection.thaw()
        self.workers.pump()

    def _connect(self) -> Connection:
        connection = Connection(self._dispatch, self.connections.discard)
        self.connections.add(connection)
        if self.frozen:
            connection.freeze()
        return connection

    def _dispatch(self, connection: Connection, header: Header, payload: bytes) -> None:
        job = partial(self._answers.answer, connection, header, payload)
        self.workers.submit(job, urgent=self._answers.urgent(header.procedure))


def claimed(path: Path) -> socket.socket:
    """
    Bind a socket at a path, replacing one that a dead process left.

    Raises `OSError` for a file, and for a socket that a living process listens at.
    """
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as visitor:
            try:
                visitor.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    return listener

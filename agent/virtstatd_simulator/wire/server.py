"""The daemon: listens, takes calls from its connections, lets workers answer them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path

from virtstatd_simulator.answers import table
from virtstatd_simulator.answers.calls import Call, Procedure
from virtstatd_simulator.faults.faults import Fault, Faults
from virtstatd_simulator.guests.events import WIRE, Event
from virtstatd_simulator.guests.host import Host
from virtstatd_simulator.wire import rpc
from virtstatd_simulator.wire.connection import Connection, Payload
from virtstatd_simulator.wire.rpc import DENIED, FROM_DOMAIN, FROM_RPC, RPC, Header, RpcError
from virtstatd_simulator.wire.workers import Workers
from virtstatd_simulator.wire.xdr import Reader, XdrError


class Server:
    """
    libvirtd's socket in front of a simulated host.

    `job_wait_seconds` is how long a call without NOWAIT waits for the job of a guest.
    """

    def __init__(
        self, host: Host, path: Path, *, readonly: bool = False, job_wait_seconds: float = 30.0
    ) -> None:
        self.host = host
        self.path = path
        self.readonly = readonly
        self.job_wait_seconds = job_wait_seconds
        self.faults = Faults()
        self.workers = Workers()
        self.connections: set[Connection] = set()
        self.calls: dict[str, int] = {}
        self.frozen = False
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Bind the socket, in place of one that a dead process left, and take clients."""
        listener = claimed(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connect, sock=listener, backlog=512)

    async def close(self) -> None:
        """Hang up on everybody and remove the socket."""
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
        """Die and come back: connections, callbacks and running calls are gone, guests live on."""
        await self.close()
        self.thaw()
        self.workers = Workers()
        await asyncio.sleep(down_seconds)
        await self.open()

    def freeze(self) -> None:
        """Do nothing any more, as a stopped process; clients still connect, to nobody."""
        self.frozen = self.workers.paused = True
        for connection in self.connections:
            connection.freeze()

    def thaw(self) -> None:
        """Go on."""
        self.frozen = self.workers.paused = False
        for connection in list(self.connections):
            connection.thaw()
        self.workers.pump()

    def tell(self, event: Event) -> None:
        """Send an event to every callback that asked for it."""
        for connection in self.connections:
            for callback, (wanted, domain) in connection.callbacks.items():
                if wanted == event.id and domain in (None, event.uuid):
                    connection.message(WIRE[event.id].procedure, event.pack(callback))

    def _connect(self) -> Connection:
        connection = Connection(self._dispatch, self.connections.discard)
        connection.readonly = self.readonly
        self.connections.add(connection)
        if self.frozen:
            connection.freeze()
        return connection

    def _dispatch(self, connection: Connection, header: Header, payload: bytes) -> None:
        procedure = table.find(header.procedure)
        job = partial(self._answer, connection, header, payload, procedure)
        self.workers.submit(job, urgent=procedure is not None and procedure.urgent)

    def _answer(
        self, connection: Connection, header: Header, payload: bytes, procedure: Procedure | None
    ) -> Coroutine[None, None, None] | None:
        """Answer a call at once, or give what remains to be awaited."""
        try:
            known = _checked(header, procedure)
            self.calls[known.name] = self.calls.get(known.name, 0) + 1
            faults = self.faults.strike(header.procedure)
            call = Call(
                header.procedure,
                Reader(payload),
                connection,
                self.host,
                self.job_wait_seconds,
                tuple(faults),
            )
            _permit(call, known)
            if faults:
                return self._suffer(call, header, known)
            answer = known.handler(call)
        except (RpcError, XdrError) as error:
            _refuse(connection, header, error)
            return None
        if isinstance(answer, Coroutine):
            return self._finish(connection, header, answer)
        connection.reply(header, answer)
        return None

    async def _finish(
        self, connection: Connection, header: Header, answer: Coroutine[None, None, Payload]
    ) -> None:
        try:
            payload = await answer
        except (RpcError, XdrError) as error:
            _refuse(connection, header, error)
        else:
            connection.reply(header, payload)

    async def _suffer(self, call: Call, header: Header, procedure: Procedure) -> None:
        """Answer under faults."""
        faults: dict[str, Fault] = {fault.kind: fault for fault in call.faults}
        connection = call.connection
        try:
            if slow := faults.get("slow"):
                await asyncio.sleep(slow.seconds)
            _fail(faults.get("fail"), faults.get("oversize"))
            answer = procedure.handler(call)
            payload = await answer if isinstance(answer, Coroutine) else answer
        except (RpcError, XdrError) as error:
            _refuse(connection, header, error)
            return
        if "oversize" in faults:
            connection.announce_too_much(header)
        else:
            cut = faults.get("cut")
            connection.reply(header, payload, cut_at=cut.after_bytes if cut else None)


def claimed(path: Path) -> socket.socket:
    """
    Bind a socket at a path, in place of one that a dead process left.

    Raises `OSError` where anything else is there: a file, or a socket that somebody listens at.
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


def _fail(fail: Fault | None, oversize: Fault | None) -> None:
    if fail is not None:
        raise RpcError(fail.code, fail.domain, fail.message)
    if oversize is not None and not oversize.frame:
        raise RpcError(RPC, FROM_RPC, "Unable to encode message payload")


def _permit(call: Call, procedure: Procedure) -> None:
    if not procedure.early:
        call.require_open()
    if procedure.writes and call.connection.readonly:
        function = "vir" + procedure.name.title().replace("_", "")
        raise RpcError(DENIED, FROM_DOMAIN, f"read only access prevents {function}")


def _checked(header: Header, procedure: Procedure | None) -> Procedure:
    if (header.program, header.version) != (rpc.REMOTE_PROGRAM, rpc.REMOTE_VERSION):
        text = f"Cannot find program {header.program} version {header.version}"
        raise RpcError(RPC, FROM_RPC, text)
    if header.status != rpc.OK:
        raise RpcError(RPC, FROM_RPC, f"Unexpected message status {header.status}")
    if procedure is None:
        raise RpcError(RPC, FROM_RPC, f"unknown procedure: {header.procedure}")
    return procedure


def _refuse(connection: Connection, header: Header, error: RpcError | XdrError) -> None:
    if isinstance(error, XdrError):
        error = RpcError(RPC, FROM_RPC, "Unable to decode message payload")
    connection.reply(header, error.pack(), ok=False)

"""A simulated libvirtd as one block: `async with Simulator(socket=path) as simulator`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import quote

import uvloop

from virtstatd.errors import StartError
from virtstatd_simulator.faults.answering import Answering
from virtstatd_simulator.faults.control import MAX_LINE, Control, Json
from virtstatd_simulator.guests.events import WIRE, Event
from virtstatd_simulator.guests.host import Host
from virtstatd_simulator.guests.profiles import PROFILES
from virtstatd_simulator.options import Options
from virtstatd_simulator.wire.server import Server, claimed


class Simulator:
    """
    A simulated libvirtd that lives as long as its `async with` block.

    What to simulate is given as `Options` or as their fields: `Simulator(socket=path, domains=60)`.
    `clock` is the time, in seconds, that the guests' counters follow. Entering raises `StartError`
    when a socket cannot be bound or a file cannot be read.
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        **fields: object,
    ) -> None:
        if options is None:
            options = Options(**fields)  # type: ignore[arg-type]  # checked by Options itself
        self.options = options
        self.host = Host(
            PROFILES[options.profile],
            seed=options.seed,
            release=options.libvirt,
            cpus=options.cpus,
            percpu=options.percpu,
            clock=clock,
            emit=self._send,
        )
        self.answering = Answering(self.host, options.job_wait_seconds)
        self.server = Server(options.socket, self.answering)
        self.control = Control(self.server, self.answering)
        self._control_server: asyncio.AbstractServer | None = None

    @property
    def uri(self) -> str:
        """Return what clients open."""
        return f"qemu+unix:///system?socket={quote(str(self.options.socket.absolute()))}"

    async def command(self, do: str, **arguments: object) -> Json:
        """Carry out a command of the control socket; raises `CommandError`."""
        return await self.control.carry_out({"do": do, **arguments})

    def _send(self, event: Event) -> None:
        """Send an event to all callbacks that asked for it."""
        for connection in self.server.connections:
            for callback, (wanted, domain) in connection.callbacks.items():
                if wanted == event.id and domain in (None, event.uuid):
                    connection.message(WIRE[event.id].procedure, event.pack(callback))

    async def __aenter__(self) -> Self:
        options = self.options
        at = options.socket
        try:
            if options.replay is not None:
                at = options.replay
                self.host.replay(at)
            at = options.socket
            self.host.populate(options.domains)
            await self.server.open()
            if options.control is not None:
                at = options.control
                self._control_server = await asyncio.start_unix_server(
                    self.control.serve, sock=claimed(at), limit=MAX_LINE
                )
        except (OSError, ValueError) as error:
            await self.__aexit__(None, None, None)
            reason = str((isinstance(error, OSError) and error.strerror) or error)
            where = "" if str(at) in reason else f"{at}: "
            raise StartError(f"the simulator cannot start: {where}{reason}") from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._control_server is not None and self.options.control is not None:
            self._control_server.close()
            self.options.control.unlink(missing_ok=True)
        await self.control.close()
        await self.server.close()


async def serve(options: Options, until: int | None = None) -> None:
    """
    Simulate until SIGINT, SIGTERM, SIGHUP or the end of the descriptor `until`.

    The first line of output, a JSON object with `uri` and `domains`, is written once clients can
    connect.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    if until is not None:
        loop.add_reader(until, stopped.set)
    async with Simulator(options) as simulator:
        ready = {"uri": simulator.uri, "domains": len(simulator.host.guests)}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def run(options: Options, until: int | None = None) -> None:
    """Simulate in this process as `serve` does; raises `StartError`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options, until))

"""
The service: builds both sides from the configuration, nests their lifetimes and runs them.

    collectors ──▶ one source per series ──▶ outlets ──▶ sinks
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collector import Row, Up
from virtstatd.config.file import Config, load_config
from virtstatd.errors import ConfigError
from virtstatd.hypervisor.loop import events_on
from virtstatd.pipeline.one_source import OneSource
from virtstatd.pipeline.outlet import Outlet
from virtstatd.runtime.clock import Clocks
from virtstatd.runtime.logs import Logs
from virtstatd.runtime.loop_lag import LoopLag
from virtstatd.runtime.waiting import first_of, until_stopped
from virtstatd.service.collecting import Collecting, collecting
from virtstatd.service.garbage import short_searches
from virtstatd.service.notify import Notify
from virtstatd.service.sending import draining, open_outlet


CLOSE_SECONDS = 1.0
"""What a sink or a lane gets to close; what takes longer ends with the process."""

STATUS_SECONDS = 5.0
"""How often the status line is brought up to date."""


class Ending(Enum):
    """Why the agent ended: it was told to, or it starts anew with a changed configuration."""

    STOPPED = "stopped"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class Ended:
    """How the agent ended, and the listening sockets that its next run takes over, by sink."""

    why: Ending
    sockets: Mapping[str, int]


async def serve(config: Config, path: Path | None, logs: Logs, notify: Notify) -> Ended:
    """
    Run until SIGTERM, SIGINT or a SIGHUP with a good file; then let what was taken flow out.

    Raises `StartError` when a sink cannot work here.
    """
    log = logs.log
    loop = asyncio.get_running_loop()
    events = events_on(loop)
    stop = asyncio.Event()
    lag = LoopLag()
    sockets: dict[str, socket.socket] = {}
    drain_seconds = max(0.5, config.agent.drain_seconds - CLOSE_SECONDS)
    async with AsyncExitStack() as sinks:
        sinks.enter_context(short_searches())
        outlets = [await open_outlet(sinks, each, config, log, sockets) for each in config.sinks]
        passing = OneSource([outlet.offer for outlet in outlets], log)
        emit = lag.measuring(passing)
        up = Up()
        clocks = Clocks(log, up.again)

        def own() -> Iterator[Row]:
            yield "loop_lag_max", {}, lag.take()
            yield "loop_lag", {}, lag.total
            yield "clock_steps", {}, clocks.steps
            yield "log_dropped", {}, logs.dropped

        numbers = [own, passing.numbers, *(outlet.numbers for outlet in outlets)]
        async with (
            draining(outlets, drain_seconds),
            collecting(config, catalogs.shipped(), emit, log, numbers, up=up) as left,
            asyncio.TaskGroup() as tasks,
        ):
            ending = Signals(config, path, sockets, stop, log, notify)
            tasks.create_task(lag.run(stop), name="loop lag")
            tasks.create_task(clocks.run(stop), name="clocks")
            tasks.create_task(left.hypervisor.connection.run(stop), name="connection")
            if left.budget:
                tasks.create_task(left.budget.run(stop), name="budget")
            for each in left.collectors:
                running = each.run(emit, up, stop)
                tasks.create_task(until_stopped(running, stop), name=f"collector {each.name}")
            if notify.wanted:
                tasks.create_task(watch(left, outlets, notify, stop), name="watchdog")
            notify.ready()
            log.info("agent.started", sinks=[outlet.name for outlet in outlets])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await events.drain()
    log.info("agent.stopped", ending=ending.why.value)
    return Ended(ending.why, ending.kept)


class Signals:
    """What SIGTERM, SIGINT and SIGHUP do: end the stream, or end it to begin anew."""

    def __init__(
        self,
        config: Config,
        path: Path | None,
        sockets: Mapping[str, socket.socket],
        stop: asyncio.Event,
        log: FilteringBoundLogger,
        notify: Notify,
    ) -> None:
        self.why = Ending.STOPPED
        self.kept: dict[str, int] = {}
        self._config = config
        self._path = path
        self._sockets = sockets
        self._stop = stop
        self._log = log
        self._notify = notify
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        loop.add_signal_handler(signal.SIGINT, self.end)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def end(self) -> None:
        """Drain and stop; whoever asks twice does not want to wait for the drain."""
        if self._stop.is_set():
            os._exit(1)
        self._notify.stopping()
        self._stop.set()

    def reload(self) -> None:
        """Begin anew with the file as it is now; a bad one changes nothing and says why."""
        if self._stop.is_set():
            return
        try:
            config = load_config(self._path)
        except ConfigError as error:
            self._log.error("config.rejected", faults=error.faults)
            return
        before = {each.name: each.sink for each in self._config.sinks}
        unchanged = [each.name for each in config.sinks if before.get(each.name) == each.sink]
        kept = [name for name in unchanged if name in self._sockets]
        self.kept = {name: os.dup(self._sockets[name].fileno()) for name in kept}
        self.why = Ending.RELOAD
        self._notify.reloading()
        self._stop.set()


async def watch(
    left: Collecting, outlets: Sequence[Outlet], notify: Notify, stop: asyncio.Event
) -> None:
    """
    Report to systemd that the loop and the tickers go on, and what the status is.

    Neither libvirt nor a sink counts: a restart would fix neither.
    """
    limit = notify.watchdog_seconds()
    period = min(limit / 3, STATUS_SECONDS) if limit else STATUS_SECONDS
    up = left.hypervisor.up
    turning = up.turning()
    while not stop.is_set():
        if left.ticking(time.monotonic()):
            notify.watchdog()
        state = "up" if up else "down"
        failing = [outlet.name for outlet in outlets if outlet.failing]
        sinks = f"{len(outlets)} sinks" + (f", failing: {', '.join(failing)}" if failing else "")
        notify.status(f"libvirt {state}, {len(left.hypervisor.inventory)} domains, {sinks}")
        turning.clear()
        await first_of(stop, turning, seconds=period)

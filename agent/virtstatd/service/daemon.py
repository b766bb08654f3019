"""
The assembler: builds every object from the configuration and nests their lifetimes.

    connection ──▶ inventory ◀── describer
                       │
    ticker ──▶ poller ─┴▶ lanes ▶ bulk ▶ decoder ──▶ cover ──▶ fanout ──▶ outlet ──▶ sink
                                        local lane ────▶ ┘       ▲
                                        agent numbers ───────────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collect.bulk.tier import LIFETIME_INTERVALS
from virtstatd.collect.own import AgentNumbers, LoopLag
from virtstatd.config.file import Config, load
from virtstatd.errors import ConfigError
from virtstatd.hypervisor.loop import events_on
from virtstatd.model import Batch
from virtstatd.pipeline.fanout import draining
from virtstatd.pipeline.outlet import Outlet
from virtstatd.runtime.clock import Clocks
from virtstatd.runtime.logs import Logs
from virtstatd.runtime.waiting import first_of, until_stopped
from virtstatd.service.collecting import Asking, asking
from virtstatd.service.garbage import short_searches
from virtstatd.service.notify import Notify
from virtstatd.service.sending import open_outlet


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
    catalog = catalogs.load()
    drain_seconds = max(0.5, config.agent.drain_seconds - CLOSE_SECONDS)
    async with AsyncExitStack() as sinks:
        sinks.enter_context(short_searches())
        outlets = [await open_outlet(sinks, each, config, log, sockets) for each in config.sinks]
        async with (
            draining(outlets, drain_seconds) as fanout,
            asking(config, catalog, emit := lag.measuring(fanout), log) as ask,
            asyncio.TaskGroup() as tasks,
        ):

            def awake() -> None:  # what was read before is no longer current
                ask.poller.nudge.set()
                ask.reader.send()

            clocks = Clocks(log, awake)
            numbers = AgentNumbers(
                catalog,
                ask.poller,
                ask.connection,
                ask.lanes,
                ask.inventory,
                outlets,
                lag,
                lambda: ask.reader.reads,
                lambda: len(ask.unknown),
                lambda: clocks.steps,
                lambda: logs.dropped,
                ask.budget,
                ask.cpu_stats,
            )
            ending = Signals(config, path, sockets, stop, log, notify)

            def up() -> bool:
                return ask.connection.up

            for name, running in {
                "loop lag": lag.run(stop),
                "clocks": clocks.run(stop),
                "connection": ask.connection.run(stop),
                "poller": ask.poller.run(stop, up),
                "reader": until_stopped(ask.reader.run(stop), stop),
                **({"local": ask.local.run(stop)} if ask.local else {}),
                **({"budget": ask.budget.run(stop)} if ask.budget else {}),
                **(
                    {"cpu stats": until_stopped(ask.cpu_stats.run(stop, up), stop)}
                    if ask.cpu_stats
                    else {}
                ),
                "numbers": report(numbers, emit, config.agent.interval_seconds, stop, ask.changed),
                **({"watchdog": watch(ask, outlets, notify, stop)} if notify.wanted else {}),
            }.items():
                tasks.create_task(running, name=name)
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
            config = load(self._path)
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


async def report(
    numbers: AgentNumbers,
    emit: Callable[[Batch], None],
    seconds: float,
    stop: asyncio.Event,
    changed: asyncio.Event,
) -> None:
    """Send the agent's own numbers on its interval, and at once when libvirt comes or goes."""
    while not stop.is_set():
        emit(numbers.batch(LIFETIME_INTERVALS * seconds))
        changed.clear()
        await first_of(stop, changed, seconds=seconds)
    emit(numbers.batch(LIFETIME_INTERVALS * seconds))


async def watch(
    ask: Asking, outlets: Sequence[Outlet], notify: Notify, stop: asyncio.Event
) -> None:
    """
    Tell systemd that the loop and the ticker go on, and what the status is.

    Neither libvirt nor a sink counts: a restart would mend neither.
    """
    limit = notify.watchdog_seconds()
    period = min(limit / 3, STATUS_SECONDS) if limit else STATUS_SECONDS
    while not stop.is_set():
        if ask.poller.ticking(time.monotonic()):
            notify.watchdog()
        state = "up" if ask.connection.up else "down"
        failing = [outlet.name for outlet in outlets if outlet.failing]
        sinks = f"{len(outlets)} sinks" + (f", failing: {', '.join(failing)}" if failing else "")
        notify.status(f"libvirt {state}, {len(ask.inventory)} domains, {sinks}")
        ask.turned.clear()
        await first_of(stop, ask.turned, seconds=period)

"""
The service: builds both sides from the configuration, nests their lifetimes and runs them.

    collectors ──▶ one source per series ──▶ routes ──▶ outlets ──▶ sinks
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collector import Row, Up
from virtstatd.config.file import Config, Loaded
from virtstatd.hypervisor.loop import events_on
from virtstatd.pipeline.outlet import Outlet
from virtstatd.pipeline.spool.later import set_later_aside
from virtstatd.runtime.clock import Clocks
from virtstatd.runtime.logs import Logs
from virtstatd.runtime.loop_lag import LoopLag
from virtstatd.runtime.waiting import first_of, until_stopped
from virtstatd.service.collecting import Collecting, collecting
from virtstatd.service.first_words import report_found
from virtstatd.service.garbage import short_searches
from virtstatd.service.notify import Notify
from virtstatd.service.passing import passing_on
from virtstatd.service.reload import Ended, RunControl
from virtstatd.service.sending import (
    draining,
    open_outlet,
    orphaned_spools,
    routed,
    spool_directory,
)
from virtstatd.service.signals import Signals
from virtstatd.service.watching import watching_over
from virtstatd.service.web import Web


CLOSE_SECONDS = 1.0
"""Time for a sink or a lane to close; a slower one ends with the process."""

STATUS_SECONDS = 5.0
"""How often the status line is updated."""


NAMED_MAX = 5
NAME_MAX = 40
"""So many names are in the status line, and so many characters of each."""


async def serve(
    running: Loaded, logs: Logs, notify: Notify, signals: Signals, history: bytes = b""
) -> Ended:
    """
    Run until SIGTERM, SIGINT or a SIGHUP with a valid file; then drain the sinks' queues.

    `history` is that of the run before a reload. Raises `StartError` if a sink cannot work here.
    """
    log, config = logs.log, running.config
    control = RunControl(running, signals, log, notify)
    stop = control.stop
    events = events_on(asyncio.get_running_loop())
    lag, up = LoopLag(), Up()
    drain_seconds = max(0.5, config.agent.drain_seconds - CLOSE_SECONDS)
    notify.watchdog()  # the last run's was a while ago
    async with AsyncExitStack() as sinks:
        sinks.enter_context(short_searches())
        watch = Watch(notify, control, up)
        if notify.wanted:
            await sinks.enter_async_context(watch.going_on())
        await keep_later_spools(config, log)
        web = Web(config, log)
        outlets = [
            await open_outlet(sinks, each, config, log, control.sockets, web.routes)
            for each in config.sinks
        ]
        watching = watching_over(config, outlets, log, web, history)
        await sinks.enter_async_context(web.listening(control.sockets))
        routes = [routed(*each) for each in zip(config.sinks, outlets, strict=True)]
        await warn_of_orphans(config, log)
        taking = [*routes, web.seen, *([watching.insight.put] if watching else [])]
        passing = passing_on(config, taking, log)
        emit = lag.measuring(passing.emit)
        clocks = Clocks(log, up.again)

        def own() -> Iterator[Row]:
            yield "loop_lag_max", {}, lag.take()
            yield "loop_lag", {}, lag.total
            yield "clock_steps", {}, clocks.steps
            yield "log_dropped", {}, logs.dropped

        numbers = [own, web.numbers, *passing.numbers, *(outlet.numbers for outlet in outlets)]
        async with (
            draining(outlets, drain_seconds, routes),
            collecting(
                config, catalogs.shipped(), emit, log, numbers, up=up, left=passing.left
            ) as left,
        ):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(until_stopped(control.run(), stop), name="reload")
                tasks.create_task(lag.run(stop), name="loop lag")
                tasks.create_task(clocks.run(stop), name="clocks")
                if watching:
                    watching.begin(tasks, left, stop)
                left.start(tasks, up, stop)
                watch.started(outlets, left)
                notify.ready()
                names = [outlet.name for outlet in outlets]
                found = report_found(left, up, names, web.page, log, stop)
                tasks.create_task(found, name="first words")
                log.info("agent.started", sinks=names)
            if accepted := control.ended().accepted:
                left.end_unwanted(accepted.config.filter)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await events.drain()
    log.info("agent.stopped", ending=control.why.value)
    return control.ended(watching.insight.history if watching else None)


async def keep_later_spools(config: Config, log: FilteringBoundLogger) -> None:
    """Set aside, and log, the spools that only a later version of virtstatd can read."""
    spools = [spool_directory(each, config) for each in config.sinks if each.outlet.spool_bytes]
    for spool, kept in await asyncio.to_thread(lambda: list(set_later_aside(spools))):
        log.warning("spool.kept", name=spool.name, directory=str(kept))


async def warn_of_orphans(config: Config, log: FilteringBoundLogger) -> None:
    """Log the spools with batches that no sink will send."""
    for orphan in await asyncio.to_thread(orphaned_spools, config):
        log.warning(
            "spool.orphaned",
            name=orphan.name,
            batches=orphan.waiting.batches if orphan.waiting else None,
            disk_bytes=orphan.disk_bytes,
        )


class Watch:
    """
    Reports to systemd that the loop and the tickers run, and the status line.

    Neither libvirt nor a sink matters: a restart would fix neither. During shutdown, which has its
    own time limits, only the loop matters.
    """

    def __init__(self, notify: Notify, control: RunControl, up: Up) -> None:
        self._notify = notify
        self._control = control
        self._up = up
        self._turned = up.turning()
        self._outlets: Sequence[Outlet] = ()
        self._left: Collecting | None = None

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Report within the block, from `started` on."""
        task = asyncio.create_task(self._run(), name="watchdog")
        try:
            yield
        finally:
            task.cancel()

    def started(self, outlets: Sequence[Outlet], left: Collecting) -> None:
        """Report from now on: the service manager limits how long a start may take."""
        self._outlets, self._left = outlets, left
        self._turned.set()

    async def _run(self) -> None:
        limit = self._notify.watchdog_seconds()
        period = min(limit / 3, STATUS_SECONDS) if limit else STATUS_SECONDS
        while True:
            if self._left is not None:
                if self._control.stop.is_set() or self._left.ticking(time.monotonic()):
                    self._notify.watchdog()
                self._notify.status(self._status(self._left))
            self._turned.clear()
            await first_of(self._turned, seconds=period)

    def _status(self, left: Collecting) -> str:
        state = "up" if self._up else "down"
        parts = [f"libvirt is {state}", _counted(len(left.hypervisor.inventory), "guest")]
        if silent := left.unresponsive():
            do = "does" if len(silent) == 1 else "do"
            parts.append(f"{len(silent)} of them {do} not answer ({_named(silent)})")
        parts.append(_counted(len(self._outlets), "sink"))
        if failing := [outlet.name for outlet in self._outlets if outlet.failing]:
            parts.append(f"{len(failing)} failing ({_named(failing)})")
        if self._control.rejected:
            parts.append("the last reload was rejected")
        return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _named(names: Sequence[str]) -> str:
    """Return the first names; they come from guests' owners, and the line is one of a screen."""
    shown = [name if len(name) <= NAME_MAX else f"{name[: NAME_MAX - 1]}…" for name in names]
    more = len(names) - NAMED_MAX
    return ", ".join(shown[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")

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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.catalog import Catalog
from virtstatd.catalog.decode import Decoder
from virtstatd.clock import Clocks
from virtstatd.config import GROUP_BITS, Config, SinkConfig, load
from virtstatd.errors import ConfigError, StartError
from virtstatd.garbage import short_searches
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes
from virtstatd.hypervisor.loop import events_on
from virtstatd.hypervisor.sockets import Opener, detected_uri
from virtstatd.local.cover import Cover
from virtstatd.local.files import Descriptors, descriptors_allowed
from virtstatd.local.lane import LocalLane
from virtstatd.local.place import Elsewhere, pid_files
from virtstatd.local.shapes import Shapes
from virtstatd.local.survey import Survey
from virtstatd.logs import Logs
from virtstatd.model import Batch, Domain
from virtstatd.notify import Notify
from virtstatd.pipeline.buffer import Buffer, Queue
from virtstatd.pipeline.fanout import draining
from virtstatd.pipeline.outlet import Outlet
from virtstatd.pipeline.spool import Spool
from virtstatd.pipeline.spooled import Spooled
from virtstatd.polling.budget import Budget
from virtstatd.polling.calls import Calls
from virtstatd.polling.cost import Meter, MeteredLanes
from virtstatd.polling.monitors import Monitors
from virtstatd.polling.poller import Poller
from virtstatd.polling.processes import Daemon, Qemus, Unseen, socket_of
from virtstatd.polling.ticker import Ticker
from virtstatd.polling.tier import LIFETIME_INTERVALS, Tier
from virtstatd.polling.waiting import first_of, until_stopped
from virtstatd.sink import Opening, Send, Sink
from virtstatd.sources.agent import AgentNumbers, LoopLag
from virtstatd.sources.bulk import Bulk
from virtstatd.sources.control import Stalls, Verdicts
from virtstatd.sources.cpustats import GROUPS, CpuStats, CpuStatsReader
from virtstatd.sources.describe import Describer
from virtstatd.sources.descriptions import DescriptionReader
from virtstatd.sources.tunables import Tunables


CLOSE_SECONDS = 1.0
"""What a sink or a lane gets to close; what takes longer ends with the process."""

FRESH_INTERVALS, FRESH_SECONDS = 3, 5.0
"""How many intervals, and how long at least, the local lane's readings stand for libvirt's."""

DESCRIPTORS_SPARED = 1024
"""Of those that the process may have, kept for everything but the local lane."""

FILES_SHARE = 0.75
"""Of the others, the share for files that stay open; the rest is for one more per guest."""

TIERS = ("pulse", "monitor", "extra")

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


@dataclass(frozen=True, slots=True)
class Asking:
    """The side that asks libvirt, built and wired."""

    inventory: Inventory
    lanes: Lanes
    connection: Connection
    poller: Poller
    reader: DescriptionReader
    local: LocalLane | None
    budget: Budget | None
    cpu_stats: CpuStatsReader | None
    changed: asyncio.Event
    turned: asyncio.Event
    unknown: set[str]


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
        outlets = [await _outlet(sinks, each, config, log, sockets) for each in config.sinks]
        async with (
            draining(outlets, drain_seconds) as emit,
            asking(config, catalog, emit, log) as ask,
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
                "watchdog": watch(ask, outlets, notify, stop),
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


@asynccontextmanager
async def asking(
    config: Config, catalog: Catalog, emit: Callable[[Batch], None], log: FilteringBoundLogger
) -> AsyncIterator[Asking]:
    """Build the side that asks libvirt; close its threads and connections on leaving."""
    options = config.hypervisor
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    came_or_went = asyncio.Event()
    unknowns: set[str] = set()

    def gone(domain: Domain) -> None:  # on whichever thread found out
        decoder.forget(domain.uuid)
        batch = Batch("inventory", time.time_ns(), (), gone=(domain,))
        loop.call_soon_threadsafe(cover, batch)

    def turned() -> None:
        changed.set()
        came_or_went.set()
        (poller.nudge.set if connection.up else calls.lost)()
        if cpu_stats and connection.up:
            cpu_stats.reconnected()

    def unknown(key: str) -> None:
        if key not in unknowns:
            unknowns.add(key)
            log.info("field.unknown", key=key)

    cgroup_cover = Cover(emit, _fresh(config.local.interval_seconds * config.local.cgroup_looks))
    cover = Cover(cgroup_cover, _fresh(config.local.interval_seconds))
    opened = Opener(options.uri, options.keepalive_seconds, options.keepalive_count)
    inventory = Inventory(time.monotonic, gone, uuid=config.labels.uuid)
    decoder = Decoder(catalog, unknown)
    percent = config.budget.host_cpu_percent
    meter = _meter(config, inventory) if percent else None
    lanes = MeteredLanes(opened, options.lanes, meter) if meter else Lanes(opened, options.lanes)
    connection = Connection(opened, inventory, log, turned)
    calls = Calls(lanes, changed.set, log, options.deadline_seconds)
    poller = Poller(
        _tiers(config, catalog),
        calls,
        Bulk(inventory, decoder, _stalls(config)),
        Monitors(Verdicts(catalog), log, time.monotonic),
        cover,
        log,
        time.monotonic,
        slice_domains=options.slice_domains,
    )
    reader = DescriptionReader(
        inventory,
        lanes,
        Describer(catalog),
        Tunables(catalog),
        emit,
        log,
        options.deadline_seconds,
    )
    cpu_stats = _cpu_stats(config, catalog, inventory, lanes, cover, log)
    tiers = [*poller.tiers, *([cpu_stats.tier] if cpu_stats else [])]
    local = _local(config, catalog, inventory, cover, cgroup_cover, log)
    budget = Budget(tiers, meter, percent, log) if meter else None
    try:
        yield Asking(
            inventory,
            lanes,
            connection,
            poller,
            reader,
            local,
            budget,
            cpu_stats,
            changed,
            came_or_went,
            unknowns,
        )
    finally:
        await lanes.close(CLOSE_SECONDS)
        if meter:
            meter.close()


def _meter(config: Config, inventory: Inventory) -> Meter:
    """Return what measures the cost, of the agent alone where libvirt is on another host."""
    uri = config.hypervisor.uri or detected_uri()
    try:
        qemus = Qemus(pid_files(uri))
    except Elsewhere as error:
        unseen = Unseen(str(error))
        return Meter(unseen, unseen, inventory.__len__)
    return Meter(Daemon(socket_of(uri, detected_uri)), qemus, inventory.__len__)


def _stalls(config: Config) -> Stalls | None:
    """Return what sees stalled processes, None where the guests are not on this host."""
    try:
        return Stalls(pid_files(config.hypervisor.uri or detected_uri()))
    except Elsewhere:
        return None


def _cpu_stats(
    config: Config,
    catalog: Catalog,
    inventory: Inventory,
    lanes: Lanes,
    emit: Callable[[Batch], None],
    log: FilteringBoundLogger,
) -> CpuStatsReader | None:
    """Return what reads CPU time per host CPU, None where nobody asked for it."""
    if not config.cpu_stats.enabled:
        return None
    polled = [group for name in TIERS for group in getattr(config.poll, name).groups]
    ticker = Ticker("cpu_stats", config.cpu_stats.interval_seconds, time.monotonic())
    return CpuStatsReader(
        CpuStats(inventory, catalog, totals="cpu_total" not in polled),
        inventory,
        lanes,
        Tier("cpu_stats", 0, GROUPS, ticker),
        emit,
        log,
        slice_domains=config.hypervisor.slice_domains,
        deadline_seconds=config.hypervisor.deadline_seconds,
    )


def _local(
    config: Config,
    catalog: Catalog,
    inventory: Inventory,
    cover: Cover,
    cgroup_cover: Cover,
    log: FilteringBoundLogger,
) -> LocalLane | None:
    """Return the lane that reads the guests of this host from the kernel, None where it cannot."""
    if not config.local.enabled:
        return None
    try:
        directory = pid_files(config.hypervisor.uri or detected_uri())
    except Elsewhere as error:
        log.info("local.off", reason=str(error))
        return None
    shapes = Shapes(catalog)
    survey = Survey(
        directory,
        inventory.domains,
        shapes,
        Descriptors(int((descriptors_allowed() - DESCRIPTORS_SPARED) * FILES_SHARE)),
        config.local.peak_seconds,
        config.local.cgroup_looks,
    )
    return LocalLane(
        survey,
        inventory.domains,
        cover,
        cgroup_cover,
        shapes,
        log,
        config.local.interval_seconds,
    )


def _fresh(interval_seconds: float) -> float:
    """Return how long what the local lane reads so often stands for libvirt's."""
    return max(FRESH_SECONDS, FRESH_INTERVALS * interval_seconds)


def _tiers(config: Config, catalog: Catalog) -> list[Tier]:
    """Return the tiers that ask for anything, the one that asks the most of libvirt last."""
    origin = time.monotonic()
    tiers = []
    for name in TIERS:
        options = getattr(config.poll, name)
        bits = sum(GROUP_BITS[group] for group in options.groups)
        groups = frozenset(group.name for group in catalog.groups.values() if group.bit & bits)
        if bits:
            tiers.append(Tier(name, bits, groups, Ticker(name, options.interval_seconds, origin)))
    return tiers


async def _outlet(
    stack: AsyncExitStack,
    each: SinkConfig,
    config: Config,
    log: FilteringBoundLogger,
    sockets: dict[str, socket.socket],
) -> Outlet:
    bound = log.bind(sink=each.name)
    opening = Opening(each.name, bound, sockets)
    send = await stack.enter_async_context(contained(each.sink, opening))
    return Outlet(
        each.name,
        send,
        bound,
        time.monotonic,
        _queue(each, state_directory(config), bound),
        delivery=each.delivery,
        attempt_seconds=each.outlet.attempt_seconds,
        max_age_seconds=each.max_age_seconds,
    )


def _queue(each: SinkConfig, directory: Path, log: FilteringBoundLogger) -> Queue:
    """Return what waits in front of a sink; a spool opens by itself, and may fail to."""
    options = each.outlet
    if not options.spool_bytes:
        return Buffer(options.buffer_bytes)
    spool = Spool(
        directory / "spool" / each.name, capacity=options.spool_bytes, sync=options.spool_sync
    )
    return Spooled(spool, log, time.monotonic, capacity=options.buffer_bytes)


def state_directory(config: Config) -> Path:
    """Return where the agent keeps what is to outlive it, `STATE_DIRECTORY` of systemd.exec(5)."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(config.agent.state_directory or given or "/var/lib/virtstatd")


@asynccontextmanager
async def contained(sink: Sink, opening: Opening) -> AsyncIterator[Send]:
    """Open a sink whose faults at opening end the start, and at closing nothing at all."""
    context = sink.open(opening)
    try:
        send = await context.__aenter__()
    except StartError as error:
        raise StartError(f"sink {opening.name}: {error}") from error
    except Exception as error:
        raise StartError(
            f"sink {opening.name}: cannot open: {type(error).__name__}: {error}"
        ) from error
    try:
        yield send
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await context.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - a sink is not our code
            opening.log.warning("sink.close_failed", reason=str(error) or type(error).__name__)


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

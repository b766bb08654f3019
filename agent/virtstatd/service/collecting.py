"""
The side that asks libvirt and the kernel: built from the configuration, wired, and closed.

    connection ──▶ inventory ◀── describer
                       │
    ticker ──▶ poller ─┴▶ lanes ▶ bulk ▶ decoder ──▶ cover ──▶ emit
                                        local lane ────▶ ┘
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from virtstatd.budget.budget import Budget
from virtstatd.budget.cost import Meter, MeteredLanes
from virtstatd.budget.processes import Daemon, Qemus, Unseen, socket_of
from virtstatd.catalog import Catalog
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.bulk.call import Bulk
from virtstatd.collect.bulk.calls import Calls
from virtstatd.collect.bulk.control import Stalls, Verdicts
from virtstatd.collect.bulk.monitors import Monitors
from virtstatd.collect.bulk.poller import Poller
from virtstatd.collect.bulk.sweep import Sweep
from virtstatd.collect.bulk.tier import Tier
from virtstatd.collect.cpu_stats import GROUPS, CpuStats, CpuStatsReader
from virtstatd.collect.descriptions.limits import Tunables
from virtstatd.collect.descriptions.reader import DescriptionReader
from virtstatd.collect.descriptions.xml import Describer
from virtstatd.collect.kernel.lane import LocalLane
from virtstatd.collect.kernel.place import Elsewhere, pid_files
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.survey import Survey
from virtstatd.config.file import GROUP_BITS, Config
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes
from virtstatd.hypervisor.sockets import Opener, detected_uri
from virtstatd.model import Batch, Domain
from virtstatd.pipeline.one_source import Cover
from virtstatd.runtime.kernel_files import Descriptors, descriptors_allowed
from virtstatd.runtime.ticker import Ticker


CLOSE_SECONDS = 1.0
"""What a lane gets to close; what takes longer ends with the process."""

FRESH_INTERVALS, FRESH_SECONDS = 3, 5.0
"""How many intervals, and how long at least, the local lane's readings stand for libvirt's."""

DESCRIPTORS_SPARED = 1024
"""Of those that the process may have, kept for everything but the local lane."""

FILES_SHARE = 0.75
"""Of the others, the share for files that stay open; the rest is for one more per guest."""

TIERS = ("pulse", "monitor", "extra")


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


@asynccontextmanager
async def asking(
    config: Config, catalog: Catalog, emit: Callable[[Batch], None], log: FilteringBoundLogger
) -> AsyncIterator[Asking]:
    """Build the side that asks libvirt; close its threads and connections on leaving."""
    options = config.hypervisor
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    came_or_went = asyncio.Event()
    stale = asyncio.Event()
    unknowns: set[str] = set()

    def gone(domain: Domain) -> None:  # on whichever thread found out
        decoder.forget(domain.uuid)
        batch = Batch("inventory", time.time_ns(), (), gone=(domain,))
        loop.call_soon_threadsafe(cover, batch)

    def outdated() -> None:  # on whichever thread found out
        loop.call_soon_threadsafe(stale.set)

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
    inventory = Inventory(time.monotonic, gone, outdated, uuid=config.labels.uuid)
    decoder = Decoder(catalog, unknown)
    percent = config.budget.host_cpu_percent
    meter = _meter(config, inventory) if percent else None
    lanes = MeteredLanes(opened, options.lanes, meter) if meter else Lanes(opened, options.lanes)
    connection = Connection(opened, inventory, log, turned)
    calls = Calls(lanes, changed.set, log, options.deadline_seconds)
    sweep = Sweep(
        calls,
        Bulk(inventory, decoder, _stalls(config)),
        Monitors(Verdicts(catalog), log, time.monotonic),
        cover,
        log,
        time.monotonic,
        slice_domains=options.slice_domains,
    )
    poller = Poller(_tiers(config, catalog), sweep, time.monotonic)
    cpu_stats = _cpu_stats(config, catalog, inventory, lanes, cover, log)
    tiers = [*poller.tiers, *([cpu_stats.tier] if cpu_stats else [])]
    budget = Budget(tiers, meter, percent, log) if meter else None
    reader = DescriptionReader(
        inventory,
        lanes,
        Describer(catalog),
        Tunables(catalog),
        emit,
        log,
        options.deadline_seconds,
        stale,
        budget.allowed if budget else math.inf,
    )
    local = _local(config, catalog, inventory, cover, cgroup_cover, log)
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

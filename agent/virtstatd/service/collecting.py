"""
The left side: libvirt, and the collectors that the configuration asks for, built and closed.

    connection ──▶ inventory ◀── descriptions
                       │
        bulk, cpu_stats, others ──▶ lanes ──▶ libvirt
        kernel, own, others
              └────────▶ emit
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from structlog.typing import FilteringBoundLogger

from virtstatd.budget.budget import Budget
from virtstatd.budget.cost import Meter, MeteredLanes
from virtstatd.budget.processes import Daemon, Qemus, UnseenClock, socket_of
from virtstatd.catalog import Catalog
from virtstatd.collect.bulk.answer import POLLED
from virtstatd.collect.bulk.options import TIERS, PollOptions
from virtstatd.collect.own import OwnCollector, RowSource
from virtstatd.collect.parts import Left, Parts
from virtstatd.collector import Collector, Emit, Outcome, Up
from virtstatd.config.file import Config
from virtstatd.config.kinds import KINDS
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.filter import FilterOptions, GuestFilter, facts_of
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes
from virtstatd.hypervisor.place import Elsewhere, pid_files
from virtstatd.hypervisor.processes import Processes
from virtstatd.hypervisor.sockets import Opener, detected_uri, open_read_write
from virtstatd.model import Batch, Domain, Happening
from virtstatd.runtime.waiting import until_stopped
from virtstatd.service.isolated import IsolatedCollector


CLOSE_SECONDS = 1.0
"""Time for a lane to close; a slower one ends with the process."""


@dataclass(frozen=True, slots=True)
class Collecting:
    """
    Libvirt, the collectors, and their budget, if there is one.

    What collectors emit goes through `emit`, so that those that make numbers of others' get it.
    """

    hypervisor: Hypervisor
    collectors: Sequence[Collector]
    budget: Budget | None
    emit: Emit

    def ticking(self, now: float) -> bool:
        """Return whether the collectors' deadlines are still being served."""
        looks = (getattr(each, "ticking", None) for each in self.collectors)
        return all(look(now) for look in looks if look)

    def unresponsive(self) -> list[str]:
        """Return the names of the guests that do not answer."""
        asked = (getattr(each, "unresponsive", None) for each in self.collectors)
        return [name for ask in asked if ask for name in ask()]

    def start(self, tasks: asyncio.TaskGroup, up: Up, stop: asyncio.Event) -> None:
        """Run the event connection, the budget and the collectors until `stop`."""
        tasks.create_task(self.hypervisor.connection.run(stop), name="connection")
        if self.budget:
            tasks.create_task(self.budget.run(stop), name="budget")
        for each in self.collectors:
            collector = each.run(self.emit, up, stop)
            tasks.create_task(until_stopped(collector, stop), name=f"collector {each.name}")

    def end_unwanted(self, options: FilterOptions) -> None:
        """End the series of guests that another filter leaves out, before that takes over."""
        admits = GuestFilter(options).admits
        gone = tuple(
            domain
            for domain, described in self.hypervisor.inventory.domains()
            if not admits(domain.name, domain.uuid, facts_of(described))
        )
        if gone:
            self.emit(Batch("inventory", time.time_ns(), (), gone=gone))

    def on_happening(self, call: Callable[[Happening], None]) -> None:
        """Register `call` for each event of a guest."""
        for each in self.collectors:
            if register := getattr(each, "on_happening", None):
                register(call)

    async def once(self) -> dict[str, Outcome]:
        """Run each collector once, one after another; return the outcomes by name."""
        return {each.name: await each.once(self.emit) for each in self.collectors}


@asynccontextmanager
async def collecting(
    config: Config,
    catalog: Catalog,
    emit: Emit,
    log: FilteringBoundLogger,
    numbers: Iterable[RowSource] = (),
    *,
    up: Up,
    left: Left | None = None,
) -> AsyncIterator[Collecting]:
    """
    Build libvirt and the collectors; close threads and connections on leaving.

    `numbers` are those of the other parts of the agent. Libvirt is called only while it is `up`,
    which its event connection sets. `left` returns what the kernel does not read. Raises
    `StartError` if a collector of another package cannot work.
    """
    news = asyncio.Event()
    options = config.hypervisor
    uri = options.uri or detected_uri()
    processes, elsewhere = _processes(uri)
    keepalive = options.keepalive_seconds, options.keepalive_count
    opened = Opener(options.uri, *keepalive)
    inventory = Inventory(uuid=config.labels.uuid, admission=GuestFilter(config.filter))
    hearing: list[Emit] = []

    def heard(batch: Batch) -> None:
        emit(batch)
        for hear in hearing:
            hear(batch)

    inventory.on_gone(_gone_to(heard))
    meter = _meter(uri, processes, elsewhere, inventory) if config.budget.host_cpu_percent else None
    lanes = (
        MeteredLanes(opened, options.lanes, meter, up)
        if meter
        else Lanes(opened, options.lanes, up)
    )
    hypervisor = Hypervisor(
        up,
        inventory,
        lanes,
        Connection(opened, inventory, log, up),
        processes,
        elsewhere,
        options.slice_domains,
        options.deadline_seconds,
        Opener(options.uri, *keepalive, connect=open_read_write),
    )
    allowed = Budget.seconds_of(config.budget.host_cpu_percent) if meter else math.inf
    parts = Parts(catalog, hypervisor, log, _polled(config), allowed, news, left)
    collectors = [*_own(config, parts)]
    hearing += [each.heard for each in collectors if hasattr(each, "heard")]
    tiers: list[Any] = [tier for each in collectors for tier in getattr(each, "tiers", ())]
    kernel: Any = next((each for each in collectors if hasattr(each, "cpu_seconds")), None)
    percent = config.budget.host_cpu_percent
    budget = Budget(tiers, meter, percent, log, kernel=kernel) if meter else None
    collectors += [
        IsolatedCollector(
            each.name,
            each.plugin,
            opened,
            inventory,
            catalog,
            log,
            up,
            silent_seconds=each.silent_seconds,
        )
        for each in config.collectors
    ]
    told: list[RowSource] = [
        hypervisor.connection.numbers,
        lanes.numbers,
        *(each.numbers for each in collectors),
        *([budget.numbers] if budget else []),
        *numbers,
    ]
    collectors.append(OwnCollector(catalog, told, config.agent.interval_seconds, news))
    turning = up.turning()
    forwarding = asyncio.create_task(_forward(turning, news), name="news")
    try:
        yield Collecting(hypervisor, collectors, budget, heard)
    finally:
        forwarding.cancel()
        await lanes.close(CLOSE_SECONDS)
        if processes is not None:
            processes.close()
        if meter:
            meter.close()


async def _forward(turning: asyncio.Event, news: asyncio.Event) -> None:
    """Send the agent's own numbers each time that libvirt becomes available or unavailable."""
    while True:
        await turning.wait()
        turning.clear()
        news.set()


def _gone_to(emit: Emit) -> Callable[[Domain], None]:
    loop = asyncio.get_running_loop()

    def gone(domain: Domain) -> None:  # on the thread that noticed
        batch = Batch("inventory", time.time_ns(), (), gone=(domain,))
        loop.call_soon_threadsafe(emit, batch)

    return gone


def _own(config: Config, parts: Parts) -> Iterator[Collector]:
    """Build the built-in collectors that apply here."""
    for kind in KINDS:
        if collector := kind.built(config.collect.get(kind.table), parts):
            yield collector


def _polled(config: Config) -> frozenset[str]:
    poll: PollOptions = config.collect["poll"]
    groups = [group for name in TIERS for group in getattr(poll, name).groups]
    return frozenset(POLLED[group].name for group in groups)


def _processes(uri: str) -> tuple[Processes | None, str]:
    """Return the processes of the guests, or why they cannot be seen from here."""
    try:
        return Processes(pid_files(uri)), ""
    except Elsewhere as error:
        return None, str(error)


def _meter(uri: str, processes: Processes | None, elsewhere: str, inventory: Inventory) -> Meter:
    """Return the cost meter, of the agent alone if libvirt is on another host."""
    if processes is None:
        unseen = UnseenClock(elsewhere)
        return Meter(unseen, unseen, inventory.__len__)
    return Meter(Daemon(socket_of(uri, detected_uri)), Qemus(processes), inventory.__len__)

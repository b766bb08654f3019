"""The agent's own numbers, taken from the counters of its parts and sent down the same pipe."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import libvirt

from virtstatd import __version__
from virtstatd.budget.budget import Budget
from virtstatd.catalog import Catalog
from virtstatd.collect.bulk.poller import Poller
from virtstatd.collect.bulk.tier import CALL_BUCKETS, Tier
from virtstatd.collect.cpu_stats import CpuStatsReader
from virtstatd.hypervisor.connection import EVENTS, Connection
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes
from virtstatd.model import Batch, Number, Reading, Series
from virtstatd.pipeline.outlet import LAG_BUCKETS, Outlet
from virtstatd.pipeline.spool.queue import Spooled
from virtstatd.runtime.waiting import beat_after


LAG_PERIOD_SECONDS = 1.0
"""How often the loop is asked whether it is late, besides whenever something is passed on."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Row = tuple[str, Mapping[str, str], Number]


class LoopLag:
    """
    How late the event loop runs what is due.

    Regular looks see what lasts, or comes back. What the agent itself does at a time is measured
    whenever it passes a batch on: an idle loop needs no look.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._longest = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Measure until `stop`."""
        loop = asyncio.get_running_loop()
        self._begin(loop)
        self._loop = loop
        try:
            await stop.wait()
        finally:
            self._loop = None
            self._timer.cancel()

    def measuring(self, emit: Callable[[Batch], None]) -> Callable[[Batch], None]:
        """Return `emit`, measuring how long the turns of the loop take in which it is called."""

        def measured(batch: Batch) -> None:
            if self._loop is not None:  # its time is that of the turn's beginning
                self._loop.call_soon(self._turned, self._loop, self._loop.time())
            emit(batch)

        return measured

    def take(self) -> float:
        """Return the longest lag in seconds since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # a timer and no task: a third less; on the beat of all others, who share the wake-up
        due = beat_after(loop.time(), LAG_PERIOD_SECONDS)
        self._timer = loop.call_at(due, self._look, loop, due)

    def _turned(self, loop: asyncio.AbstractEventLoop, begun: float) -> None:
        self._longest = max(self._longest, loop.time() - begun)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        late = max(0.0, loop.time() - due)
        self.total += late
        self._longest = max(self._longest, late)
        self._begin(loop)


class AgentNumbers:
    """Read the counters of every part into one reading."""

    def __init__(
        self,
        catalog: Catalog,
        poller: Poller,
        connection: Connection,
        lanes: Lanes,
        inventory: Inventory,
        outlets: Sequence[Outlet],
        lag: LoopLag,
        xml_reads: Callable[[], int],
        unknown_fields: Callable[[], int],
        clock_steps: Callable[[], int],
        log_dropped: Callable[[], int],
        budget: Budget | None = None,
        cpu_stats: CpuStatsReader | None = None,
    ) -> None:
        self._cpu_stats = cpu_stats
        self._tiers = (*poller.tiers, *((cpu_stats.tier,) if cpu_stats else ()))
        self._poller = poller
        self._connection = connection
        self._lanes = lanes
        self._inventory = inventory
        self._outlets = outlets
        self._lag = lag
        self._xml_reads = xml_reads
        self._unknown_fields = unknown_fields
        self._clock_steps = clock_steps
        self._log_dropped = log_dropped
        self._budget = budget
        self._started_at = time.time()
        self._catalog = catalog
        self._items: list[Series] = []
        self._shape = catalog.shape("agent", ())

    def batch(self, lifetime_seconds: float) -> Batch:
        """Return all numbers as they are now."""
        taken_at = time.time_ns()
        rows = list(self._rows())
        rows.sort(key=lambda row: row[0])  # stable: the series of a family become neighbours
        items: list[Series] = []
        values: list[Number] = []
        for key, labels, number in rows:
            items.append(self._catalog.series("agent", key, labels))
            values.append(number)
        for tier in self._tiers:
            items += self._histogram(tier)
            values += [*accumulate(tier.durations), tier.seconds, sum(tier.durations)]
        for outlet in self._outlets:
            bounds = [str(bound) for bound in LAG_BUCKETS]
            labels = {"sink": outlet.name}
            items += self._catalog.histogram("agent", "sink_delivery_lag", bounds, labels)
            values += [*accumulate(outlet.lags), outlet.lag_seconds, sum(outlet.lags)]
        if items != self._items:
            self._items, self._shape = items, self._catalog.shape("agent", items)
        reading = Reading(None, self._shape, tuple(values))
        return Batch("agent", taken_at, (reading,), frozenset({"agent"}), lifetime_seconds)

    def _histogram(self, tier: Tier) -> tuple[Series, ...]:
        bounds = [str(bound) for bound in CALL_BUCKETS]
        return self._catalog.histogram("agent", "call_duration", bounds, {"tier": tier.name})

    def _rows(self) -> Iterator[Row]:
        yield "up", {}, int(self._connection.up and self._poller.up)
        yield "domains", {}, len(self._inventory)
        yield "build", _versions(), 1
        yield "connects", {}, self._connection.connects
        yield "disconnects", {}, self._connection.disconnects
        for event in EVENTS.values():
            yield "events", {"event": event}, self._connection.events[event]
        yield "xml_reads", {}, self._xml_reads()
        yield "unknown_fields", {}, self._unknown_fields()
        yield "undecodable_records", {}, self._poller.undecodable
        yield "lanes", {}, len(self._lanes)
        yield "calls_outstanding", {}, self._lanes.outstanding
        yield "calls_abandoned", {}, self._lanes.abandoned_total
        yield "loop_lag_max", {}, self._lag.take()
        yield "loop_lag", {}, self._lag.total
        yield "clock_steps", {}, self._clock_steps()
        yield "log_dropped", {}, self._log_dropped()
        yield "start_time", {}, self._started_at
        yield from _process()
        if self._budget is not None:
            yield from _cost(self._budget)
        for tier in self._tiers:
            yield from self._tier(tier)
        if self._cpu_stats and self._cpu_stats.supported is not None:
            yield "cpu_stats_supported", {}, int(self._cpu_stats.supported)
        for outlet in self._outlets:
            yield from _outlet(outlet)

    @staticmethod
    def _tier(tier: Tier) -> Iterator[Row]:
        labels = {"tier": tier.name}
        yield "ticks", labels, tier.ticker.ticks
        yield "ticks_skipped", labels, tier.ticker.skipped
        yield "interval", labels, tier.ticker.seconds
        yield "configured_interval", labels, tier.ticker.configured
        yield "partial_domains", labels, len(tier.partial)
        yield "missing_domains", labels, len(tier.missing)
        if tier.good_at is not None:  # never before the first: absent, not zero
            yield "age", labels, time.monotonic() - tier.good_at
        for outcome, count in tier.outcomes.items():
            yield "calls", {**labels, "outcome": outcome}, count


def _cost(budget: Budget) -> Iterator[Row]:
    yield "cost", {}, budget.ratio
    yield "budget", {}, budget.allowed_ratio
    for of, seconds in budget.spent().items():
        yield "cost_cpu", {"of": of}, seconds


def _outlet(outlet: Outlet) -> Iterator[Row]:
    labels = {"sink": outlet.name}
    for what, tally in (
        ("accepted", outlet.accepted),
        ("delivered", outlet.delivered),
        ("waiting", outlet.waiting),
    ):
        yield f"sink_{what}_batches", labels, tally.batches
        yield f"sink_{what}_samples", labels, tally.samples
        yield f"sink_{what}_bytes", labels, tally.bytes
    for reason, tally in outlet.dropped.items():
        yield "sink_dropped_batches", {**labels, "reason": reason}, tally.batches
        yield "sink_dropped_samples", {**labels, "reason": reason}, tally.samples
        yield "sink_dropped_bytes", {**labels, "reason": reason}, tally.bytes
    for reason, tally in outlet.lost.items():
        yield "sink_lost_batches", {**labels, "reason": reason}, tally.batches
        yield "sink_lost_samples", {**labels, "reason": reason}, tally.samples
        yield "sink_lost_bytes", {**labels, "reason": reason}, tally.bytes
    for outcome, count in outlet.attempts.items():
        yield "sink_attempts", {**labels, "outcome": outcome}, count
    yield "sink_buffer", labels, outlet.buffer_bytes
    yield "sink_circuit_open", labels, int(outlet.circuit_open)
    if isinstance(outlet.queue, Spooled):
        yield "sink_spool", labels, outlet.queue.disk_bytes
        yield "sink_spool_usable", labels, int(not outlet.queue.failing)
        yield "sink_recovered_batches", labels, outlet.queue.recovered.batches
        yield "sink_recovered_samples", labels, outlet.queue.recovered.samples


def _process() -> Iterator[Row]:
    times = os.times()
    yield "cpu", {}, times.user + times.system
    resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    yield "resident_memory", {}, int(resident) * PAGE_BYTES
    yield "open_descriptors", {}, len(os.listdir("/proc/self/fd"))
    yield "threads", {}, len(os.listdir("/proc/self/task"))


def _versions() -> Mapping[str, str]:
    number = libvirt.getVersion()
    linked = f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
    return {"version": __version__, "python": platform.python_version(), "libvirt": linked}

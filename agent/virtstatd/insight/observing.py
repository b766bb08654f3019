"""The values that findings compare, from what is current of a guest and of the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from virtstatd.insight import findings as kinds
from virtstatd.insight.columns import GuestRow
from virtstatd.insight.guests import (
    BALLOON_STALE_SECONDS,
    DISK_TIMES,
    RESPONSIVE,
    D,
    balloon_age,
    share,
)
from virtstatd.insight.inside import fullness
from virtstatd.insight.judge import Observed
from virtstatd.insight.limits import at_limits
from virtstatd.insight.lookup import Lookup
from virtstatd.insight.objects import pools_hung, pools_left
from virtstatd.insight.storages import storage_latencies, thin_disks


LATE_INTERVALS: Final = 3.0
"""A poll is late when the last good one is so many intervals ago."""

NIC_DROPS: Final = (
    f"{D}_interface_stats_receive_drops",
    f"{D}_interface_stats_transmit_drops",
)


def of_guest(row: GuestRow, look: Lookup, wall: float) -> Iterator[Observed]:
    """Yield what is known of a guest."""
    if look.known(RESPONSIVE):
        yield Observed(kinds.STUCK, "", float(bool(row["stuck"])))
    for kind, column in ((kinds.STEAL, "steal_ratio"), (kinds.STEAL_PEAK, "steal_peak_ratio")):
        cell = row[column]
        if isinstance(cell, int | float):
            yield Observed(kind, "", cell)
    throttled = look.rate(f"{D}_throttled_periods")
    limited = share(throttled, look.rate(f"{D}_throttle_periods"))
    if limited is not None:
        yield Observed(kinds.GUEST_LIMITED, "", limited)
    yield from _disks(look)
    yield from _memory(look, wall)
    for mountpoint, ratio in fullness(look, kinds.FILESYSTEM_FULL.threshold * kinds.RELEASE):
        yield Observed(kinds.FILESYSTEM_FULL, mountpoint, ratio)
    yield from _migration(look)
    seconds = look.seconds(NIC_DROPS[0])
    for device, (received, sent) in look.grown(NIC_DROPS, "target_device"):
        yield Observed(kinds.NIC_DROPS, device, ((received or 0) + (sent or 0)) / seconds)


def _disks(look: Lookup) -> Iterator[Observed]:
    for device, (reads, writes, reading, writing) in look.grown(DISK_TIMES, "target_device"):
        count = (reads or 0) + (writes or 0)
        if count:  # a disk that completes nothing may be idle, or hang
            latency = ((reading or 0) + (writing or 0)) / count
            yield Observed(kinds.DISK_LATENCY, device, latency)
    for device, ratio in at_limits(look):
        yield Observed(kinds.DISK_LIMITED, device, ratio)
    for device, ratio in thin_disks(look):
        yield Observed(kinds.DISK_FULL, device, ratio)


def _migration(look: Lookup) -> Iterator[Observed]:
    stalled = look.value(f"{D}_job_info_stalled_seconds")
    if stalled is not None:
        yield Observed(kinds.MIGRATION_STALLED, "", stalled)


def _memory(look: Lookup, wall: float) -> Iterator[Observed]:
    age = balloon_age(look, wall)
    if age is None:
        return
    yield Observed(kinds.MEMORY_STALE, "", age)
    free = look.value(f"{D}_memory_stats_usable_bytes")
    left = share(free, look.value(f"{D}_memory_stats_available_bytes"))
    if left is not None and age <= BALLOON_STALE_SECONDS:
        yield Observed(kinds.MEMORY_LOW, "", left)


def of_host(look: Lookup, failing: Iterable[str], unreported: int = 0) -> Iterator[Observed]:
    """
    Yield what is known of the host and of the agent.

    `failing` are names of sinks, `unreported` is the number of guests that report no memory.
    """
    yield Observed(kinds.MEMORY_UNREPORTED, "", unreported)
    up = look.value("libvirt_up")
    if up is not None:
        yield Observed(kinds.LIBVIRT_DOWN, "", up)
    available = look.value("libvirt_node_memory_available_bytes")
    left = share(available, look.value("libvirt_node_memory_total_bytes"))
    if left is not None:
        yield Observed(kinds.HOST_MEMORY_LOW, "", left)
    for device, latency in storage_latencies(look):
        yield Observed(kinds.STORAGE_LATENCY, device, latency)
    for device, left in pools_left(look):
        yield Observed(kinds.POOL_FULL, device, left)
    for device, hung in pools_hung(look).items():
        yield Observed(kinds.POOL_HUNG, device, hung)
    for labels, rate in look.rates("libvirt_node_pressure_some_seconds"):
        kind = _PRESSURES.get(dict(labels)["resource"])
        if kind and rate is not None:
            yield Observed(kind, "", rate)
    periods = dict(look.rates("libvirt_partition_throttle_periods"))
    for labels, rate in look.rates("libvirt_partition_throttled_periods"):
        limited = share(rate, periods.get(labels))
        if limited is not None:
            yield Observed(kinds.PARTITION_LIMITED, dict(labels)["partition"], limited)
    yield from _agent(look, frozenset(failing))


_PRESSURES: Final = {"io": kinds.PRESSURE_IO, "memory": kinds.PRESSURE_MEMORY}


def _agent(look: Lookup, failing: frozenset[str]) -> Iterator[Observed]:
    lost: dict[str, float] = {}
    for what in "dropped", "lost":
        for labels, rate in look.rates(f"virtstatd_sink_{what}_samples"):
            sink = dict(labels)["sink"]
            lost[sink] = lost.get(sink, 0.0) + (rate or 0.0)
    for sink, rate in lost.items():
        yield Observed(kinds.SINK_FAILING, sink, float(sink in failing))
        yield Observed(kinds.SINK_LOSING, sink, rate)
    intervals = dict(look.values("virtstatd_interval_seconds"))
    configured = dict(look.values("virtstatd_configured_interval_seconds"))
    for labels, age in look.values("virtstatd_age_seconds"):
        if labels in intervals:
            tier = dict(labels)["tier"]
            yield Observed(kinds.POLL_LATE, tier, age, LATE_INTERVALS * intervals[labels])
    for labels, seconds in intervals.items():
        tier = dict(labels)["tier"]
        if labels in configured:
            least = configured[labels] * 1.5
            yield Observed(kinds.BUDGET_STRETCHED, tier, seconds, least)

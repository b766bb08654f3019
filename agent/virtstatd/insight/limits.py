"""How near the disks of a guest are to their limits on I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtstatd.insight.lookup import Lookup


_B: Final = "libvirt_domain_block_stats"
LIMITED: Final = {
    "total_bytes_per_second": ("read_bytes", "write_bytes"),
    "read_bytes_per_second": ("read_bytes",),
    "write_bytes_per_second": ("write_bytes",),
    "total_iops": ("read_requests", "write_requests"),
    "read_iops": ("read_requests",),
    "write_iops": ("write_requests",),
}
"""Limits of a disk, and the counters that they limit."""

METRICS: Final = {
    name: f"{_B}_limit_{name.replace('_iops', '_requests_per_second')}" for name in LIMITED
}


def disk_limits(look: Lookup) -> dict[str, dict[str, float]]:
    """Return the limits that are set, by disk."""
    limits: dict[str, dict[str, float]] = {}
    for name, metric in METRICS.items():
        for labels, limit in look.values(metric):
            if limit:
                limits.setdefault(dict(labels)["target_device"], {})[name] = limit
    return limits


def at_limits(look: Lookup) -> Iterator[tuple[str, float]]:
    """Yield each disk that has limits, and how near it is to the nearest: 1 is at it."""
    limits = disk_limits(look)
    if not limits:
        return
    rates: dict[tuple[str, str], float | None] = {
        (counter, dict(labels)["target_device"]): rate
        for counter in ("read_bytes", "write_bytes", "read_requests", "write_requests")
        for labels, rate in look.rates(f"{_B}_{counter}")
    }
    for device, own in limits.items():
        shares = []
        for name, limit in own.items():
            several = [rates.get((counter, device)) for counter in LIMITED[name]]
            if None not in several:
                shares.append(sum(each for each in several if each is not None) / limit)
        if shares:
            yield device, max(shares)

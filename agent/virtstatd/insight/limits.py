"""How near the disks of a guest are to their limits on I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtstatd.insight.lookup import Lookup


_B: Final = "libvirt_domain_block_stats"
METRICS: Final = {
    f"{way}_{unit}": f"{_B}_limit_{way}_{metric}"
    for unit, metric in (
        ("bytes_per_second", "bytes_per_second"),
        ("iops", "requests_per_second"),
    )
    for way in ("total", "read", "write")
}
"""Limits of a disk, and their metrics."""


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
    shares: dict[str, float] = {}
    for labels, share in look.values(f"{_B}_limit_used_ratio"):
        device = dict(labels)["target_device"]
        shares[device] = max(share, shares.get(device, 0.0))
    yield from shares.items()

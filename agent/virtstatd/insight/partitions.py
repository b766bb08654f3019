"""The resource partitions of the host: what each uses of what it may."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from virtstatd.insight.document import Document
from virtstatd.insight.guests import share, whole
from virtstatd.insight.lookup import Lookup


P: Final = "libvirt_partition"


def partition_rows(look: Lookup, cpus: int) -> list[Document]:
    """Return what each partition uses of what it may; a tree, from its paths."""
    counts = _by_partition(look.values(f"{P}_domains"))
    used = _by_partition(look.rates(f"{P}_cpu_seconds"))
    limits = _by_partition(look.values(f"{P}_cpu_limit"))
    periods = _by_partition(look.rates(f"{P}_throttle_periods"))
    throttled = _by_partition(look.rates(f"{P}_throttled_periods"))
    memory = _by_partition(look.values(f"{P}_memory_bytes"))
    memory_limits = _by_partition(look.values(f"{P}_memory_limit_bytes"))
    pressure = {
        (dict(labels)["partition"], dict(labels)["resource"]): rate
        for labels, rate in look.rates(f"{P}_pressure_some_seconds")
    }
    return [
        {
            "path": path,
            "depth": max(0, path.strip("/").count("/")),
            "guests": whole(counts[path]),
            "cpu_ratio": share(used.get(path), cpus),
            "cpu_limit_ratio": share(limits.get(path), cpus),
            "throttled_ratio": share(throttled.get(path), periods.get(path)),
            "memory_bytes": whole(memory.get(path)),
            "memory_limit_bytes": whole(memory_limits.get(path)),
            **{
                f"pressure_{resource}": pressure.get((path, resource))
                for resource in ("cpu", "io", "memory")
            },
        }
        for path in sorted(counts)
    ]


def _by_partition(series: Iterable[tuple[Any, float | None]]) -> dict[str, float | None]:
    return {dict(labels)["partition"]: number for labels, number in series}

"""The counters of disks in the readings of the bulk call, found once per shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from weakref import WeakKeyDictionary

from virtstatd.model import Number, Reading, Shape


COUNTERS: Final = (
    *("read_requests", "read_bytes", "read_time_seconds"),
    *("write_requests", "write_bytes", "write_time_seconds"),
    *("flush_requests", "flush_time_seconds"),
)
"""Of a disk, as the catalog names them; times are in nanoseconds."""

READ_REQUESTS, READ_BYTES, WRITE_REQUESTS, WRITE_BYTES = 0, 1, 3, 4
"""The places of those that limits are for."""

DiskCounters = tuple[Number, ...]
"""The numbers of a disk in the order of `COUNTERS`."""

_PREFIX: Final = "libvirt_domain_block_stats_"
_PLANS: WeakKeyDictionary[Shape, tuple[tuple[str, tuple[int, ...]], ...]] = WeakKeyDictionary()


def disks_in(reading: Reading) -> Iterator[tuple[str, DiskCounters]]:
    """Yield each disk that has all counters, without the layers of its backing chain."""
    plan = _PLANS.get(reading.shape)
    if plan is None:
        plan = _PLANS[reading.shape] = tuple(_planned(reading.shape))
    values = reading.values
    for device, places in plan:
        yield device, tuple([values[at] for at in places])


def _planned(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    places: dict[str, dict[str, int]] = {}
    for at, series in enumerate(shape.series):
        if [name for name, _ in series.labels] == ["target_device"]:
            name = series.field.family.removeprefix(_PREFIX)
            places.setdefault(series.labels[0][1], {})[name] = at
    for device, found in places.items():
        if all(name in found for name in COUNTERS):
            yield device, tuple([found[name] for name in COUNTERS])


def grown(now: DiskCounters, before: DiskCounters) -> DiskCounters:
    """Return the growth of the counters; those of a disk plugged again began at zero."""
    more = tuple([a - b for a, b in zip(now, before, strict=True)])
    return now if min(more) < 0 else more

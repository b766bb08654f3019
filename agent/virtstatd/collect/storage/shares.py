"""How much of its limits on I/O each disk uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from virtstatd.collect.storage.disks import (
    READ_BYTES,
    READ_REQUESTS,
    WRITE_BYTES,
    WRITE_REQUESTS,
    DiskCounters,
    grown,
)
from virtstatd.model import Number


LIMITED: Final = {
    "total_bytes": (READ_BYTES, WRITE_BYTES),
    "read_bytes": (READ_BYTES,),
    "write_bytes": (WRITE_BYTES,),
    "total_requests": (READ_REQUESTS, WRITE_REQUESTS),
    "read_requests": (READ_REQUESTS,),
    "write_requests": (WRITE_REQUESTS,),
}
"""What can be limited, and the counters that count against it."""

SHORTEST_NANOSECONDS: Final = 2_500_000_000
"""Of the time between two readings that a share is made of: less says little about bursts."""

LimitShare = tuple[str, str, float]
"""A disk, its limit, and the share that is used."""


class IoLimits(NamedTuple):
    """The limits of a disk by name, and the group whose disks share them."""

    group: str
    limits: Mapping[str, Number]


class LimitShares:
    """
    The rate of each limited disk in relation to its limits, for one guest.

    Disks of one group share their limits, so that each has the share of all of them together.
    """

    def __init__(self, limited: Mapping[str, IoLimits]) -> None:
        self.limited = limited
        self._before: tuple[int, dict[str, DiskCounters]] | None = None

    def take(self, at: int, disks: Iterable[tuple[str, DiskCounters]]) -> Iterator[LimitShare]:
        """Yield the shares since the reading before, none if it is too close; in nanoseconds."""
        now = {device: counters for device, counters in disks if device in self.limited}
        then, before = self._before or (at, {})
        if self._before is not None and 0 <= at - then < SHORTEST_NANOSECONDS:
            return
        self._before = at, now
        seconds = (at - then) / 1e9
        if seconds <= 0:  # the clock was set back
            return
        more = {
            device: grown(counters, before[device])
            for device, counters in now.items()
            if device in before
        }
        for name, columns in LIMITED.items():
            for device, (group, limits) in self.limited.items():
                members = self._members(group) if group else [device]
                if name in limits and all(each in more for each in members):
                    used = sum(more[each][column] for each in members for column in columns)
                    yield device, name, used / seconds / limits[name]

    def _members(self, group: str) -> list[str]:
        return [device for device, of in self.limited.items() if of.group == group]

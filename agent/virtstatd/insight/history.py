"""
The last hour of a few numbers of each guest, its disks and the host, in so many bytes at most.

Each has a ring of floats. With more than fit, all rings get half as many slots of twice the time,
each when it is used next, and back again when there is room.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any, Final

import msgspec

from virtstatd.insight.rings import (
    HOUR_SECONDS,
    Ring,
    empty_numbers,
    first_number,
    reshaped,
    rows_of_ring,
    series_of,
    short,
)


STEP_SECONDS: Final = 10
STEP_MAX_SECONDS: Final = 640
"""The time of a slot, and the longest; with even more guests the later ones have no history."""

_STEPS: Final = {STEP_SECONDS << doubled for doubled in range(7)}

KEPT_SECONDS: Final = 300
"""A guest that is not seen for so long is forgotten."""

OVERHEAD_BYTES: Final = 400
"""What a ring takes besides its numbers."""

DISKS_MAX: Final = 8
"""The first so many disks of a guest have a history."""

HOST: Final = ""
ITSELF: Final = ""
"""The guest or the host, in place of one of its disks."""

GUEST_SERIES: Final = (
    "cpu_ratio",
    "steal_ratio",
    "memory_used_bytes",
    "memory_cache_bytes",
    "memory_unused_bytes",
    "memory_current_bytes",
    "memory_rss_bytes",
    "disk_read_bytes_per_second",
    "disk_write_bytes_per_second",
    "disk_iops",
    "disk_latency_seconds",
    "net_receive_bytes_per_second",
    "net_transmit_bytes_per_second",
)
DISK_SERIES: Final = (
    "read_bytes_per_second",
    "write_bytes_per_second",
    "read_iops",
    "write_iops",
    "read_latency_seconds",
    "write_latency_seconds",
)
HOST_SERIES: Final = (
    "cpu.used_ratio",
    "cpu.guests_ratio",
    "cpu.steal_ratio",
    "memory.available_bytes",
    "pressure.cpu",
    "pressure.io",
    "pressure.memory",
    "disk.read_bytes_per_second",
    "disk.write_bytes_per_second",
    "network.receive_bytes_per_second",
    "network.transmit_bytes_per_second",
)


class _Kept(msgspec.Struct):
    """What one run hands over to the next: by guest and disk the newest slot and the numbers."""

    step: int
    rings: dict[str, dict[str, tuple[int, bytes]]]


@dataclass(slots=True)
class History:
    """
    Rings by guest's UUID and disk, and one for the host; `limit_bytes` is for all of them.

    The ring of the guest itself, and that of the host, has no name of a disk.
    """

    limit_bytes: int
    step: int = STEP_SECONDS
    rings: dict[str, dict[str, Ring]] = field(default_factory=dict)
    _count: int = 0
    _series: int = 0

    @property
    def slots(self) -> int:
        """How many slots an hour has."""
        return HOUR_SECONDS // self.step

    @property
    def size_bytes(self) -> int:
        """The memory of all rings, by estimate."""
        return self._bytes(self._count, self._series, self.step)

    def put(self, key: str, at: float, numbers: Sequence[Any], disk: str = ITSELF) -> None:
        """Add an observation at a Unix time; several in a slot become their mean."""
        slot = int(at) // self.step
        ring = self._ring(key, disk)
        if ring is None:
            if disk and len(self.rings.get(key, ())) > DISKS_MAX:
                return
            while not self._fits(1, len(numbers)):
                if self.step >= STEP_MAX_SECONDS:
                    return
                self.step *= 2
            slot = int(at) // self.step
            ring = Ring(empty_numbers(len(numbers) * self.slots), self.step, slot)
            self._keep(key, disk, ring)
        slots = self.slots
        if slot != ring.last:
            self._turn(ring, slot, len(numbers))
        ring.count += 1
        place = slot % slots
        for number in numbers:
            if number is not None:
                before = ring.numbers[place]
                mean = number if isnan(before) else before + (number - before) / ring.count
                ring.numbers[place] = mean
            place += slots

    def document(self, key: str, names: Sequence[str], now: float) -> dict[str, Any]:
        """Return the series of a guest with its disks, or of the host, from the first number on."""
        slots = self.slots
        end = int(now) // self.step
        rings = {
            disk: ring
            for disk in self.rings.get(key, ())
            if (ring := self._ring(key, disk)) and end - slots < ring.last <= end
        }
        newest = max([ring.last for ring in rings.values()], default=end)
        rows = {
            disk: dict(zip(DISK_SERIES if disk else names, rows_of_ring(ring, newest), strict=True))
            for disk, ring in rings.items()
        }
        every = [row for of in rows.values() for row in of.values()]
        first = min(map(first_number, every), default=slots)
        shown = {
            disk: {
                name: [None if isnan(number) else short(number) for number in row[first:]]
                for name, row in of.items()
            }
            for disk, of in rows.items()
        }
        return {
            "begin": (newest - slots + 1 + first) * self.step if first < slots else end * self.step,
            "step_seconds": self.step,
            "series": shown.pop(ITSELF, None) or {name: [] for name in names},
            **({"disks": shown} if key != HOST else {}),
        }

    def tidy(self, known: Iterable[str], now: float) -> None:
        """Forget guests and disks that are gone, and use the room of those."""
        there = {HOST, *known}
        for key in [*self.rings]:
            seconds = HOUR_SECONDS if key in there else KEPT_SECONDS
            for disk in [*self.rings[key]]:
                ring = self._ring(key, disk)  # also of a disk that is not there any more
                if ring and (ring.last + 1) * ring.step < int(now) - seconds:
                    self._drop(key, disk)
        if self.step > STEP_SECONDS and self._fits(self._count, self._series, self.step // 2):
            self.step //= 2

    def dump(self) -> bytes:
        """Return everything, for the next run of the agent."""
        rings = {
            key: {
                disk: (ring.last, ring.numbers.tobytes())
                for disk in of
                if (ring := self._ring(key, disk))
            }
            for key, of in self.rings.items()
        }
        return msgspec.msgpack.encode(_Kept(self.step, rings))

    def load(self, given: bytes) -> None:
        """Take over what another run has dumped, as far as it fits."""
        try:
            kept = msgspec.msgpack.decode(given, type=_Kept)
        except msgspec.DecodeError:  # of another version
            return
        if kept.step not in _STEPS:
            return
        self.step = kept.step
        for key, of in kept.rings.items():
            for disk, (last, numbers) in of.items():
                names = DISK_SERIES if disk else GUEST_SERIES if key else HOST_SERIES
                ring = Ring(array("f"), self.step, last)
                if len(numbers) == 4 * len(names) * self.slots and self._fits(1, len(names)):
                    ring.numbers.frombytes(numbers)
                    self._keep(key, disk, ring)

    def _turn(self, ring: Ring, slot: int, series: int) -> None:
        """Begin another slot, and empty those that were left out."""
        slots = self.slots
        ahead = slot - ring.last
        # a clock that was set back begins anew
        for each in range(slots) if not 0 < ahead < slots else range(ring.last + 1, slot + 1):
            for start in range(each % slots, series * slots, slots):
                ring.numbers[start] = nan
        ring.last, ring.count = slot, 0

    def _fits(self, more: int, series: int, step: int | None = None) -> bool:
        """Return whether so many more rings with so many series fit."""
        size = self._bytes(self._count + more, self._series + series, step or self.step)
        return size <= self.limit_bytes

    def _bytes(self, rings: int, series: int, step: int) -> int:
        return 4 * (HOUR_SECONDS // step) * series + OVERHEAD_BYTES * rings

    def _keep(self, key: str, disk: str, ring: Ring) -> None:
        self.rings.setdefault(key, {})[disk] = ring
        self._count += 1
        self._series += series_of(ring)

    def _drop(self, key: str, disk: str) -> None:
        ring = self.rings[key].pop(disk)
        self._count -= 1
        self._series -= series_of(ring)
        if not self.rings[key]:
            del self.rings[key]

    def _ring(self, key: str, disk: str) -> Ring | None:
        """Return a ring with slots as they are now."""
        of = self.rings.get(key)
        ring = of.get(disk) if of else None
        if of and ring is not None and ring.step != self.step:
            ring = of[disk] = reshaped(ring, self.step)
        return ring

"""
The last hour of a few numbers of each guest and of the host, in so many bytes at most.

Each has a ring of floats. With more guests than fit, all rings get half as many slots of twice the
time, each when it is used next, and back again when there is room.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any, Final

import msgspec


HOUR_SECONDS: Final = 3600
STEP_SECONDS: Final = 10
STEP_MAX_SECONDS: Final = 640
"""The time of a slot, and the longest; with even more guests the later ones have no history."""

KEPT_SECONDS: Final = 300
"""A guest that is not seen for so long is forgotten."""

OVERHEAD_BYTES: Final = 400
"""What a ring takes besides its numbers."""

HOST: Final = ""
GUEST_SERIES: Final = (
    "cpu_ratio",
    "steal_ratio",
    "memory_used_bytes",
    "disk_read_bytes_per_second",
    "disk_write_bytes_per_second",
    "disk_iops",
    "disk_latency_seconds",
    "net_receive_bytes_per_second",
    "net_transmit_bytes_per_second",
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


@dataclass(slots=True)
class Ring:
    """
    Numbers of several series by slot.

    `step` is the time of a slot, `last` the newest one, `count` the observations in that.
    """

    numbers: array[float]
    step: int
    last: int
    count: int = 0


class _Kept(msgspec.Struct):
    """What one run hands over to the next: by guest the newest slot and the numbers."""

    step: int
    rings: dict[str, tuple[int, bytes]]


@dataclass(slots=True)
class History:
    """Rings by guest's UUID, and one for the host; `limit_bytes` is for all of them."""

    limit_bytes: int
    step: int = STEP_SECONDS
    rings: dict[str, Ring] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """How many slots an hour has."""
        return HOUR_SECONDS // self.step

    @property
    def size_bytes(self) -> int:
        """The memory of all rings, by estimate."""
        return self._bytes(len(self.rings), self.step)

    def put(self, key: str, at: float, numbers: Sequence[Any]) -> None:
        """Add an observation at a Unix time; several in a slot become their mean."""
        ring = self._ring(key)
        if ring is None:
            while not self._fits(len(self.rings) + 1, self.step):
                if self.step >= STEP_MAX_SECONDS:
                    return
                self.step *= 2
            numbers_of = _empty(len(numbers) * self.slots)
            ring = self.rings[key] = Ring(numbers_of, self.step, int(at) // self.step)
        slot = int(at) // self.step
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
        """Return the series of a guest or of the host, from the first slot with a number on."""
        ring = self._ring(key)
        end = int(now) // self.step
        slots = self.slots
        empty = {"begin": end * self.step, "step_seconds": self.step}
        if ring is None or not end - slots < ring.last <= end:
            return {**empty, "series": {name: [] for name in names}}
        oldest = ring.last - slots + 1
        cut = oldest % slots
        rows = [
            ring.numbers[start + cut : start + slots] + ring.numbers[start : start + cut]
            for start in range(0, len(names) * slots, slots)
        ]
        known = [at for row in rows for at, number in enumerate(row) if not isnan(number)]
        first = min(known, default=slots)
        return {
            "begin": (oldest + first) * self.step,
            "step_seconds": self.step,
            "series": {
                name: [None if isnan(number) else _short(number) for number in row[first:]]
                for name, row in zip(names, rows, strict=True)
            },
        }

    def tidy(self, known: Iterable[str], now: float) -> None:
        """Forget guests that are gone, and use the room of those."""
        oldest = (int(now) - KEPT_SECONDS) // self.step
        for key in self.rings.keys() - {HOST, *known}:
            if self.rings[key].last < oldest:
                del self.rings[key]
        if self.step > STEP_SECONDS and self._fits(2 * len(self.rings), self.step // 2):
            self.step //= 2

    def dump(self) -> bytes:
        """Return everything, for the next run of the agent."""
        rings = {
            key: (ring.last, ring.numbers.tobytes())
            for key in self.rings
            if (ring := self._ring(key))
        }
        return msgspec.msgpack.encode(_Kept(self.step, rings))

    def load(self, given: bytes) -> None:
        """Take over what another run has dumped, as far as it fits."""
        kept = msgspec.msgpack.decode(given, type=_Kept)
        if kept.step not in _STEPS:
            return
        self.step = kept.step
        for key, (last, numbers) in kept.rings.items():
            series = len(HOST_SERIES) if key == HOST else len(GUEST_SERIES)
            ring = Ring(array("f"), self.step, last)
            if len(numbers) == 4 * series * self.slots and self._fits(
                len(self.rings) + 1, self.step
            ):
                ring.numbers.frombytes(numbers)
                self.rings[key] = ring

    def _turn(self, ring: Ring, slot: int, series: int) -> None:
        """Begin another slot, and empty those that were left out."""
        slots = self.slots
        ahead = slot - ring.last
        # a clock that was set back begins anew
        for each in range(slots) if not 0 < ahead < slots else range(ring.last + 1, slot + 1):
            for start in range(each % slots, series * slots, slots):
                ring.numbers[start] = nan
        ring.last, ring.count = slot, 0

    def _fits(self, rings: int, step: int) -> bool:
        return self._bytes(rings, step) <= self.limit_bytes

    def _bytes(self, rings: int, step: int) -> int:
        slots = HOUR_SECONDS // step
        return rings * (4 * slots * len(GUEST_SERIES) + OVERHEAD_BYTES)

    def _ring(self, key: str) -> Ring | None:
        """Return a ring with slots as they are now."""
        ring = self.rings.get(key)
        if ring is not None and ring.step != self.step:
            ring = self.rings[key] = reshaped(ring, self.step)
        return ring


def reshaped(ring: Ring, step: int) -> Ring:
    """Return a ring with slots of another time: means of several, or each number repeatedly."""
    former, slots = HOUR_SECONDS // ring.step, HOUR_SECONDS // step
    series = len(ring.numbers) // former
    last = (ring.last * ring.step + max(0, ring.step - step)) // step
    made = Ring(_empty(series * slots), step, last, 1)
    oldest = ring.last - former + 1
    for slot in range(last - slots + 1, last + 1):
        begin = slot * step // ring.step
        end = ((slot + 1) * step - 1) // ring.step + 1
        olds = range(max(begin, oldest), min(end, ring.last + 1))
        for one in range(series):
            several = [ring.numbers[one * former + old % former] for old in olds]
            good = [number for number in several if not isnan(number)]
            if good:
                made.numbers[one * slots + slot % slots] = sum(good) / len(good)
    return made


_STEPS: Final = {STEP_SECONDS << doubled for doubled in range(7)}


def _empty(length: int) -> array[float]:
    return array("f", [nan]) * length


def _short(number: float) -> float:
    """Return a float as short as its precision is."""
    return float(f"{number:.6g}")

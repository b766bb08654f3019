"""
When the counters of a guest's run began, for receivers that have to know.

They began with the process that runs the guest: where the kernel has that time, it stays the same
however often the agent is started. Where it did not, a run began with its first reading.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from virtstatd.formats.lifetimes import DAY, HOUR
from virtstatd.model import Batch, Domain, Reading, Shape


SECOND: Final = 10**9

LEARN_NS: Final = 30 * SECOND
"""So long the start of a process may come later than the first numbers of its guest."""

START: Final = "libvirt_domain_start_time_seconds"

COUNTED_HERE: Final = frozenset(
    {
        "libvirt_domain_overhead_seconds",
        "libvirt_domain_steal_ratio",
        "libvirt_domain_saturation_ratio",
    }
)
"""What the agent counts itself, from its own start on."""


class Runs:
    """
    Remember when each incarnation of a domain began, which is where its counters do.

    `learn` takes the start of processes from batches. Without it a run that was first seen so late
    that nothing more is to come began with its first reading. The beginning is *witnessed* when its
    counters were at zero then: the process's start is known, another run of the domain is, or
    everything that ran at the first batch has long been seen. A domain from which nothing came for
    a day is forgotten: the news of its end may have been lost.
    """

    def __init__(self) -> None:
        self._began: dict[str | None, tuple[int, int, bool]] = {}
        self._seen: dict[str | None, int] = {}
        self._forgot_at = 0
        self._complete_at: int | None = None
        self._started: dict[str, tuple[int, int]] = {}
        self._places: WeakKeyDictionary[Shape, int | None] = WeakKeyDictionary()
        self._counted_here: WeakKeyDictionary[Shape, bool] = WeakKeyDictionary()

    def learn(self, batch: Batch) -> None:
        """Take the starts of processes; the first one of a run stays, whatever the clock does."""
        for reading in batch.readings:
            domain, place = reading.domain, self._place(reading.shape)
            if domain is None or place is None:
                continue
            if self._started.get(domain.uuid, (None,))[0] != domain.id:
                exponent = reading.shape.series[place].exponent
                seconds = int(reading.values[place] * 10**exponent)
                if seconds > 0:
                    self._started[domain.uuid] = domain.id, seconds * SECOND

    def began(self, reading: Reading, batch: Batch) -> int:
        """Return when the counters of a reading began, in nanoseconds, 0 while that may come."""
        _, first, _ = self._known(reading.domain, batch)
        if reading.domain is None or self._is_counted_here(reading.shape):
            return min(first, batch.taken_at)
        if started := self._start(reading.domain, batch):
            return started
        return 0 if batch.taken_at - first < LEARN_NS else first

    def witnessed(self, reading: Reading, batch: Batch) -> int:
        """Return when the counters of a reading were zero, in nanoseconds, 0 where unknown."""
        _, first, witnessed = self._known(reading.domain, batch)
        here = reading.domain is None or self._is_counted_here(reading.shape)
        if not here and (started := self._start(reading.domain, batch)):
            return started
        return first if witnessed and first <= batch.taken_at else 0

    def settle(self, batch: Batch) -> None:
        """Forget the runs that have ended."""
        for domain in batch.gone:
            if self._began.get(domain.uuid, (None,))[0] == domain.id:
                del self._began[domain.uuid]
                self._seen.pop(domain.uuid, None)
            if self._started.get(domain.uuid, (None,))[0] == domain.id:
                del self._started[domain.uuid]
        if batch.taken_at - self._forgot_at > HOUR:
            self._forgot_at = batch.taken_at
            oldest = batch.taken_at - DAY
            self._seen = {uuid: seen for uuid, seen in self._seen.items() if seen >= oldest}
            self._began = {uuid: self._began[uuid] for uuid in self._seen}
            self._started = {u: each for u, each in self._started.items() if u in self._seen}

    def _start(self, domain: Domain | None, batch: Batch) -> int:
        run, started = self._started.get(domain.uuid, (None, 0)) if domain else (None, 0)
        return started if domain and run == domain.id and started <= batch.taken_at else 0

    def _place(self, shape: Shape) -> int | None:
        if shape not in self._places:
            names = [each.field.family for each in shape.series]
            self._places[shape] = names.index(START) if START in names else None
        return self._places[shape]

    def _is_counted_here(self, shape: Shape) -> bool:
        if shape not in self._counted_here:
            names = {each.field.family for each in shape.series}
            self._counted_here[shape] = not COUNTED_HERE.isdisjoint(names)
        return self._counted_here[shape]

    def _known(self, domain: Domain | None, batch: Batch) -> tuple[int, int, bool]:
        if self._complete_at is None:
            self._complete_at = batch.taken_at + round(batch.lifetime_seconds * 1e9)
        uuid, run = (domain.uuid, domain.id) if domain else (None, 0)
        known = self._began.get(uuid)
        if known is None or known[0] != run:
            new = known is not None or batch.taken_at > self._complete_at
            known = self._began[uuid] = run, batch.taken_at, new and domain is not None
        if batch.taken_at - self._seen.get(uuid, 0) > HOUR:
            self._seen[uuid] = batch.taken_at
        return known

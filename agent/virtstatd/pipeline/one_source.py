"""
Two sources, one series: while the local lane's reading is fresh, libvirt's number is left out.

Libvirt counts a vCPU's time in ticks of 10 ms, the kernel's own file in nanoseconds. Both are true,
but one after the other they are a counter that goes backwards, which every reader takes for a
restart. So a series has one source at a time, for every sink:

- The lane's first reading of a domain is not sent; from then on libvirt's numbers for its series
  are left out. Whatever of libvirt's was sent before was read before, and is therefore not higher.
- When the lane's readings have ceased, libvirt's numbers come back: those asked for later than the
  lane's last reading, and never less than it, since a counter that was there cannot be below.

What is left out is not wasted: each counter must lie between the lane's readings before and after
the call. One that does not is counted and named.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from virtstatd.model import Batch, Domain, Kind, Labels, Number, Reading, Shape


COVERED = frozenset({"bulk", "cpu_stats"})
"""The sources that ask libvirt for what the lane may read as well."""

TOLERANCE_NANOSECONDS = 20_000_000
"""Libvirt's clocks count ticks of 10 ms, one for user and one for system time."""

UNLIKE = frozenset({"libvirt_domain_vcpu_wait_seconds"})
"""Always 0 with libvirt 9 on current kernels, and nanoseconds of another file before."""

PLANS = 16
"""Shapes of libvirt's that are remembered per domain; hot-plugging makes new ones."""

Claim = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a shape of libvirt's the lane covers, where to compare, and what is left."""

    covered: tuple[int, ...]
    compared: tuple[tuple[int, Claim], ...]
    kept: tuple[int, ...]
    part: Shape | None


@dataclass(slots=True)
class _Covered:
    """What the lane last said about one incarnation."""

    domain: Domain
    at: float = 0.0
    taken_at: int = 0
    shapes: tuple[Shape, ...] = ()
    claims: dict[Claim, tuple[int, int]] = field(default_factory=dict)
    values: tuple[tuple[Number, ...], ...] = ()
    former: dict[Claim, tuple[int, Number]] = field(default_factory=dict)
    arrived_at: int = 0
    waiting: list[tuple[Claim, Number, Number]] = field(default_factory=list)
    waiting_since: int = 0
    plans: dict[Shape, _Plan] = field(default_factory=dict)

    def value(self, claim: Claim) -> Number:
        reading, at = self.claims[claim]
        return self.values[reading][at]


class Cover:
    """
    Stands in front of the sinks: lets one source through for each series.

    `clock` returns monotonic seconds, `wall` Unix time in nanoseconds; a reading of the lane is
    fresh for `fresh_seconds`.
    """

    def __init__(
        self,
        emit: Callable[[Batch], None],
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._wall = wall
        self.disagreements: Counter[str] = Counter()
        self._emit = emit
        self._clock = clock
        self.fresh_seconds = fresh_seconds
        self._covered: dict[str, _Covered] = {}
        self._parts: WeakKeyDictionary[Shape, dict[tuple[int, ...], Shape]] = WeakKeyDictionary()

    def __call__(self, batch: Batch) -> None:
        """Pass on a batch of any source but the lane, without what the lane says better."""
        for domain in batch.gone:
            known = self._covered.get(domain.uuid)
            if known is not None and known.domain.id == domain.id:
                del self._covered[domain.uuid]
        if batch.source not in COVERED or not self._covered:
            self._emit(batch)
            return
        readings = [self._of(reading, batch.taken_at) for reading in batch.readings]
        self._emit(replace(batch, readings=tuple([r for r in readings if r is not None])))

    def take(self, batch: Batch) -> None:
        """Pass on a batch of the lane's, but for the first readings of a domain."""
        now = self._clock()
        several: dict[str, list[Reading]] = {}
        for reading in batch.readings:
            if reading.domain is not None:
                several.setdefault(reading.domain.uuid, []).append(reading)
        begun = {uuid for uuid, of in several.items() if not self._take(of, batch.taken_at, now)}
        if begun:
            kept = [r for r in batch.readings if r.domain is None or r.domain.uuid not in begun]
            batch = replace(batch, readings=tuple(kept))
        self._emit(batch)

    def _take(self, readings: Sequence[Reading], taken_at: int, now: float) -> bool:
        """Take note of what the lane says of a domain; return whether it had spoken before."""
        domain = readings[0].domain
        assert domain is not None  # noqa: S101 - those of the host are not noted
        known = self._covered.get(domain.uuid)
        spoken = known is not None and known.domain.id == domain.id
        if known is None or not spoken:
            known = self._covered[domain.uuid] = _Covered(domain)
        shapes = tuple([reading.shape for reading in readings])
        if shapes != known.shapes:
            claims = {
                (series.field.family, series.labels): (at, place)
                for at, shape in enumerate(shapes)
                for place, series in enumerate(shape.series)
            }
            for claim in known.claims.keys() - claims.keys():
                known.former[claim] = known.taken_at, known.value(claim)
            for claim in claims.keys() & known.former.keys():
                del known.former[claim]
            known.shapes, known.claims = shapes, claims
            known.plans.clear()
        known.values = tuple([reading.values for reading in readings])
        known.at, known.taken_at, known.arrived_at = now, taken_at, self._wall()
        if known.waiting and taken_at >= known.waiting_since:
            self._settle(known)
        return spoken

    def _of(self, reading: Reading, taken_at: int) -> Reading | None:
        """Return what of libvirt's reading is passed on."""
        known = self._covered.get(reading.domain.uuid) if reading.domain else None
        if known is None or reading.domain is None or known.domain.id != reading.domain.id:
            return reading
        fresh = self._clock() - known.at <= self.fresh_seconds
        if not fresh or known.former:
            return self._late(reading, known, taken_at, fresh=fresh)
        plan = known.plans.get(reading.shape) or self._plan(reading.shape, known)
        if not plan.covered:
            return reading
        if known.arrived_at <= taken_at:
            known.waiting += [(c, reading.values[at], known.value(c)) for at, c in plan.compared]
            known.waiting_since = self._wall()
        if plan.part is None:
            return None
        return Reading(reading.domain, plan.part, tuple([reading.values[at] for at in plan.kept]))

    def _late(
        self, reading: Reading, known: _Covered, taken_at: int, *, fresh: bool
    ) -> Reading | None:
        """Return libvirt's numbers where the lane has ceased: none of before, none below."""
        values = list(reading.values)
        out: list[int] = []
        for place, series in enumerate(reading.shape.series):
            claim = series.field.family, series.labels
            if claim in known.claims:
                last_at, last = known.taken_at, known.value(claim)
                ceased = not fresh
            elif claim in known.former:
                last_at, last = known.former[claim]
                ceased = True
            else:
                continue
            # a time ahead of the clock was taken before somebody set the clock back
            if not ceased or taken_at <= last_at <= self._wall():
                out.append(place)
            elif series.field.kind is Kind.COUNTER:
                values[place] = max(values[place], last)
        kept = tuple(sorted(set(range(len(values))) - set(out)))
        if not kept:
            return None
        part = self._part(reading.shape, kept) if out else reading.shape
        return Reading(reading.domain, part, tuple([values[at] for at in kept]))

    def _settle(self, known: _Covered) -> None:
        """Hold libvirt's numbers against the readings before and after them."""
        waiting, known.waiting = known.waiting, []
        for claim, number, before in waiting:
            if claim not in known.claims:
                continue
            margin = TOLERANCE_NANOSECONDS if claim[0].endswith("_seconds") else 0
            if not before - margin <= number <= known.value(claim) + margin:
                self.disagreements[claim[0]] += 1

    def _plan(self, shape: Shape, known: _Covered) -> _Plan:
        claims = [(series.field.family, series.labels) for series in shape.series]
        covered = tuple(at for at, claim in enumerate(claims) if claim in known.claims)
        compared = tuple(
            (at, claims[at])
            for at in covered
            if shape.series[at].field.kind is Kind.COUNTER and claims[at][0] not in UNLIKE
        )
        kept = tuple(sorted(set(range(len(claims))) - set(covered)))
        if len(known.plans) >= PLANS:
            known.plans.clear()
        part = self._part(shape, kept) if kept else None
        plan = known.plans[shape] = _Plan(covered, compared, kept, part)
        return plan

    def _part(self, shape: Shape, kept: tuple[int, ...]) -> Shape:
        """Return the shape that is left; shared by the domains that are built alike."""
        parts = self._parts.setdefault(shape, {})
        part = parts.get(kept)
        if part is None:
            part = parts[kept] = Shape(shape.group, tuple(shape.series[at] for at in kept))
        return part

"""
Two sources, one series: while the kernel's reading is fresh, libvirt's number is left out.

Libvirt counts a vCPU's time in ticks of 10 ms, the kernel's own file in nanoseconds. Both are true,
but one after the other they are a counter that goes backwards, which every reader takes for a
restart. So a series has one source at a time, for every sink:

- The kernel's first reading of a domain is not sent, and libvirt's numbers go on: the second may be
  minutes away. From the second on the kernel's are sent and libvirt's left out, unless one of
  libvirt's was sent after the reading was taken: then the next one is. Whatever of libvirt's was
  sent before was read before, and is therefore not higher.
- When the kernel's readings have ceased, libvirt's numbers come back: those asked for later than
  the kernel's last reading. One that is below it by less than libvirt's precision is held at it;
  one that is below by more is of a counter that begins again, and is passed on.

What is left out is not wasted: each counter must lie between the kernel's readings before and after
the call. One that does not is counted and named.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Row
from virtstatd.model import Batch, Domain, Kind, Labels, Number, Reading, Series, Shape


COVERING = ("local", "local cgroup")
"""The sources that read of the kernel what libvirt reports as well."""

COVERED = frozenset({"bulk", "cpu_stats"})
"""The sources that ask libvirt for it."""

TOLERANCE_SECONDS = 0.02
"""Libvirt's clocks count ticks of 10 ms, one for user and one for system time."""

UNLIKE = frozenset({"libvirt_domain_vcpu_wait_seconds"})
"""
Always 0 with libvirt 9 on current kernels, and nanoseconds of another file before: not comparable.

Where the kernel has ceased, such a number never goes below the kernel's last one.
"""

PLANS = 16
"""Shapes of libvirt's that are remembered per domain; hot-plugging makes new ones."""

Claim = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a shape of libvirt's the kernel covers, where to compare, and what is left."""

    covered: tuple[int, ...]
    compared: tuple[tuple[int, Claim, int], ...]
    kept: tuple[int, ...]
    part: Shape | None


@dataclass(slots=True)
class _Covered:
    """
    What the kernel last said about one incarnation.

    Until its readings are `sent`, and from the end of their life at `until`, libvirt's numbers are
    passed on, the last ones at `passed_at`.
    """

    domain: Domain
    sent: bool = False
    until: float = 0.0
    taken_at: int = 0
    passed_at: int = 0
    shapes: tuple[Shape, ...] = ()
    claims: dict[Claim, tuple[int, int]] = field(default_factory=dict)
    values: tuple[tuple[Number, ...], ...] = ()
    former: dict[Claim, tuple[int, Number]] = field(default_factory=dict)
    arrived_at: int = 0
    waiting: list[tuple[Claim, int, Number, Number]] = field(default_factory=list)
    waiting_since: int = 0
    plans: dict[Shape, _Plan] = field(default_factory=dict)

    def value(self, claim: Claim) -> Number:
        reading, at = self.claims[claim]
        return self.values[reading][at]


class OneSource:
    """
    Let one source through for each series, and hand each batch to every outlet; never wait.

    `clock` returns monotonic seconds, `wall` Unix time in nanoseconds. What the kernel said stands
    for libvirt's for as long as its batch lives.
    """

    def __init__(
        self,
        offers: Sequence[Callable[[Batch], None]],
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._offers = offers
        self._log = log
        self._layers = {source: _Layer(clock, wall) for source in COVERING}
        self._disagreed: set[str] = set()

    def __call__(self, batch: Batch) -> None:
        """Take a batch of any source and offer to all outlets what is passed on of it."""
        kernel = self._layers.get(batch.source)
        if kernel is not None:
            batch = kernel.taken(batch)
        elif batch.gone or batch.source in COVERED:
            for layer in self._layers.values():
                batch = layer.without(batch)
        for offer in self._offers:
            offer(batch)
        if kernel is not None and len(kernel.disagreements) > kernel.reported:
            self._report(kernel)

    def left(self, domain: Domain, shape: Shape) -> Shape | None:
        """Return what of a shape of libvirt's would be passed on now, None for nothing."""
        kept: Shape | None = shape
        for layer in self._layers.values():
            kept = layer.left(domain, kept) if kept else None
        return kept

    def numbers(self) -> Iterator[Row]:
        """Yield how many of libvirt's numbers were not between the kernel's."""
        for name, count in sorted(self._disagreements().items()):
            yield "local_disagreements", {"field": name}, count

    def _disagreements(self) -> Counter[str]:
        return sum((layer.disagreements for layer in self._layers.values()), Counter())

    def _report(self, layer: _Layer) -> None:
        """Log a field that does not agree, once each."""
        layer.reported = len(layer.disagreements)
        for name in layer.disagreements.keys() - self._disagreed:
            self._disagreed.add(name)
            self._log.warning("local.disagreed", field=name)


class _Layer:
    """What one source of the kernel's covers of libvirt's series."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], int]) -> None:
        self.disagreements: Counter[str] = Counter()
        self.reported = 0
        self._clock = clock
        self._wall = wall
        self._covered: dict[str, _Covered] = {}
        self._parts: WeakKeyDictionary[Shape, dict[tuple[int, ...], Shape]] = WeakKeyDictionary()

    def without(self, batch: Batch) -> Batch:
        """Return a batch of libvirt's without what the kernel says better."""
        for domain in batch.gone:
            known = self._covered.get(domain.uuid)
            if known is not None and known.domain is domain:
                del self._covered[domain.uuid]
        if batch.source not in COVERED or not self._covered:
            return batch
        readings = [self._of(reading, batch.taken_at) for reading in batch.readings]
        return replace(batch, readings=tuple([r for r in readings if r is not None]))

    def left(self, domain: Domain, shape: Shape) -> Shape | None:
        """Return what of a shape of libvirt's the kernel's readings do not cover at present."""
        known = self._covered.get(domain.uuid)
        if known is None or known.domain is not domain:
            return shape
        if not known.sent or self._clock() > known.until:
            return shape
        plan = known.plans.get(shape) or self._plan(shape, known)
        return plan.part if plan.covered else shape

    def taken(self, batch: Batch) -> Batch:
        """Return a batch of the kernel's, except for the first readings of a domain."""
        until = self._clock() + batch.lifetime_seconds
        several: dict[str, list[Reading]] = {}
        for reading in batch.readings:
            if reading.domain is not None:
                several.setdefault(reading.domain.uuid, []).append(reading)
        begun = {uuid for uuid, of in several.items() if not self._take(of, batch.taken_at, until)}
        if begun:
            kept = [r for r in batch.readings if r.domain is None or r.domain.uuid not in begun]
            batch = replace(batch, readings=tuple(kept))
        return batch

    def _take(self, readings: Sequence[Reading], taken_at: int, until: float) -> bool:
        """Take note of what the kernel says of a domain; return whether it is to be sent."""
        domain = readings[0].domain
        assert domain is not None  # noqa: S101 - those of the host are not noted
        known = self._covered.get(domain.uuid)
        first = known is None or known.domain is not domain
        if known is None or first:
            known = self._covered[domain.uuid] = _Covered(domain)
        now = self._wall()
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
        known.taken_at, known.arrived_at = taken_at, now
        if known.waiting and taken_at >= known.waiting_since:
            self._settle(known)
        # a time ahead of the clock is from before the clock was set back
        if first or taken_at <= known.passed_at <= now:
            return False
        known.sent, known.until = True, until
        return True

    def _of(self, reading: Reading, taken_at: int) -> Reading | None:
        """Return what of libvirt's reading is passed on."""
        known = self._covered.get(reading.domain.uuid) if reading.domain else None
        if known is None or known.domain is not reading.domain:
            return reading
        fresh = self._clock() <= known.until
        if not fresh:
            known.passed_at = self._wall()
        if not known.sent:
            return reading
        if not fresh or known.former:
            return self._late(reading, known, taken_at, fresh=fresh)
        plan = known.plans.get(reading.shape) or self._plan(reading.shape, known)
        if not plan.covered:
            return reading
        if known.arrived_at <= taken_at:
            known.waiting += [
                (claim, margin, reading.values[at], known.value(claim))
                for at, claim, margin in plan.compared
            ]
            known.waiting_since = self._wall()
        if plan.part is None:
            return None
        return Reading(reading.domain, plan.part, tuple([reading.values[at] for at in plan.kept]))

    def _late(
        self, reading: Reading, known: _Covered, taken_at: int, *, fresh: bool
    ) -> Reading | None:
        """Return libvirt's numbers where the kernel has ceased: none of before, none below."""
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
            # a time ahead of the clock is from before the clock was set back
            if not ceased or taken_at <= last_at <= self._wall():
                out.append(place)
            elif series.field.kind is Kind.COUNTER:
                below = last - values[place]
                if below > 0 and (claim[0] in UNLIKE or below <= _margin(series)):
                    values[place] = last
        kept = tuple(sorted(set(range(len(values))) - set(out)))
        if not kept:
            return None
        part = self._part(reading.shape, kept) if out else reading.shape
        return Reading(reading.domain, part, tuple([values[at] for at in kept]))

    def _settle(self, known: _Covered) -> None:
        """Hold libvirt's numbers against the readings before and after them."""
        waiting, known.waiting = known.waiting, []
        for claim, margin, number, before in waiting:
            if claim not in known.claims:
                continue
            if not before - margin <= number <= known.value(claim) + margin:
                self.disagreements[claim[0]] += 1

    def _plan(self, shape: Shape, known: _Covered) -> _Plan:
        claims = [(series.field.family, series.labels) for series in shape.series]
        covered = tuple(at for at, claim in enumerate(claims) if claim in known.claims)
        compared = tuple(
            (at, claims[at], _margin(shape.series[at]))
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


def _margin(series: Series) -> int:
    """Return libvirt's precision, as a reading has it: nothing but times is counted in ticks."""
    field_ = series.field
    return round(TOLERANCE_SECONDS * 10**-field_.exponent) if field_.unit == "seconds" else 0

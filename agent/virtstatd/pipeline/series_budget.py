"""
The limits on the series of a guest and of all guests: beyond them whole groups are left out.

    one source per series ──▶ series budget ──▶ routes ──▶ outlets

What is left out is decided by a fixed order and not by what came last, so that the same guest
always lacks the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from weakref import WeakKeyDictionary

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Emit, Row
from virtstatd.model import Batch, Domain, Reading, Series, Shape
from virtstatd.pipeline.picking import Picker


OTHERS: Final = "others"
VCPU_KVM: Final = "vcpu_kvm"

ORDER: Final = (
    "unknown",
    OTHERS,
    "vm",
    VCPU_KVM,
    "perf",
    "cpu_stats",
    "dirtyrate",
    "defined",
    "events",
    "last_job",
    "job",
    "iothread",
    "local_detail",
    "local_storm",
    "storage_disk",
    "tunable",
    "guest_cpu",
    "guest_facts",
    "guest",
    "guest_filesystem",
    "local_cgroup",
    "storage_limit",
    "disk_errors",
    "block",
    "net",
    "local_net",
    "domain",
)
"""
The groups, in the order in which they are left out.

`others` are those of collectors of other packages, `vcpu_kvm` is what KVM counts for each vCPU.
"""

UNKNOWN: Final = frozenset({"unknown_stat", "unknown_text_info"})
"""Fields that the catalog does not know; they come in libvirt's own groups, too."""

KEPT: Final = frozenset({"state", "control", "cpu", "vcpu", "local", "balloon", "memory"})
"""The groups that are never left out: state, CPU time, steal and memory."""

RETURN_SHARE: Final = 0.9
"""A group returns when everything with it would be below this share of the limit..."""

RETURN_SECONDS: Final = 600.0
"""...for so long."""

LOOK_SECONDS: Final = 10.0
"""How often it is looked whether groups may return, and what was left out is logged."""

NAMED: Final = 5
"""So many guests are named in one line of the log."""


class _Level:
    """How many groups of the order are left out: at once where too many, later where too few."""

    def __init__(self, limit: int) -> None:
        self.cut = 0
        self._limit = limit
        self._low_since: float | None = None

    def settle(self, counts: Mapping[str, int], now: float) -> None:
        """Judge what there is by group, whether or not it is left out."""
        if not self._limit:
            return
        needed = _level(counts, self._limit)
        if needed >= self.cut:
            self.cut, self._low_since = needed, None
            return
        enough = _level(counts, int(self._limit * RETURN_SHARE))
        if enough >= self.cut:
            self._low_since = None
        elif self._low_since is None:
            self._low_since = now
        elif now - self._low_since >= RETURN_SECONDS:
            self.cut, self._low_since = enough, None


@dataclass(slots=True)
class _Guest:
    """The shapes of one run by source and group, and the number of its series by unit."""

    domain: Domain
    level: _Level
    shapes: dict[tuple[str, str], Shape] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    passing: Counter[str] = field(default_factory=Counter)


class SeriesBudget:
    """Pass batches on without the groups that are too many; 0 is no limit."""

    def __init__(
        self,
        per_guest: int,
        per_host: int,
        offers: Sequence[Emit],
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_guest = per_guest
        self._offers = offers
        self._log = log
        self._clock = clock
        self._guests: dict[str, _Guest] = {}
        self._host = _Level(per_host)
        self._passing: Counter[str] = Counter()
        self._units: WeakKeyDictionary[Shape, Counter[str]] = WeakKeyDictionary()
        self._pickers: dict[tuple[str, int], Picker] = {}
        self._cutting: set[str] = set()
        self._reported: set[str] = set()
        self._looked_at = clock()

    def __call__(self, batch: Batch) -> None:
        """Take a batch; what is left of it is passed on, its groups in any case."""
        now = self._clock()
        changed = self._count(batch)
        for guest in changed:
            self._settle(guest, now)
        for domain in batch.gone:
            self._forget(domain)
        if changed:
            self._host.settle(self._passing, now)
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look(now)
        if self._host.cut or self._cutting:
            batch = replace(batch, readings=tuple(self._left(batch.readings)))
        for offer in self._offers:
            offer(batch)

    def numbers(self) -> Iterator[Row]:
        """Yield how many series of guests are passed on, and how many are left out by group."""
        left_out: Counter[str] = Counter()
        for unit, guests in self._cut_of().items():
            left_out[unit] = sum(guest.counts[unit] for guest in guests)
        every = sum(guest.counts.total() for guest in self._guests.values())
        yield "guest_series", {}, every - left_out.total()
        for unit in ORDER:
            if left_out[unit]:
                yield "cut_series", {"group": unit}, left_out[unit]

    def _count(self, batch: Batch) -> list[_Guest]:
        """Take note of the shapes of a batch; return the guests that have other ones now."""
        changed: dict[str, _Guest] = {}
        seen: dict[str, set[str]] = {}
        for reading in batch.readings:
            domain, shape = reading.domain, reading.shape
            if domain is None:
                continue
            guest = self._guests.get(domain.uuid)
            if guest is None or (guest.domain is not domain and guest.domain != domain):
                guest = self._begin(domain)
            key = batch.source, shape.group
            seen.setdefault(domain.uuid, set()).add(shape.group)
            if guest.shapes.get(key) is not shape:
                guest.shapes[key] = shape
                changed[domain.uuid] = guest
        for uuid, groups in seen.items():  # what was asked of a guest and not answered has ended
            guest = self._guests[uuid]
            for group in batch.groups - groups:
                if guest.shapes.pop((batch.source, group), None):
                    changed[uuid] = guest
        return list(changed.values())

    def _begin(self, domain: Domain) -> _Guest:
        if before := self._guests.get(domain.uuid):
            self._forget(before.domain)
        guest = self._guests[domain.uuid] = _Guest(domain, _Level(self._per_guest))
        return guest

    def _forget(self, domain: Domain) -> None:
        guest = self._guests.get(domain.uuid)
        if guest is not None and guest.domain == domain:
            del self._guests[domain.uuid]
            self._cutting.discard(domain.uuid)
            self._passing.subtract(guest.passing)

    def _settle(self, guest: _Guest, now: float) -> None:
        """Count a guest's series again, and judge them."""
        guest.counts = Counter()
        for shape in guest.shapes.values():
            guest.counts.update(self._units_of(shape))
        self._judge(guest, now)

    def _judge(self, guest: _Guest, now: float) -> None:
        guest.level.settle(guest.counts, now)
        (self._cutting.add if guest.level.cut else self._cutting.discard)(guest.domain.uuid)
        passing = Counter(guest.counts)
        for unit in ORDER[: guest.level.cut]:
            del passing[unit]
        self._passing.subtract(guest.passing)
        self._passing.update(passing)
        guest.passing = passing

    def _units_of(self, shape: Shape) -> Counter[str]:
        units = self._units.get(shape)
        if units is None:
            units = self._units[shape] = Counter(_unit(shape.group, s) for s in shape.series)
        return units

    def _look(self, now: float) -> None:
        """Let groups return whose time has come, and log what is left out or no longer so."""
        for uuid in list(self._cutting):
            self._judge(self._guests[uuid], now)
        self._host.settle(self._passing, now)
        cut = self._cut_of()
        for unit in ORDER:
            if unit in cut and unit not in self._reported:
                names = [guest.domain.name for guest in cut[unit]]
                of_host = ORDER.index(unit) < self._host.cut
                self._log.warning(
                    "series.cut",
                    group=unit,
                    limit="series_per_host" if of_host else "series_per_guest",
                    domains=names[:NAMED],
                    others=max(0, len(names) - NAMED),
                )
            elif unit in self._reported and unit not in cut:
                self._log.info("series.restored", group=unit)
        self._reported = set(cut)

    def _cut_of(self) -> dict[str, list[_Guest]]:
        """Return the guests by the groups that they lack."""
        cut: dict[str, list[_Guest]] = {}
        for guest in self._guests.values():
            for unit in ORDER[: max(guest.level.cut, self._host.cut)]:
                if guest.counts[unit]:
                    cut.setdefault(unit, []).append(guest)
        return cut

    def _left(self, readings: Sequence[Reading]) -> Iterator[Reading]:
        for reading in readings:
            guest = self._guests.get(reading.domain.uuid) if reading.domain else None
            level = max(guest.level.cut, self._host.cut) if guest else 0
            if not level or KEPT.issuperset(units := self._units_of(reading.shape)):
                yield reading
                continue
            cut = ORDER[:level]
            if len(units) == 1:
                if units.keys().isdisjoint(cut):
                    yield reading
            elif picked := self._picker(reading.shape.group, level)(reading.shape):
                shape, pick = picked
                yield Reading(reading.domain, shape, pick(reading.values)) if pick else reading

    def _picker(self, group: str, level: int) -> Picker:
        """Return what picks the series of a group that are left, where its parts differ."""
        if (group, level) not in self._pickers:
            cut = ORDER[:level]
            self._pickers[group, level] = Picker(lambda series: _unit(group, series) not in cut)
        return self._pickers[group, level]


def _level(counts: Mapping[str, int], limit: int) -> int:
    """Return how many groups of the order must be left out for the rest to be within a limit."""
    total = sum(counts.values())
    for level, unit in enumerate(ORDER):
        if total <= limit:
            return level
        total -= counts.get(unit, 0)
    return len(ORDER)


def _unit(group: str, series: Series) -> str:
    """Return the group of the order that a series belongs to, whatever group it came in."""
    if series.field.name in UNKNOWN:
        return "unknown"
    if group == "vcpu" and any(name == "stat" for name, _ in series.labels):
        return VCPU_KVM
    return group if group in KEPT or group in ORDER else OTHERS

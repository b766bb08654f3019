"""The newest reading of every group, for as long as it may be shown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

from virtstatd.formats.prometheus_text import TextTemplate, TextTemplates, label_text, text_template
from virtstatd.formats.runs import Runs
from virtstatd.model import Batch, Domain, Kind, Labels, Reading, Series


NANOSECONDS = 1e9
KERNEL = "local"
"""What names of sources begin with that read the kernel's files."""

LABELS_KEPT = 4
"""So many sets of labels of one guest are kept as text: its own, another tool's, and new ones."""

_Key = tuple[str, str]
"""Source and group: what a new reading of the same domain replaces."""


@dataclass(slots=True, eq=False)  # a frozen one takes twice as long to make
class HeldReading:
    """A reading with its template and its domain's labels as text, and until when it is shown."""

    reading: Reading
    template: TextTemplate
    labels: bytes
    arrival: int
    until: float
    began: int = 0


class Latest:
    """
    Hold the latest reading per domain, source and group, each for the lifetime of its batch.

    Where a reading expires, an older one of another source may still be current. Its counters are
    shown as the newer one left them, because they must not go back.

    `clock` returns monotonic seconds, `wall` nanoseconds as batches have them: a lifetime counts
    from when a reading was taken, so that what had to wait on its way is not shown as current.
    `version` rises when there may be something else to show. `runs` are for pages that show when
    counters began.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        wall: Callable[[], int] = time.time_ns,
        runs: Runs | None = None,
    ) -> None:
        self._clock = clock
        self._runs = runs
        self._wall = wall
        self._held: dict[str | None, dict[_Key, HeldReading]] = {}
        self._label_texts: dict[str, dict[Labels, bytes]] = {}
        self._runs_held: dict[str, int] = {}
        self._templates = TextTemplates()
        self._plans: dict[tuple[TextTemplate, ...], tuple[TextTemplate, ...]] = {}
        self._former_plans: dict[tuple[TextTemplate, ...], tuple[TextTemplate, ...]] = {}
        self._arrivals = 0
        self._earliest_end = float("inf")

    @property
    def version(self) -> int:
        """The number of the last change."""
        if self._clock() >= self._earliest_end:
            self._forget_the_old()
        return self._arrivals

    def put(self, batch: Batch) -> None:
        """
        Take over the readings of a batch and forget what it proves gone.

        What arrives later is newer: within a source the order is right, and the wall clock's steps
        must not decide between two.
        """
        self._arrivals += 1
        age = max(0, self._wall() - batch.taken_at) / NANOSECONDS
        until = self._clock() + batch.lifetime_seconds - age
        self._earliest_end = min(self._earliest_end, until)
        seen: dict[str | None, set[str]] = {}
        if self._runs:
            self._runs.learn(batch)
        for domain, readings in groupby(batch.readings, attrgetter("domain")):
            uuid = domain.uuid if domain else None
            if domain and self._runs_held.get(domain.uuid) != domain.id:
                self._forget_earlier_runs(domain)
            several, groups = self._held.setdefault(uuid, {}), seen.setdefault(uuid, set())
            labels = self._labels(domain)
            for reading in readings:
                shape = reading.shape
                groups.add(shape.group)
                began = self._runs.witnessed(reading, batch) if self._runs else 0
                key = batch.source, shape.group
                former = several.get(key)
                if former is not None and former.reading.shape is shape:
                    template = former.template
                else:
                    _end(several, key)
                    template = self._templates.get(shape, labelled=bool(labels))
                several[key] = HeldReading(reading, template, labels, self._arrivals, until, began)
        for uuid, groups in seen.items():
            for group in batch.groups - groups:
                _end(self._held[uuid], (batch.source, group))
        for domain in batch.gone:  # last: an incarnation that ended does not come back
            self._forget_run(domain)
        if self._runs:
            self._runs.settle(batch)

    def together(self) -> Iterator[list[HeldReading]]:
        """
        Yield what is held, a list for each domain's labels, newest reading first.

        It may be continued later: each list is of the time at which it is yielded.
        """
        self._forget_the_old()
        self._former_plans, self._plans = self._plans, {}  # only those in use live on
        domains: dict[bytes, list[str | None]] = {}
        for uuid, members in self._held.items():
            for labels in {held.labels for held in members.values()}:
                domains.setdefault(labels, []).append(uuid)
        for labels in sorted(domains):
            group = [
                held
                for uuid in domains[labels]
                for held in self._held.get(uuid, {}).values()
                if held.labels == labels
            ]
            if group:
                group.sort(key=_newest)
                yield group

    def planned(self, group: list[HeldReading]) -> tuple[TextTemplate, ...]:
        """
        Return the template of each reading; a series that two readings hold is the newer's.

        Prometheus would refuse a page that has a series twice.
        """
        templates = tuple([each.template for each in group])
        plan = self._plans.get(templates) or self._former_plans.get(templates)
        if plan is None:
            plan = _plan(group, templates)
        self._plans[templates] = plan
        return plan

    def _labels(self, domain: Domain | None) -> bytes:
        if domain is None:
            return b""
        texts = self._label_texts.setdefault(domain.uuid, {})
        text = texts.get(domain.labels)
        if text is None:
            if len(texts) >= LABELS_KEPT:
                texts.clear()
            text = texts[domain.labels] = label_text(domain.labels)
        return text

    def _forget_earlier_runs(self, domain: Domain) -> None:
        held = self._held.get(domain.uuid, {})
        for key in [key for key, each in held.items() if _id(each) != domain.id]:
            del held[key]
        self._runs_held[domain.uuid] = domain.id

    def _forget_run(self, domain: Domain) -> None:
        held = self._held.get(domain.uuid, {})
        for key in [key for key, each in held.items() if _id(each) == domain.id]:
            del held[key]
        if not held:
            self._held.pop(domain.uuid, None)
            self._forget_domain(domain.uuid)

    def _forget_domain(self, uuid: str) -> None:
        self._label_texts.pop(uuid, None)
        self._runs_held.pop(uuid, None)

    def _forget_the_old(self) -> None:
        now = self._clock()
        if now < self._earliest_end:
            return
        self._arrivals += 1
        for held in self._held.values():
            for key in [key for key, each in held.items() if each.until <= now]:
                _end(held, key)
        for uuid in [uuid for uuid, held in self._held.items() if not held]:
            del self._held[uuid]
            if uuid is not None:
                self._forget_domain(uuid)
        ends = (each.until for held in self._held.values() for each in held.values())
        self._earliest_end = min(ends, default=float("inf"))


def _newest(held: HeldReading) -> int:
    return -held.arrival


def _end(members: dict[_Key, HeldReading], key: _Key) -> None:
    """Forget a reading, if it is there; the kernel and libvirt have counters in common."""
    ended = members.pop(key, None)
    if ended is not None:
        kernels = key[0].startswith(KERNEL)
        for other, held in members.items():
            if held.arrival < ended.arrival and other[0].startswith(KERNEL) != kernels:
                members[other] = replace(held, reading=_kept_up(held.reading, ended.reading))


def _kept_up(reading: Reading, newer: Reading) -> Reading:
    """Return a reading with no counter below what a newer one, which has ended, had of it."""
    known = dict(zip(map(_claim, newer.shape.series), newer.values, strict=True))
    if known.keys().isdisjoint(map(_claim, reading.shape.series)):
        return reading
    values = [
        max(value, known.get(_claim(series), value)) if series.field.kind is Kind.COUNTER else value
        for series, value in zip(reading.shape.series, reading.values, strict=True)
    ]
    return replace(reading, values=tuple(values))


def _claim(series: Series) -> tuple[str, Labels]:
    return series.field.family, series.labels


def _id(held: HeldReading) -> int | None:
    return held.reading.domain.id if held.reading.domain else None


def _plan(
    members: list[HeldReading], templates: tuple[TextTemplate, ...]
) -> tuple[TextTemplate, ...]:
    """Return templates that leave out what an earlier, newer one shows already."""
    names = Counter(family.name for template in templates for family in template.families)
    several = {name for name, count in names.items() if count > 1}
    plan: list[TextTemplate] = []
    taken: set[str] = set()
    for held, template in zip(members, templates, strict=True):
        claims = template.claims(several) if several else frozenset()
        twice = taken & claims
        if twice:
            shape = held.reading.shape
            plan.append(text_template(shape, labelled=bool(held.labels), but=twice))
        else:
            plan.append(template)
        taken |= claims
    return tuple(plan)

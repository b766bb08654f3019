"""The newest reading of every group, for as long as it may be shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from virtstatd.formats.prometheus_text import TextTemplate, TextTemplates, label_text, text_template
from virtstatd.formats.runs import Runs
from virtstatd.model import Batch, Domain, Labels, Reading


NANOSECONDS = 1e9
LABELS_KEPT = 4
"""So many sets of labels of one guest are kept as text: its own, another tool's, and new ones."""

_Key = tuple[str, str]
"""Source and group: what a new reading of the same domain replaces."""


@dataclass(slots=True, eq=False)
class HeldReading:
    """A reading, and its rendered lines once a scrape needed them."""

    reading: Reading
    labels: bytes
    arrival: int
    until: float
    began: int = 0
    template: TextTemplate | None = None
    lines: tuple[bytes, ...] = ()

    def rendered(self, template: TextTemplate) -> tuple[bytes, ...]:
        """Return the lines of each family, rendered the first time only."""
        if self.template is not template:
            self.lines = tuple(template.render(self.reading.values, self.labels))
            self.template = template
        return self.lines


class Latest:
    """
    Hold the latest reading per domain, source and group, each for the lifetime of its batch.

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
        for reading in batch.readings:
            domain = reading.domain
            uuid = domain.uuid if domain else None
            if uuid not in seen:
                seen[uuid] = set()
                if domain:
                    self._forget_earlier_runs(domain)
            seen[uuid].add(reading.shape.group)
            began = self._runs.witnessed(reading, batch) if self._runs else 0
            held = HeldReading(reading, self._labels(domain), self._arrivals, until, began)
            self._held.setdefault(uuid, {})[batch.source, reading.shape.group] = held
        for uuid, groups in seen.items():
            for group in batch.groups - groups:
                self._held[uuid].pop((batch.source, group), None)
        for domain in batch.gone:  # last: an incarnation that ended does not come back
            self._forget_run(domain)
        if self._runs:
            self._runs.settle(batch)

    def together(self) -> list[list[HeldReading]]:
        """Return a snapshot of what is held: a list per domain's labels, newest reading first."""
        self._forget_the_old()
        groups: dict[bytes, list[HeldReading]] = {}
        for members in self._held.values():
            for held in members.values():
                groups.setdefault(held.labels, []).append(held)
        for group in groups.values():
            group.sort(key=lambda held: -held.arrival)
        self._former_plans, self._plans = self._plans, {}  # only those in use live on
        return [groups[labels] for labels in sorted(groups)]

    def planned(self, group: list[HeldReading]) -> tuple[TextTemplate, ...]:
        """
        Return the template of each reading; a series that two readings hold is the newer's.

        Prometheus would refuse a page that has a series twice.
        """
        labelled = bool(group[0].labels)
        templates = tuple(
            self._templates.get(each.reading.shape, labelled=labelled) for each in group
        )
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

    def _forget_run(self, domain: Domain) -> None:
        held = self._held.get(domain.uuid, {})
        for key in [key for key, each in held.items() if _id(each) == domain.id]:
            del held[key]
        self._sweep()

    def _forget_the_old(self) -> None:
        now = self._clock()
        if now < self._earliest_end:
            return
        self._arrivals += 1
        for held in self._held.values():
            for key in [key for key, each in held.items() if each.until <= now]:
                del held[key]
        self._sweep()
        ends = (each.until for held in self._held.values() for each in held.values())
        self._earliest_end = min(ends, default=float("inf"))

    def _sweep(self) -> None:
        for uuid in [uuid for uuid, held in self._held.items() if not held]:
            del self._held[uuid]
            if uuid is not None:
                self._label_texts.pop(uuid, None)


def _id(held: HeldReading) -> int | None:
    return held.reading.domain.id if held.reading.domain else None


def _plan(
    members: list[HeldReading], templates: tuple[TextTemplate, ...]
) -> tuple[TextTemplate, ...]:
    """Return templates that leave out what an earlier, newer one shows already."""
    plan: list[TextTemplate] = []
    taken: set[str] = set()
    for held, template in zip(members, templates, strict=True):
        twice = taken & template.claims
        if twice:
            shape = held.reading.shape
            plan.append(text_template(shape, labelled=bool(held.labels), but=twice))
        else:
            plan.append(template)
        taken |= template.claims
    return tuple(plan)

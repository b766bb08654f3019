"""
When series ended, for receivers that have to know.

A series ends when its domain does, when it is no longer in a reading of its group, when its group
was polled and not answered, or when nothing new came within the lifetime of its batch.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from virtstatd.model import Batch, Labels, Reading, Series


MILLISECOND = 1_000_000
HOUR = 3600 * 10**9
DAY = 24 * HOUR
MARKS_KEPT_MS = 600_000

GroupKey = tuple[str, str]
"""Source and group."""


@dataclass(frozen=True, slots=True)
class SentGroup:
    """
    What was last sent of one domain's group; times are Unix time in milliseconds.

    The series are kept instead of their shape, whose life is what encoders keep templates by.
    """

    id: int | None
    labels: Labels
    series: tuple[Series, ...]
    sent: int
    until: int


@dataclass(frozen=True, slots=True)
class EndedSeries:
    """Series to be marked as ended, at a time in milliseconds after their last sample."""

    labels: Labels
    series: tuple[Series, ...]
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send of a batch: readings that are in order, and series that ended."""

    readings: tuple[Reading, ...]
    ended: tuple[EndedSeries, ...]
    changes: dict[str | None, dict[GroupKey, SentGroup]]
    marks: dict[tuple[Labels, GroupKey], int]
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Undo:
    """What was held of the domains in a plan, and their marks, before it was settled."""

    held: dict[str | None, dict[GroupKey, SentGroup]]
    marks: dict[tuple[Labels, GroupKey], int | None]


class Staleness:
    """
    Compare batches with what a receiver has, and find the series that ended.

    A receiver knows series by their labels, and so do the marks: a domain that was built again
    under the name of another one continues its series.

    `plan` changes nothing, and may be called again with the same batch; `settle` follows when the
    receiver has it, or when it is on its way, and `undo` when it did not arrive.
    """

    def __init__(self) -> None:
        self._held: dict[str | None, dict[GroupKey, SentGroup]] = {}
        self._marks: dict[tuple[Labels, GroupKey], int] = {}
        self._earliest_end = 1 << 63

    def plan(self, batch: Batch) -> Plan:
        """Compare a batch with what the receiver has."""
        now = batch.taken_at // MILLISECOND
        until = now + int(batch.lifetime_seconds * 1000)
        changes: dict[str | None, dict[GroupKey, SentGroup]] = {}
        readings: list[Reading] = []
        source = f"{batch.source}{batch.piece}".rstrip("/")
        for reading in batch.readings:
            domain = reading.domain
            uuid = domain.uuid if domain else None
            labels = domain.labels if domain else ()
            key = source, reading.shape.group
            # A poll may have begun before the event that its domain ended. What would follow the
            # mark with an earlier time makes the receiver refuse the whole request.
            if self._marks and self._marks.get((labels, key), -1) >= now:
                continue
            readings.append(reading)
            changes.setdefault(uuid, {})[key] = SentGroup(
                domain.id if domain else None,
                labels,
                reading.shape.series,
                now,
                until,
            )
        after = self._after(batch, changes, now)
        return self._compared(tuple(readings), after, now)

    def settle(self, plan: Plan) -> Undo:
        """Note that the receiver has everything in a plan; return what `undo` takes back."""
        before = Undo(
            {uuid: self._held.get(uuid, {}) for uuid in plan.changes},
            {key: self._marks.get(key) for key in plan.marks},
        )
        for uuid, held in plan.changes.items():
            if held:
                self._held[uuid] = held
                self._earliest_end = min(
                    self._earliest_end, *(each.until for each in held.values())
                )
            else:
                self._held.pop(uuid, None)
        self._marks |= plan.marks
        if self._earliest_end < plan.milliseconds:
            ends = (each.until for held in self._held.values() for each in held.values())
            self._earliest_end = min(ends, default=1 << 63)
            old = plan.milliseconds - MARKS_KEPT_MS
            self._marks = {key: mark for key, mark in self._marks.items() if mark > old}
        return before

    def undo(self, settled: Sequence[Undo]) -> None:
        """Take back what was settled, in this order, since the receiver does not have it."""
        for each in reversed(settled):
            for uuid, held in each.held.items():
                self._held.pop(uuid, None)
                if held:
                    self._held[uuid] = held
                    ends = (group.until for group in held.values())
                    self._earliest_end = min(self._earliest_end, *ends)
            for key, mark in each.marks.items():
                self._marks.pop(key, None)
                if mark is not None:
                    self._marks[key] = mark

    def _after(
        self, batch: Batch, new: dict[str | None, dict[GroupKey, SentGroup]], now: int
    ) -> dict[str | None, dict[GroupKey, SentGroup]]:
        """Return what will be held of every domain that the batch changes anything of."""
        after: dict[str | None, dict[GroupKey, SentGroup]] = {}
        for uuid, held in new.items():
            kept = {**self._held.get(uuid, {}), **held}
            for group in batch.groups:
                if (batch.source, group) not in held:
                    kept.pop((batch.source, group), None)
            run = next(iter(held.values())).id
            after[uuid] = {key: each for key, each in kept.items() if each.id == run}
        if self._earliest_end < now and not batch.piece:  # the rest may be in another piece
            for uuid in self._held.keys() - after.keys():
                after[uuid] = dict(self._held[uuid])
            for uuid, kept in after.items():
                after[uuid] = {key: each for key, each in kept.items() if each.until >= now}
        for domain in batch.gone:  # last: an incarnation that ended does not come back
            kept = after.get(domain.uuid, self._held.get(domain.uuid, {}))
            after[domain.uuid] = {key: each for key, each in kept.items() if each.id != domain.id}
        return after

    def _compared(
        self,
        readings: tuple[Reading, ...],
        after: dict[str | None, dict[GroupKey, SentGroup]],
        now: int,
    ) -> Plan:
        ended: list[EndedSeries] = []
        marks: dict[tuple[Labels, GroupKey], int] = {}
        for uuid, held in after.items():
            before = self._held.get(uuid, {})
            dropped = [
                (key, each)
                for key, each in before.items()
                if (same := held.get(key)) is None
                or same.series is not each.series
                or same.labels != each.labels
            ]
            if not dropped:
                continue
            others = self._of_others(uuid, {each.labels for _, each in dropped}, after)
            current = {
                (each.labels, series)
                for each in (*held.values(), *others)
                for series in each.series
            }
            for key, each in dropped:
                series = tuple(s for s in each.series if (each.labels, s) not in current)
                if series:
                    mark = max(now, each.sent + 1)
                    ended.append(EndedSeries(each.labels, series, mark))
                    marks[each.labels, key] = mark
        return Plan(readings, tuple(ended), after, marks, now)

    def _of_others(
        self,
        uuid: str | None,
        labels: Collection[Labels],
        after: Mapping[str | None, dict[GroupKey, SentGroup]],
    ) -> list[SentGroup]:
        """Return what other domains will hold under these labels."""
        return [
            each
            for other, held in ChainMap(dict(after), self._held).items()
            if other != uuid
            for each in held.values()
            if each.labels in labels
        ]

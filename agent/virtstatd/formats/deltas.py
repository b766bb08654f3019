"""What counters have grown by since a receiver last had them, for those that want that alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from virtstatd.model import Batch, Kind, Number, Reading, Series, Shape


KEPT_NS = 3600 * 10**9
"""Time after which numbers of a guest from which nothing comes any more are forgotten."""

Whose = tuple[str | None, int, str, str]
"""A run of a guest, and source and group of its numbers."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Numbers that a receiver has, and when they were taken, in nanoseconds."""

    series: tuple[Series, ...]
    values: tuple[Number, ...]
    taken_at: int


@dataclass(frozen=True, slots=True)
class Grown:
    """A reading whose counters are growth since `start`; all else is as it was."""

    reading: Reading
    start: int


class Deltas:
    """
    Compare batches with what a receiver has.

    A counter that is new has grown by nothing. One that is smaller than before began again, and has
    grown by all that it is. `of` changes nothing, and may be called again with the same batch;
    `settle` follows when the receiver has it. What was lost on the way is in the next growth.
    """

    def __init__(self) -> None:
        self._counting: WeakKeyDictionary[Shape, tuple[int, ...]] = WeakKeyDictionary()
        self._sent: dict[Whose, Sent] = {}
        self._pruned_at = 0

    def of(self, batch: Batch) -> Iterator[Grown]:
        """Yield the readings of a batch."""
        for reading in batch.readings:
            before = self._sent.get(_whose(reading, batch))
            if before is None:
                before = Sent(reading.shape.series, reading.values, batch.taken_at)
            values = self._grown(reading, before)
            start = min(before.taken_at, batch.taken_at)
            yield Grown(Reading(reading.domain, reading.shape, values), start)

    def settle(self, batch: Batch) -> None:
        """Note that the receiver has a batch."""
        for reading in batch.readings:
            whose = _whose(reading, batch)
            new = Sent(reading.shape.series, reading.values, batch.taken_at)
            before = self._sent.get(whose)
            if batch.piece and before is not None:  # the rest is in another piece
                both = dict(zip(before.series, before.values, strict=True))
                both.update(zip(new.series, new.values, strict=True))
                new = Sent(tuple(both), tuple(both.values()), batch.taken_at)
            self._sent[whose] = new
        ended = {(domain.uuid, domain.id) for domain in batch.gone}
        if ended or batch.taken_at - self._pruned_at > KEPT_NS:
            oldest, self._pruned_at = batch.taken_at - KEPT_NS, batch.taken_at
            self._sent = {
                whose: sent
                for whose, sent in self._sent.items()
                if whose[:2] not in ended and sent.taken_at >= oldest
            }

    def _grown(self, reading: Reading, before: Sent) -> tuple[Number, ...]:
        series, values = reading.shape.series, reading.values
        counting = self._counting.get(reading.shape)
        if counting is None:
            counting = self._counting[reading.shape] = _counting(reading.shape)
        if not counting:
            return values
        if before.series is series:
            old = [before.values[index] for index in counting]
        else:
            known = dict(zip(before.series, before.values, strict=True))
            old = [known.get(series[index], values[index]) for index in counting]
        grown = list(values)
        for index, was in zip(counting, old, strict=True):
            if math.isfinite(was):
                grown[index] = values[index] - was if values[index] >= was else values[index]
            else:
                grown[index] = 0
        return tuple(grown)


def _whose(reading: Reading, batch: Batch) -> Whose:
    domain = reading.domain
    run = (domain.uuid, domain.id) if domain else (None, 0)
    return (*run, batch.source, reading.shape.group)


def _counting(shape: Shape) -> tuple[int, ...]:
    """Return the places of counters and of the parts of histograms."""
    kinds = (Kind.COUNTER, Kind.HISTOGRAM)
    return tuple(index for index, each in enumerate(shape.series) if each.field.kind in kinds)

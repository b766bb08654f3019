"""Cut batches, for destinations that limit their size or refuse some series."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar
from weakref import WeakKeyDictionary

from virtstatd.model import Batch, Domain, Reading, Series, Shape


UnitKey = tuple[str | None, Series]
"""A domain's UUID, None for the host, and the first series of a unit."""

T = TypeVar("T")


class Splitter:
    """
    Cut batches into parts that are valid by themselves.

    Cuts are between domains if there are several, else between readings, else between series; the
    parts of one histogram stay together. Shapes of parts are kept beside their whole, so that an
    encoder compiles them once.
    """

    def __init__(self) -> None:
        self._cuts: WeakKeyDictionary[Shape, dict[frozenset[int], Shape]] = WeakKeyDictionary()

    def halves(self, batch: Batch) -> tuple[Batch, ...]:
        """Return two halves, and what is gone as a third part; nothing for a single unit."""
        parts = self._readings(batch) if batch.readings else ()
        if not batch.gone or not batch.readings:
            return parts
        cut = batch.piece or "/"
        last = replace(batch, readings=(), groups=frozenset(), piece=cut)
        return (*(parts or (replace(batch, gone=(), piece=cut),)), last)

    def head(self, batch: Batch, samples: int) -> tuple[Batch, Batch] | None:
        """Cut between two guests so that the first part has so many samples at most, if it can."""
        guests = list(_by_guest(batch).values())
        sums = list(accumulate(_samples(of) for of in guests))
        at = sum(each <= samples for each in sums)
        if not 0 < at < len(guests):
            return None
        first, rest = (
            tuple(each for of in part for each in of) for part in (guests[:at], guests[at:])
        )
        whole = replace(batch, piece=batch.piece or "/")
        return replace(whole, readings=first, gone=()), replace(whole, readings=rest)

    def shards(self, batch: Batch, lane_of: Callable[[str | None], int]) -> list[tuple[int, Batch]]:
        """Cut by guest, of which each has a lane; a batch of one lane stays whole."""
        readings: dict[int, list[Reading]] = {}
        for reading in batch.readings:
            uuid = reading.domain.uuid if reading.domain else None
            readings.setdefault(lane_of(uuid), []).append(reading)
        gone: dict[int, list[Domain]] = {}
        for domain in batch.gone:
            gone.setdefault(lane_of(domain.uuid), []).append(domain)
        numbers = sorted({*readings, *gone})
        if len(numbers) <= 1:
            return [(numbers[0] if numbers else 0, batch)]
        return [
            (
                number,
                replace(
                    batch,
                    readings=tuple(readings.get(number, ())),
                    gone=tuple(gone.get(number, ())),
                    piece=batch.piece or "/",
                ),
            )
            for number in numbers
        ]

    def without(self, batch: Batch, bad: Collection[UnitKey]) -> tuple[Batch, Batch | None]:
        """Return the batch without the units whose keys are bad, and the bad ones, None if none."""
        uuids = {uuid for uuid, _ in bad}
        good: list[Reading] = []
        apart: list[Reading] = []
        for reading in batch.readings:
            uuid = reading.domain.uuid if reading.domain else None
            taken: list[int] = []
            if uuid in uuids:
                for unit in units(reading.shape):
                    if (uuid, reading.shape.series[unit[0]]) in bad:
                        taken += unit
            if not taken:
                good.append(reading)
                continue
            rest = [at for at in range(len(reading.values)) if at not in set(taken)]
            apart.append(self._part(reading, taken))
            if rest:
                good.append(self._part(reading, rest))
        if not apart:
            return batch, None
        # The rest is complete for a receiver that never had the others, so it needs no `piece`.
        some = replace(batch, readings=tuple(apart), groups=frozenset(), gone=(), piece="/poison")
        return replace(batch, readings=tuple(good)), some

    def _readings(self, batch: Batch) -> tuple[Batch, ...]:
        domains = _by_guest(batch)
        if len(domains) > 1:
            return tuple(
                replace(
                    batch,
                    readings=tuple(each for of in half for each in of),
                    gone=(),
                    piece=batch.piece or "/",
                )
                for half in _halved(list(domains.values()), _samples)
            )
        if len(batch.readings) > 1:
            present = {reading.shape.group for reading in batch.readings}
            first, second = (
                replace(
                    batch,
                    readings=tuple(half),
                    groups=batch.groups & {reading.shape.group for reading in half},
                    gone=(),
                    piece=batch.piece or "/",
                )
                for half in _halved(batch.readings, lambda reading: len(reading.values))
            )
            # An absent group is in one half only; a group in both halves must be missed by neither.
            shared = first.groups & second.groups
            absent = batch.groups - present
            return (
                replace(first, groups=(first.groups | absent) - shared),
                replace(second, groups=second.groups - shared),
            )
        (reading,) = batch.readings
        if len(all_units := units(reading.shape)) < 2:  # noqa: PLR2004 - nothing to cut
            return ()
        return tuple(
            replace(
                batch,
                readings=(self._part(reading, [at for unit in half for at in unit]),),
                groups=frozenset(),
                gone=(),
                piece=f"{batch.piece or '/'}{number}",
            )
            for number, half in enumerate(_halved(all_units, len))
        )

    def _part(self, reading: Reading, places: Sequence[int]) -> Reading:
        key = frozenset(places)
        cuts = self._cuts.setdefault(reading.shape, {})
        if (shape := cuts.get(key)) is None:
            series = tuple(reading.shape.series[at] for at in places)
            shape = cuts[key] = Shape(reading.shape.group, series)
        return replace(reading, shape=shape, values=tuple(reading.values[at] for at in places))


def units(shape: Shape) -> list[range]:
    """Return the indivisible units of a shape: the places of a series or of a whole histogram."""
    found: list[range] = []
    before: object = None
    for at, series in enumerate(shape.series):
        own = (series.field, series.base_labels) if series.part else None
        if own is not None and own == before:
            found[-1] = range(found[-1].start, at + 1)
        else:
            found.append(range(at, at + 1))
        before = own
    return found


def keys_of(batch: Batch) -> Iterator[UnitKey]:
    """Yield the key of each unit."""
    for reading in batch.readings:
        uuid = reading.domain.uuid if reading.domain else None
        for unit in units(reading.shape):
            yield uuid, reading.shape.series[unit[0]]


def key_of(batch: Batch) -> UnitKey | None:
    """Return the key of the first unit, None where there is none."""
    return next(keys_of(batch), None)


def dealt(batches: Sequence[Batch], lanes: int) -> dict[str | None, int]:
    """Deal the guests of some batches to lanes, each to the one with the fewest samples so far."""
    sizes: dict[str | None, int] = {}
    for batch in batches:
        for domain in batch.gone:
            sizes.setdefault(domain.uuid, 0)
        for reading in batch.readings:
            uuid = reading.domain.uuid if reading.domain else None
            sizes[uuid] = sizes.get(uuid, 0) + len(reading.values)
    loads = [(0, lane) for lane in range(lanes)]
    found: dict[str | None, int] = {}
    for uuid in sorted(sizes, key=lambda each: -sizes[each]):
        load, lane = loads[0]
        found[uuid] = lane
        heapq.heapreplace(loads, (load + sizes[uuid], lane))
    return found


def _by_guest(batch: Batch) -> dict[str | None, list[Reading]]:
    """Return the readings of each guest by its UUID, of the host by None."""
    guests: dict[str | None, list[Reading]] = {}
    for reading in batch.readings:
        uuid = reading.domain.uuid if reading.domain else None
        guests.setdefault(uuid, []).append(reading)
    return guests


def _samples(readings: Sequence[Reading]) -> int:
    return sum(len(reading.values) for reading in readings)


def _halved(items: Sequence[T], size: Callable[[T], int]) -> tuple[Sequence[T], Sequence[T]]:
    """Cut two items or more at half of the samples."""
    at = halved([size(item) for item in items])
    return items[:at], items[at:]


def halved(sizes: Sequence[int]) -> int:
    """Return where to cut two sizes or more at half of their sum; neither side is empty."""
    sums = list(accumulate(sizes))
    at = next(at for at, before in enumerate(sums, 1) if 2 * before >= sums[-1])
    return min(max(at, 1), len(sizes) - 1)

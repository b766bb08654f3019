"""Cut batches, for destinations that limit their size or refuse some series."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar
from weakref import WeakKeyDictionary

from virtstatd.model import Batch, Reading, Series, Shape


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
        domains: dict[str | None, list[Reading]] = {}
        for reading in batch.readings:
            uuid = reading.domain.uuid if reading.domain else None
            domains.setdefault(uuid, []).append(reading)
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


def _samples(readings: Sequence[Reading]) -> int:
    return sum(len(reading.values) for reading in readings)


def _halved(items: Sequence[T], size: Callable[[T], int]) -> tuple[Sequence[T], Sequence[T]]:
    """Cut two items or more at half of the samples; neither side is empty."""
    sums = list(accumulate(size(item) for item in items))
    at = next(at for at, before in enumerate(sums, 1) if 2 * before >= sums[-1])
    at = min(max(at, 1), len(items) - 1)
    return items[:at], items[at:]

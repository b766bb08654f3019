"""Finding numbers in readings by the name of their metric, planned once per set of shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from weakref import WeakKeyDictionary

from virtstatd.model import Labels, Number, Shape


SHORTEST_SECONDS: Final = 0.05
"""Two readings closer than this give no rate."""

WINDOW_SECONDS: Final = 2.5
"""Rates are over so much at least, where readings are not rarer."""

FIRST: Final = {"local": 0, "local cgroup": 0, "local summary": 0}
"""Sources whose numbers are finer than those of others, as long as they are current."""


@dataclass(slots=True, eq=False)
class HeldValues:
    """
    A reading, when it was taken and until when it is current.

    Rates are since `before`, an earlier reading; `next` is the one that takes its place.
    """

    shape: Shape
    values: tuple[Number, ...]
    at: float
    until: float
    before: tuple[Number, ...] | None = None
    before_at: float = 0.0
    next: tuple[Number, ...] | None = None
    next_at: float = 0.0

    def after(self, former: HeldValues) -> None:
        """
        Choose what rates are since, of a former reading with the same shape and what it had.

        That is the former reading where it is some seconds old, and else one of 3 to 5 seconds ago:
        a share of one second says little about a guest that works in bursts.
        """
        if former.next is None or self.at - former.at >= WINDOW_SECONDS:
            self.before, self.before_at = former.values, former.at
        elif self.at - former.next_at >= WINDOW_SECONDS:
            self.before, self.before_at = former.next, former.next_at
        else:
            self.before, self.before_at = former.before, former.before_at
            self.next, self.next_at = former.next, former.next_at
            return
        self.next, self.next_at = former.values, former.at


@dataclass(frozen=True, slots=True)
class Places:
    """Where the series of one metric are: in which reading, at which places, in which unit."""

    held: int
    at: tuple[int, ...]
    scale: float


_Found = tuple[tuple[str, tuple[int, ...], float], ...]
"""The name, the places and the scale of each metric of a shape."""

SHARED: Final = 1024
"""So many sets of places are shared by guests that are built alike."""

_found: WeakKeyDictionary[Shape, _Found] = WeakKeyDictionary()


def found_in(shape: Shape) -> _Found:
    """Return the places of each metric of a shape, layers of disks left out."""
    places = _found.get(shape)
    if places is None:
        lists: dict[str, tuple[list[int], float]] = {}
        for at, series in enumerate(shape.series):
            if series.labels and any(name == "index" for name, _ in series.labels):
                continue
            name = series.field.family
            if series.part:
                name = f"{name}:{series.part}"
            lists.setdefault(name, ([], 10.0**series.exponent))[0].append(at)
        found = tuple((name, tuple(at), scale) for name, (at, scale) in lists.items())
        places = _found[shape] = _shared(found)
    return places


@lru_cache(SHARED)
def _shared(found: _Found) -> _Found:
    return found


@lru_cache(SHARED)
def _metrics(several: tuple[_Found, ...]) -> Mapping[str, Places]:
    """Return where each metric is, in the first of several readings that has it."""
    metrics: dict[str, Places] = {}
    for number, found in enumerate(several):
        for name, at, scale in found:
            metrics.setdefault(name, Places(number, at, scale))
    return metrics


class LookupPlan:
    """Where each metric is, for readings of certain shapes in a certain order."""

    __slots__ = ("metrics", "shapes", "tables")

    def __init__(self, shapes: tuple[Shape, ...]) -> None:
        self.shapes = shapes
        self.metrics = _metrics(tuple(map(found_in, shapes)))
        self.tables: dict[tuple[str, ...], tuple[tuple[str, tuple[int | None, ...]], ...]] = {}


class Lookup:
    """The current readings of a guest or of the host; what is not known is None."""

    __slots__ = ("_held", "_plan")

    def __init__(self, held: Sequence[HeldValues], plan: LookupPlan) -> None:
        self._held = held
        self._plan = plan

    @staticmethod
    def of(
        held: Mapping[tuple[str, str], HeldValues], now: float, plan: LookupPlan | None
    ) -> tuple[LookupPlan, Lookup]:
        """Look at what is current, with the former plan where it still fits."""
        current = [
            (FIRST.get(source, 1), each) for (source, _), each in held.items() if each.until > now
        ]
        current.sort(key=_rank)
        several = [each for _, each in current]
        shapes = tuple([each.shape for each in several])
        if plan is None or plan.shapes != shapes:
            plan = LookupPlan(shapes)
        return plan, Lookup(several, plan)

    @property
    def until(self) -> float:
        """When the first of the readings ceases to be current."""
        return min([each.until for each in self._held], default=float("inf"))

    def known(self, family: str) -> bool:
        """Return whether a metric is current."""
        return family in self._plan.metrics

    def at(self, family: str) -> float | None:
        """Return when the reading of a metric was taken."""
        places = self._plan.metrics.get(family)
        return None if places is None else self._held[places.held].at

    def value(self, family: str) -> float | None:
        """Return the number of a metric, of its first series."""
        places = self._plan.metrics.get(family)
        if places is None:
            return None
        return self._held[places.held].values[places.at[0]] * places.scale

    def total(self, family: str) -> float | None:
        """Return the sum over all series of a metric."""
        places = self._plan.metrics.get(family)
        if places is None:
            return None
        values = self._held[places.held].values
        return sum([values[at] for at in places.at]) * places.scale

    def labels(self, family: str) -> Iterator[Labels]:
        """Yield the labels of each series of a metric."""
        if places := self._plan.metrics.get(family):
            series = self._held[places.held].shape.series
            for at in places.at:
                yield series[at].labels

    def values(self, family: str) -> Iterator[tuple[Labels, float]]:
        """Yield labels and number of each series of a metric."""
        if places := self._plan.metrics.get(family):
            held = self._held[places.held]
            for at in places.at:
                yield held.shape.series[at].labels, held.values[at] * places.scale

    def rate(self, family: str) -> float | None:
        """Return the growth per second of all series of a counter; None where one began again."""
        places = self._plan.metrics.get(family)
        if places is None:
            return None
        held = self._held[places.held]
        before, values = held.before, held.values
        seconds = held.at - held.before_at
        if before is None or seconds < SHORTEST_SECONDS:
            return None
        grown: Number = 0
        for at in places.at:
            more = values[at] - before[at]
            if more < 0:
                return None
            grown += more
        return grown * places.scale / seconds

    def seconds(self, family: str) -> float:
        """Return the time between the two readings that rates of a metric are from."""
        places = self._plan.metrics.get(family)
        return (
            0.0
            if places is None
            else self._held[places.held].at - self._held[places.held].before_at
        )

    def rates(self, family: str) -> Iterator[tuple[Labels, float | None]]:
        """Yield labels and growth per second of each series of a counter."""
        places = self._plan.metrics.get(family)
        if places is None:
            return
        held = self._held[places.held]
        before, seconds = held.before, held.at - held.before_at
        for at in places.at:
            rate = None
            if before is not None and seconds >= SHORTEST_SECONDS and held.values[at] >= before[at]:
                rate = (held.values[at] - before[at]) * places.scale / seconds
            yield held.shape.series[at].labels, rate

    def grown(
        self, families: tuple[str, ...], label: str
    ) -> Iterator[tuple[str, list[float | None]]]:
        """
        Yield each device of counters of one reading, and by how much each of them has grown.

        Devices are those of the first of the `families`, by the `label` that names them.
        """
        places = self._plan.metrics.get(families[0])
        if places is None:
            return
        held = self._held[places.held]
        if held.before is None or held.at - held.before_at < SHORTEST_SECONDS:
            return
        table = self._plan.tables.get(families)
        if table is None:
            table = self._plan.tables[families] = self._table(families, label)
        scales = [each.scale if each else 1.0 for each in map(self._plan.metrics.get, families)]
        values, before = held.values, held.before
        for device, ats in table:
            yield (
                device,
                [
                    None
                    if at is None or values[at] < before[at]
                    else (values[at] - before[at]) * scale
                    for at, scale in zip(ats, scales, strict=True)
                ],
            )

    def _table(
        self, families: tuple[str, ...], label: str
    ) -> tuple[tuple[str, tuple[int | None, ...]], ...]:
        first = self._plan.metrics[families[0]]
        series = self._held[first.held].shape.series
        columns: list[dict[str, int]] = []
        for family in families:
            places = self._plan.metrics.get(family)
            own = places.at if places is not None and places.held == first.held else ()
            columns.append({dict(series[at].labels).get(label, ""): at for at in own})
        return tuple(
            (device, tuple(column.get(device) for column in columns)) for device in columns[0]
        )


def _rank(each: tuple[int, HeldValues]) -> int:
    return each[0]

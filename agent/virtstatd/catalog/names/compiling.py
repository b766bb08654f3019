"""Compiles what a shape becomes under the names of another tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from virtstatd.catalog.names.dialect import Dialect, OtherMetric
from virtstatd.catalog.names.formulas import FORMULAS, Formula
from virtstatd.model import Field, Labels, Number, Series, Shape


DEVICES: Final = ("target_device", "vcpu", "iothread", "mac_address")
"""Labels by which an info series and a number are known to be about the same device."""

FactTables = Mapping[str, Sequence[Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class KnownFacts:
    """
    What is known of a guest: its own labels, facts by metric, the numbers to compute with.

    `waits` leaves out, for now, what takes labels from facts.
    """

    labels: Mapping[str, str]
    facts: FactTables
    numbers: AbstractSet[str]
    waits: bool = False


@dataclass(frozen=True, slots=True)
class NumberRecipe:
    """One computed number: places of its own, those beside it (a name where held), and the rest."""

    own: tuple[int, ...]
    beside: tuple[int | str | None, ...]
    formula: Formula | None
    divide: int

    def value(self, values: Sequence[Number], held: Mapping[str, tuple[Number, int]]) -> Number:
        """Compute it."""
        first = values[self.own[0]]
        if self.formula:
            beside = [
                values[each] if isinstance(each, int) else held[each][0] if each else None
                for each in self.beside
            ]
            computed = self.formula([values[place] for place in self.own], beside)
            first = float("nan") if computed is None else computed
        return first if self.divide == 1 else first / self.divide


class Compiled:
    """
    What a shape becomes: a shape, None where nothing is left, and how to fill it.

    `personal` says that it holds for one guest alone; `held` are the numbers of other readings that
    it is computed with, `lacking` those that were not known.
    """

    __slots__ = ("_numbers", "_pick", "held", "lacking", "personal", "shape")

    def __init__(
        self,
        shape: Shape | None,
        numbers: Sequence[NumberRecipe] = (),
        *,
        personal: bool = False,
        lacking: AbstractSet[str] = frozenset(),
    ) -> None:
        self.shape = shape
        self.personal = personal
        self.held = {name for each in numbers for name in each.beside if isinstance(name, str)}
        self.lacking = lacking
        self._numbers = tuple(numbers)
        plain = all(each.formula is None and each.divide == 1 for each in numbers)
        self._pick = _picking([each.own[0] for each in numbers]) if plain else None

    @classmethod
    def picking(cls, shape: Shape, at: Sequence[int]) -> Compiled:
        """Return these series of a shape, unchanged."""
        if len(at) == len(shape.series):
            return cls(shape)
        left = Shape(shape.group, tuple(shape.series[place] for place in at))
        return cls(left if at else None, [NumberRecipe((place,), (), None, 1) for place in at])

    def holds(self, numbers: Mapping[str, tuple[Number, int]], now: int) -> bool:
        """Return whether the same numbers of other readings are known as when it was compiled."""
        if not (self.held or self.lacking):
            return True
        known = {name for name, (_, until) in numbers.items() if until >= now}
        return self.held <= known and not self.lacking & known

    def values(
        self, values: tuple[Number, ...], held: Mapping[str, tuple[Number, int]]
    ) -> tuple[Number, ...]:
        """Return the numbers of a reading."""
        if self._pick:
            return self._pick(values)
        return tuple(each.value(values, held) for each in self._numbers)


def translation(
    dialect: Dialect, shape: Shape, known: KnownFacts, name_of: Callable[[Field], str], group: str
) -> Compiled:
    """Compile what the tool has of a shape."""
    return _Compiler(dialect, shape, known, name_of).compiled(group)


class _Compiler:
    def __init__(
        self, dialect: Dialect, shape: Shape, known: KnownFacts, name_of: Callable[[Field], str]
    ) -> None:
        self.dialect = dialect
        self.shape = shape
        self.known = known
        self.personal = False
        self.lacking: set[str] = set()
        self.places: dict[str, list[int]] = {}
        for place, series in enumerate(shape.series):
            if not series.part:
                self.places.setdefault(name_of(series.field), []).append(place)

    def compiled(self, group: str) -> Compiled:
        rows = [row for metric in self.dialect.metrics.values() for row in self.rows(metric)]
        return Compiled(
            Shape(group, tuple(series for series, _ in rows)) if rows else None,
            [number for _, number in rows],
            personal=self.personal,
            lacking=frozenset(self.lacking),
        )

    def rows(self, metric: OtherMetric) -> Iterator[tuple[Series, NumberRecipe]]:
        """Yield the series of a metric, those with equal labels as one."""
        if not all(source in self.places for source in metric.sources):
            return
        found: dict[Labels, list[int]] = {}
        for source in metric.sources:
            for place in self.places[source]:
                labels = self.labels(metric, self.shape.series[place])
                if labels is not None:
                    found.setdefault(labels, []).append(place)
        for labels, own in found.items():
            number = self.number(metric, own)
            if number:
                first = self.shape.series[own[0]].field
                field = replace(
                    metric.field,
                    help=metric.field.help or first.help,
                    exponent=first.exponent + metric.shift,
                )
                yield Series(field, labels), number

    def labels(self, metric: OtherMetric, series: Series) -> Labels | None:
        """Return the labels of a series under its new name, None where it is not wanted."""
        own = dict(series.labels)
        known = {**self.known.labels, **own}
        wants = frozenset().union(*(each.needs for each in metric.labels))
        self.personal |= bool(metric.join or metric.need or wants - own.keys())
        if metric.join and self.known.waits:
            return None
        for name in (*metric.join, *metric.need):
            facts = next(
                (each for each in self.known.facts.get(name, ()) if _same(each, own)), None
            )
            if facts is None and name in metric.need:
                return None
            known = {**(facts or {}), **known}
        if any(known.get(label, "") not in values for label, values in metric.where.items()):
            return None
        if any(known.get(label, "") in values for label, values in metric.unless.items()):
            return None
        return tuple((each.name, each.text(known)) for each in metric.labels)

    def number(self, metric: OtherMetric, own: Sequence[int]) -> NumberRecipe | None:
        """Return how to compute a number, None where one that it needs is not known."""
        if not metric.how:
            return NumberRecipe((own[0],), (), None, metric.divide)
        beside = tuple(self.beside(name, self.shape.series[own[0]]) for name in metric.beside)
        formula = FORMULAS[metric.how]
        tried = formula([1] * len(own), [None if each is None else 1 for each in beside])
        if tried is None:
            return None
        return NumberRecipe(tuple(own), beside, formula, metric.divide)

    def beside(self, name: str, series: Series) -> int | str | None:
        """Return the place of a metric's series with the same labels, or that it is held."""
        for place in self.places.get(name, ()):
            if self.shape.series[place].labels == series.labels:
                return place
        if name in self.known.numbers:
            return name
        self.lacking.add(name)
        return None


def _same(facts: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Return whether facts are about the device that a series is about."""
    return all(facts[name] == own[name] for name in DEVICES if name in facts and name in own)


def _picking(at: Sequence[int]) -> Callable[[tuple[Number, ...]], tuple[Number, ...]]:
    if len(at) == 1:
        return lambda values: (values[at[0]],)
    return itemgetter(*at) if at else lambda _: ()

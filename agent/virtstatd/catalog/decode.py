"""
Turns libvirt's records into readings: a comparison and a permutation per domain, both in C.

The first record with a given list of keys is compiled into a plan. After that a poll compares the
keys and the few values that are part of the shape, has `struct` look at every number's type, sign
and range, and takes the numbers of each group with one `itemgetter`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import isfinite
from operator import itemgetter
from threading import Lock
from weakref import WeakValueDictionary

from virtstatd.catalog import Catalog
from virtstatd.catalog.lines import Role
from virtstatd.catalog.recipe import ONE, Recipe, Value, compiled, is_fixed, number
from virtstatd.model import Domain, Number, Reading, Shape


RecordRow = tuple[Value, ...]  # a record's values and, behind them, a 1 for the info series
Numbers = tuple[Number, ...]

_KNOWN_KEYS = 1 << 16
_SHARED = 4096
"""So many lists of keys, and ways to check and take values, are shared by guests that are alike."""

# A domain has one plan per tier, two when its monitor is stuck, and a few left by hot-plugging.
_PLANS = 8


@dataclass(frozen=True, slots=True, eq=False)
class PlanPart:
    """One group of a plan: how its numbers are taken from a row, and what is then done to them."""

    shape: Shape
    picks: tuple[int, ...]
    take: Callable[[RecordRow], Numbers]
    factors: tuple[tuple[int, int], ...]
    bins: tuple[tuple[int, int], ...]

    def mended(self, numbers: Numbers) -> Numbers:
        """Multiply what has another unit, and add up the bins of histograms."""
        row = list(numbers)
        for at, factor in self.factors:
            row[at] *= factor
        for first, count in self.bins:
            row[first:count] = accumulate(row[first:count])
            row[count] = row[count - 1]
        return tuple(row)


@dataclass(frozen=True, slots=True, eq=False)
class RecordPlan:
    """
    How the records with one list of keys are read.

    `fixed` takes the values that are part of the shapes, which must equal `expected`. `check` packs
    a row and discards the bytes: it raises if a value is negative, too large or not a number. It
    accepts a boolean as a number, but no key of libvirt's changes between the two types. `floats`
    are the places of doubles, where packing accepts more than it should.
    """

    keys: tuple[str, ...]
    types: tuple[type, ...]
    fixed_at: tuple[int, ...]
    fixed: Callable[[RecordRow], object]
    expected: object
    check: Callable[..., bytes]
    codes: str
    floats: tuple[int, ...]
    parts: tuple[PlanPart, ...]
    recipes: tuple[Recipe, ...]  # keeps them alive for other domains

    def accepts(self, row: RecordRow) -> bool:
        """Return whether every number of a row can be used unchanged."""
        try:
            self.check(*row)
        except (struct.error, OverflowError):
            return False
        return not self.floats or all(_is_finite(row[at]) for at in self.floats)

    def unwrapped(self, row: RecordRow) -> RecordRow:
        """Return the row with its 32-bit numbers unwrapped; ValueError names a key without one."""
        return (
            *(
                value if code == "?" else number(key, value, signed=code == "q")
                for key, code, value in zip(self.keys, self.codes, row, strict=False)
            ),
            1,
        )


class Decoder:
    """
    Decodes records of any number of domains, from any number of threads at once.

    Reading a plan takes no lock: plans never change, and a dictionary's `get` is atomic. Compiling
    and storing one does. `on_unknown` is called with each key that the catalog does not
    know, once per compiled plan and never per poll, on the thread that decodes and under the lock:
    it must neither wait nor call back.
    """

    def __init__(self, catalog: Catalog, on_unknown: Callable[[str], None]) -> None:
        self._catalog = catalog
        self._on_unknown = on_unknown
        self._match = lru_cache(_KNOWN_KEYS)(catalog.match)
        self._plans: dict[str, dict[tuple[str, ...], RecordPlan]] = {}
        self._recipes: WeakValueDictionary[object, Recipe] = WeakValueDictionary()
        self._lock = Lock()

    def readings(self, domain: Domain, record: Mapping[str, Value]) -> tuple[Reading, ...]:
        """
        Return one reading per group that has a number in the record.

        Raises ValueError with the key if a value is invalid (one that libvirt cannot mean); other
        records are not affected.
        """
        keys = tuple(record)
        row: RecordRow = (*record.values(), 1)
        plan = self._plans.get(domain.uuid, {}).get(keys)
        if plan is None or plan.fixed(row) != plan.expected:
            plan = self._compile(domain.uuid, keys, row)
        if not plan.accepts(row):
            # Rare: an unsigned int of 2^31 and more, a value of another type, or nonsense.
            if tuple(map(type, row)) != plan.types:
                plan = self._compile(domain.uuid, keys, row)
            row = plan.unwrapped(row)
        return tuple(
            [
                Reading(
                    domain,
                    part.shape,
                    part.mended(part.take(row)) if part.factors or part.bins else part.take(row),
                )
                for part in plan.parts
            ]
        )

    def sound(self, domain: Domain, record: Mapping[str, Value]) -> tuple[tuple[Reading, ...], str]:
        """
        Return the readings as `readings` does, without values that libvirt cannot mean.

        The text describes the first invalid value; it is empty if there is none.
        """
        fault, left = "", dict(record)
        while left:
            try:
                return self.readings(domain, left), fault
            except ValueError as error:
                fault = fault or str(error)
                key = str(error).partition(":")[0]
                if key not in left:
                    break
                for false in self._with(key, left):
                    del left[false]
        return (), fault

    def _with(self, key: str, record: Mapping[str, Value]) -> list[str]:
        """Return a key and those that depend on it: a histogram has all of its bins or none."""
        match = self._match(key)
        if match is None or match.lines[0].role not in {Role.BIN, Role.START}:
            return [key]
        _, bin_at = match.lines[0].placeholders[-1]
        bins = ".".join((key.partition(".")[0], *match.tokens[:bin_at], ""))
        return [each for each in record if each.startswith(bins)]

    def plan(self, uuid: str, record: Mapping[str, Value]) -> RecordPlan | None:
        """Return the plan by which a record of a domain was decoded last, if there is one."""
        return self._plans.get(uuid, {}).get(tuple(record))

    def forget(self, uuid: str) -> None:
        """Drop what is kept for a domain that has ended; its next record is compiled again."""
        self._plans.pop(uuid, None)

    def _compile(self, uuid: str, keys: tuple[str, ...], row: RecordRow) -> RecordPlan:
        with self._lock:
            # The binding makes new strings for every domain; the interned ones are shared.
            plan = self._plan(_interned(keys), row)
            plans = self._plans.setdefault(uuid, {})
            plans.pop(keys, None)
            while len(plans) >= _PLANS:
                del plans[next(iter(plans))]
            plans[plan.keys] = plan
            for recipe in plan.recipes:
                for key in recipe.unknown:
                    self._on_unknown(key)
            return plan

    def _plan(self, keys: tuple[str, ...], row: RecordRow) -> RecordPlan:
        groups: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            if not isinstance(row[place], int | float | str):
                raise ValueError(f"{key}: not a value that libvirt can mean")  # noqa: TRY004 - one kind for the caller
            groups.setdefault(key.partition(".")[0], []).append(place)
        codes = [_code(value) for value in row]
        fixed: list[int] = []
        parts: list[PlanPart] = []
        recipes: list[Recipe] = []
        for group, places in groups.items():
            recipe, fixed_here = self._recipe(group, keys, places, row)
            recipes.append(recipe)
            fixed += fixed_here
            for at in recipe.signed:
                if codes[places[at]] == "Q":
                    codes[places[at]] = "q"
            if recipe.shape.series:
                picks = _places(
                    tuple([len(keys) if at == ONE else places[at] for at in recipe.picks])
                )
                take = _taker(picks)
                parts.append(PlanPart(recipe.shape, picks, take, recipe.factors, recipe.bins))
        for place in (*fixed, len(keys)):
            codes[place] = "?"
        return RecordPlan(
            keys=keys,
            types=_types(tuple(map(type, row))),
            fixed_at=_places(tuple(fixed)),
            fixed=_taker(tuple(fixed)),
            expected=_taker(tuple(fixed))(row),
            check=_packer("".join(codes)),
            codes="".join(codes),
            floats=tuple(at for at, code in enumerate(codes) if code == "d"),
            parts=tuple(parts),
            recipes=tuple(recipes),
        )

    def _recipe(
        self, group: str, keys: tuple[str, ...], places: list[int], row: RecordRow
    ) -> tuple[Recipe, list[int]]:
        """Return the recipe of one group, and the places of the record that are part of it."""
        group_keys = tuple(keys[at] for at in places)
        values = tuple(row[at] for at in places)
        matches = [self._match(key) for key in group_keys]
        fixed = [
            at
            for at, match, value in zip(places, matches, values, strict=True)
            if is_fixed(match, value)
        ]
        identity = (group_keys, tuple(map(type, values)), tuple(row[at] for at in fixed))
        recipe = self._recipes.get(identity)
        if recipe is None:
            recipe = compiled(self._catalog, group, group_keys, matches, values)
            self._recipes[identity] = recipe
        return recipe, fixed


def _is_finite(value: Value) -> bool:
    return isinstance(value, float) and isfinite(value)


def _code(value: Value) -> str:
    """Return the letter by which `struct` checks a value: unsigned, double, or not at all."""
    if isinstance(value, str):
        return "?"
    return "d" if isinstance(value, float) else "Q"


@lru_cache(_SHARED)
def _interned(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(sys.intern, keys))


@lru_cache(_SHARED)
def _types(types: tuple[type, ...]) -> tuple[type, ...]:
    return types


@lru_cache(_SHARED)
def _places(places: tuple[int, ...]) -> tuple[int, ...]:
    return places


@lru_cache(_SHARED)
def _packer(codes: str) -> Callable[..., bytes]:
    return struct.Struct(f"={codes}").pack


@lru_cache(_SHARED)
def _taker(places: tuple[int, ...]) -> Callable[[RecordRow], Numbers]:
    """Return a function that takes these values from a row, always as a tuple."""
    if not places:
        return lambda _: ()
    if len(places) == 1:
        only = places[0]
        return lambda row: (row[only],)  # type: ignore[return-value]
    return itemgetter(*places)

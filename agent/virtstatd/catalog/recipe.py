"""
Compiles one group's part of a record: which value goes where under which shape.

A recipe depends on the group's keys, on the types of their values and on those values that end up
in labels, and on nothing else, so domains that are built alike share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite

from virtstatd.catalog import Catalog
from virtstatd.catalog.lines import Line, Role
from virtstatd.catalog.match import Match
from virtstatd.model import Labels, Number, Series, Shape, shared_series


Value = int | float | bool | str
Scope = tuple[str, ...]  # a device: the tokens of a key up to the device's index

ONE = -1  # in `picks`: no value of the record, but the constant 1 of an info series


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Recipe:
    """
    How one group's values become the numbers of a shape.

    `picks` has the place of each number among the group's values, `signed` the places that may be
    negative. `factors` and `bins` are positions in the shape: numbers to multiply, where a factor
    of 1 makes a number of a boolean, and the first bucket and the count of each histogram.
    `unknown` are the keys that no line fits.
    """

    shape: Shape
    picks: tuple[int, ...]
    signed: frozenset[int]
    factors: tuple[tuple[int, int], ...]
    bins: tuple[tuple[int, int], ...]
    unknown: tuple[str, ...]


def is_fixed(match: Match | None, value: Value) -> bool:
    """Return whether a value is part of the shape: strings, names, bounds and enumerations."""
    if isinstance(value, str):
        return True
    if match is None:
        return False
    line = match.lines[0]
    return bool(line.enum) or line.role not in {Role.NUMBER, Role.BIN}


def number(key: str, value: object, *, signed: bool) -> Number:
    """
    Return the number under a key, unwrapped from 32 bits, or raise ValueError that names the key.

    The binding returns an unsigned int of 2^31 and more as a negative number (`libvirt_intWrap` in
    libvirt-utils.c).
    """
    if isinstance(value, float) and isfinite(value):
        return value
    if isinstance(value, int):
        if 0 <= value < 2**64 or (signed and -(2**63) <= value < 0):
            return value
        if -(2**31) <= value < 0:
            return value + 2**32
    raise ValueError(f"{key}: not a number that libvirt can mean")


def compiled(
    catalog: Catalog,
    group: str,
    keys: Sequence[str],
    matches: Sequence[Match | None],
    values: Sequence[Value],
) -> Recipe:
    """Return the recipe for one group of a record; raises ValueError that names an invalid key."""
    return _Compiler(catalog, group, keys, matches, values).recipe()


@dataclass(slots=True)
class _Number:
    """One number of the shape that is compiled."""

    series: Series
    place: int
    factor: int = 0


class _Compiler:
    """The state of one compilation; a place counts within the group's keys."""

    def __init__(
        self,
        catalog: Catalog,
        group: str,
        keys: Sequence[str],
        matches: Sequence[Match | None],
        values: Sequence[Value],
    ) -> None:
        self.catalog = catalog
        self.group = group
        self.keys = keys
        self.matches = matches
        self.values = values
        self.families: dict[str, list[_Number]] = {}
        self.signed: set[int] = set()
        self.unknown: list[str] = []
        self.names: dict[Scope, str] = {}
        self.named: set[str] = set()
        self.owners: dict[tuple[Scope, str, str], Scope] = {}
        self.starts: dict[Scope, Decimal] = {}
        self.histograms: dict[Scope, list[tuple[int, Match]]] = {}

    def recipe(self) -> Recipe:
        for place, match in enumerate(self.matches):
            if match:
                self.note(place, match)
        for place, match in enumerate(self.matches):
            self.add(place, match)
        for bins in self.histograms.values():
            self.add_histogram(bins)
        numbers = [one for family in self.families.values() for one in family]
        return Recipe(
            shape=Shape(self.group, tuple(one.series for one in numbers)),
            picks=tuple(one.place for one in numbers),
            signed=frozenset(self.signed),
            factors=tuple((at, one.factor) for at, one in enumerate(numbers) if one.factor),
            bins=tuple(_bins(numbers)),
            unknown=tuple(self.unknown),
        )

    def note(self, place: int, match: Match) -> None:
        """Take what other keys depend on: names of devices, bounds and bins of histograms."""
        line = match.lines[0]
        if line.role is Role.NAME:
            self.names[match.tokens[: _position(line, line.label) + 1]] = self.text(place)
            self.named.add(line.label)
        elif line.role is Role.START:
            start = Decimal(self.number(place)).scaleb(line.exponent)
            self.starts[match.tokens[: line.placeholders[-1][1] + 1]] = start
        elif line.role is Role.BIN:
            scope = match.tokens[: line.placeholders[-1][1]]
            self.histograms.setdefault(scope, []).append((place, match))

    def add(self, place: int, match: Match | None) -> None:
        """Add the series of one key."""
        role = match.lines[0].role if match else None
        if match is None or (role is Role.NUMBER and isinstance(self.values[place], str)):
            self.add_unknown(place)
            return
        for line in match.lines:
            if role is Role.TEXT:
                labels = self.labels(line.placeholders, match.tokens)
                self.put(line, (*labels, (line.label, self.text(place))), ONE)
            elif role is Role.NUMBER:
                self.number(place, signed=line.signed)
                labels = self.labels(line.placeholders, match.tokens)
                self.put(line, (*labels, *self.names_of(line, place)), place)

    def add_unknown(self, place: int) -> None:
        """Pass on values that no line matches, unchanged."""
        key = self.keys[place]
        labels = (("group", self.group), ("key", key))
        if isinstance(self.values[place], str):
            named = (*labels, ("value", self.text(place)))
            self.put(self.catalog.line("unknown", "text"), named, ONE)
        else:
            self.number(place, signed=True)
            self.put(self.catalog.line("unknown", "stat"), labels, place)
        self.unknown.append(key)

    def add_histogram(self, bins: Sequence[tuple[int, Match]]) -> None:
        """Add the buckets and the count of one histogram; bins without valid bounds are unknown."""
        line = bins[0][1].lines[0]
        *labelled, (_, bin_at) = line.placeholders
        bounded = sorted(
            (self.starts[match.tokens[: bin_at + 1]], place)
            for place, match in bins
            if match.tokens[: bin_at + 1] in self.starts and not isinstance(self.values[place], str)
        )
        starts = [start for start, _ in bounded]
        if len(set(starts)) < len(bins):
            for place, _ in bins:
                self.add_unknown(place)
            return
        labels = self.labels(labelled, bins[0][1].tokens)
        bounds = [*(format(start.normalize(), "f") for start in starts[1:]), "+Inf"]
        for bound, (_, place) in zip(bounds, bounded, strict=True):
            self.number(place)
            self.put(line, (*labels, ("le", bound)), place, "bucket")
        self.put(line, labels, bounded[-1][1], "count")

    def put(self, line: Line, labels: Labels, place: int, part: str = "") -> None:
        """Append a series behind those of its family."""
        assert line.field  # noqa: S101 - only lines with a field get here
        factor = 0
        if place != ONE:
            if line.factor > 1 or isinstance(self.values[place], bool):
                factor = line.factor
            if line.signed:
                self.signed.add(place)
        family = self.families.setdefault(line.field.family, [])
        family.append(_Number(shared_series(line.field, labels, part), place, factor))

    def labels(self, placeholders: Sequence[tuple[str, int]], tokens: Scope) -> Labels:
        """
        Return the labels that name a device by its name, or by its index where it has none.

        If two devices have one name, as the rows of a backing chain do, the first has only the name
        and the others also get `index`, the tokens of the key that distinguish them.
        """
        found: list[tuple[str, str]] = []
        indexes: list[str] = []
        clash = False
        for label, at in placeholders:
            scope = tokens[: at + 1]
            name = self.names.get(scope) or scope[-1]
            found.append((label, name))
            if label in self.named:
                indexes.append(scope[-1])
                clash |= self.owners.setdefault((scope[:-1], label, name), scope) != scope
        if clash:
            found.append(("index", ".".join(indexes)))
        return tuple(found)

    def names_of(self, line: Line, place: int) -> Labels:
        """Return the labels that an enumeration has for a number, or the number itself in them."""
        if not line.enum:
            return ()
        names = self.catalog.enums[line.enum]
        value = self.text(place)
        by = f"{self.group}.{line.by}"
        key = f"{self.text(self.keys.index(by))}.{value}" if by in self.keys else value
        labels = next(iter(names.values()))
        return tuple(names.get(key, dict.fromkeys(labels, value)).items())

    def number(self, place: int, *, signed: bool = False) -> Number:
        return number(self.keys[place], self.values[place], signed=signed)

    def text(self, place: int) -> str:
        value = self.values[place]
        if isinstance(value, str):
            return value
        return str(+self.number(place, signed=True))


def _position(line: Line, label: str) -> int:
    return dict(line.placeholders)[label]


def _bins(numbers: Sequence[_Number]) -> Iterator[tuple[int, int]]:
    first = -1
    for at, one in enumerate(numbers):
        if one.series.part == "bucket" and first < 0:
            first = at
        elif one.series.part == "count":
            yield first, at
            first = -1

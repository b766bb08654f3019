"""What of a batch is passed on: patterns, and series that are picked once per shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from operator import itemgetter
from weakref import WeakKeyDictionary

from virtstatd.model import Field, Number, Series, Shape


Choose = Callable[[tuple[Number, ...]], tuple[Number, ...]]
"""Returns the numbers of the series that are left."""


NameOf = Callable[[Field], str]
"""Returns the name of a metric as the page has it, without `_bucket`, `_sum` and `_count`."""


def no_glob(text: str) -> bool:
    """Return whether a text stands for itself alone."""
    return not any(each in text for each in "*?[")


class Globs:
    """Patterns as in a shell, any of which may match; none at all match everything or nothing."""

    def __init__(self, patterns: Iterable[str], *, otherwise: bool = True) -> None:
        several = tuple(patterns)
        self._plain = frozenset(filter(no_glob, several))
        self._globs = tuple(each for each in several if not no_glob(each))
        self._otherwise = otherwise

    def __bool__(self) -> bool:
        return bool(self._plain or self._globs)

    def __call__(self, text: str) -> bool:
        """Return whether a text is matched."""
        if not self:
            return self._otherwise
        return text in self._plain or any(fnmatchcase(text, glob) for glob in self._globs)


class Picker:
    """Picks the series that are wanted, once per shape."""

    def __init__(self, wanted: Callable[[Series], bool]) -> None:
        self._wanted = wanted
        self._shapes: WeakKeyDictionary[Shape, tuple[Shape, Choose | None] | None] = (
            WeakKeyDictionary()
        )

    def __call__(self, shape: Shape) -> tuple[Shape, Choose | None] | None:
        """Return what is left of a shape and how to pick its numbers, None where nothing is."""
        try:
            return self._shapes[shape]
        except KeyError:
            picked = self._shapes[shape] = self._pick(shape)
            return picked

    def _pick(self, shape: Shape) -> tuple[Shape, Choose | None] | None:
        at = [n for n, series in enumerate(shape.series) if self._wanted(series)]
        if not at:
            return None
        if len(at) == len(shape.series):
            return shape, None
        left = Shape(shape.group, tuple(shape.series[n] for n in at))
        if len(at) == 1:
            (only,) = at
            return left, lambda values: (values[only],)
        return left, itemgetter(*at)


def fields_wanted(
    include: Iterable[str], exclude: Iterable[str], name_of: NameOf
) -> Callable[[Series], bool]:
    """Return whether a series is wanted by the name of its metric; what is excluded wins."""
    wanted, unwanted = Globs(include), Globs(exclude, otherwise=False)
    known: dict[Field, bool] = {}

    def wants(series: Series) -> bool:
        field = series.field
        if field not in known:
            name = name_of(field)
            known[field] = wanted(name) and not unwanted(name)
        return known[field]

    return wants

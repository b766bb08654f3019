"""
Filter words and sort keys for the table of guests.

    web            the name contains it            -web           it does not
    steal>5        a number, ratios in per cent, latency in milliseconds, bytes with K, M, G or T
    state:paused   a text is that, or begins so    -project:test  it is not
    state:shutoff  guests that do not run, too
    /^web-[0-9]/   a regular expression finds something in the name
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from operator import eq, ge, gt, le, lt, ne
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

from virtstatd.insight.columns import BY_NAME, COLUMNS, Cell, Column, GuestRow


WORDS_MAX: Final = 16
WORD_MAX: Final = 256
"""How many words, and how many characters of each."""

PATTERN_MAX: Final = 100
SUBJECT_MAX: Final = 64
COST_MAX: Final = 16 * SUBJECT_MAX**2
"""
A regular expression has so many characters, is applied to so many of a name, and may match them in
so many ways, so that no name takes long.
"""

MILLI: Final = frozenset({"disk_latency_seconds"})
"""Times that people give in milliseconds."""

_COMPARED: Final = re.compile(r"([a-z_]+)(>=|<=|!=|>|<|=)(-?[0-9.]+)([kmgt]?)(i?b?)", re.IGNORECASE)
_COMPARE: Final = {">": gt, "<": lt, ">=": ge, "<=": le, "=": eq, "!=": ne}
_MULTIPLES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_Test = Callable[[GuestRow], bool]


class FilterError(ValueError):
    """A word that cannot be used, and what could be."""


class Filter:
    """Returns whether a row is wanted: all words must apply; a wrong one raises `FilterError`."""

    def __init__(self, text: str = "") -> None:
        words = text.split()
        if len(words) > WORDS_MAX:
            raise FilterError(f"more than {WORDS_MAX} filter words")
        self._tests = [_test_of(word) for word in words]
        self.names_state = any(word.startswith("state:") for word in words)
        """Whether it asks for a state, so that guests that do not run are looked at as well."""

    def __call__(self, row: GuestRow) -> bool:
        """Return whether a row is wanted."""
        return all(test(row) for test in self._tests)


class Order:
    """
    The order of rows: a column, `-` before it for the largest first, then the names.

    Without a column those come first that hurt most. What is not known comes last in any order.
    """

    def __init__(self, text: str = "") -> None:
        self._falling = text.startswith("-")
        self.column = column_of(text.removeprefix("-")) if text else None

    def sort(self, rows: list[GuestRow], *, named: bool = False) -> None:
        """Sort rows in place; `named` says that they are in the order of their names."""
        if not named:
            rows.sort(key=_name)
        if self.column is None:
            rows.sort(key=_hurt)
            return
        column = self.column.id
        rows.sort(key=lambda row: _comparable(row[column]), reverse=self._falling)
        rows.sort(key=lambda row: row[column] is None)


def _name(row: GuestRow) -> str:
    return str(row["name"])


_SEVERITIES: Final = {"critical": 0, "warning": 1}


def _hurt(row: GuestRow) -> tuple[int, float]:
    steal = row["steal_ratio"]
    return (
        _SEVERITIES.get(str(row["severity"]), 2),
        -steal if isinstance(steal, int | float) else 0.0,
    )


def _comparable(cell: Cell) -> tuple[float, str]:
    if isinstance(cell, str):
        return 0.0, cell.casefold()
    return float(cell or 0), ""


def column_of(name: str) -> Column:
    """Return the column of a name; raises `FilterError`, with the nearest right ones."""
    column = BY_NAME.get(name)
    if column is None:
        near = get_close_matches(name, BY_NAME, 3)
        known = near or [each.words[0] if each.words else each.id for each in COLUMNS]
        raise FilterError(f"{name[:WORD_MAX]!r} is not a column; known: {', '.join(known)}")
    return column


def _test_of(word: str) -> _Test:
    if len(word) > WORD_MAX:
        raise FilterError(f"a filter word has more than {WORD_MAX} characters")
    if len(word) > 1 and word[0] == "-":
        test = _test_of(word[1:])
        return lambda row: not test(row)
    if len(word) > 1 and word[0] == word[-1] == "/":
        return _pattern(word[1:-1])
    if compared := _COMPARED.fullmatch(word):
        return _comparison(word, *compared.groups())
    name, colon, text = word.partition(":")
    if colon and name in BY_NAME:
        return _text(BY_NAME[name], text)
    if colon and re.fullmatch(r"[a-z_]+", name):
        column_of(name)  # raises
    wanted = word.casefold()
    return lambda row: wanted in str(row["name"]).casefold()


def _text(column: Column, text: str) -> _Test:
    name, wanted = column.id, text.casefold()
    if name in ("name", "uuid"):
        return lambda row: wanted in str(row[name] or "").casefold()
    if not wanted:
        return lambda row: row[name] in (None, "")
    if column.unit == "text":
        yes = {"yes": "true", "no": "false"}.get(wanted, wanted)
        return lambda row: str(row[name]).casefold().startswith(yes)
    raise FilterError(f"{name} is a number: write {column.words[0] if column.words else name}>1")


def _comparison(word: str, name: str, sign: str, number: str, multiple: str, _: str) -> _Test:
    column = column_of(name.lower())
    if column.unit == "text":
        raise FilterError(f"{column.id} is a text: write {column.id}:{number}{multiple}")
    try:
        limit = float(number) * _MULTIPLES[multiple.lower()]
    except ValueError:
        raise FilterError(f"{word!r}: {number!r} is not a number") from None
    if column.unit == "ratio":
        limit /= 100
    elif column.id in MILLI:
        limit /= 1000
    key, compare = column.id, _COMPARE[sign]

    def test(row: GuestRow) -> bool:
        cell = row[key]
        return isinstance(cell, int | float) and bool(compare(cell, limit))

    return test


def _pattern(text: str) -> _Test:
    if len(text) > PATTERN_MAX:
        raise FilterError(f"a regular expression has at most {PATTERN_MAX} characters")
    try:
        cost = _cost(parser.parse(text))
        pattern = re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise FilterError(f"/{text}/: {error}") from None
    if cost > COST_MAX:
        raise FilterError(
            f"/{text}/ may take too long: two of * and + at most, and no choice or repetition"
            " within one"
        )
    return lambda row: pattern.search(str(row["name"])[:SUBJECT_MAX]) is not None


_LOOPS: Final = {
    constants.MAX_REPEAT,
    constants.MIN_REPEAT,
    getattr(constants, "POSSESSIVE_REPEAT", None),
}
_REFUSED: Final = {
    constants.GROUPREF,
    constants.GROUPREF_EXISTS,
    constants.ASSERT,
    constants.ASSERT_NOT,
}


def _cost(parsed: Any, *, within: bool = False) -> float:
    """Return how many ways there are at most to match from one place on."""
    cost = 1.0
    for operation, argument in parsed:
        inner = [_cost(each, within=within or operation in _LOOPS) for each in _parts(argument)]
        if operation in _REFUSED:
            return math.inf
        if operation in _LOOPS:
            cost *= math.inf if within else 2 if argument[1] <= 1 else SUBJECT_MAX
            cost *= math.prod(inner)
        elif operation is constants.BRANCH:
            cost *= math.inf if within else sum(inner)
        else:
            cost *= math.prod(inner)
    return cost


def _parts(argument: Any) -> Iterator[Any]:
    """Yield the patterns within an argument of a parsed pattern."""
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, tuple | list):
        for each in argument:
            yield from _parts(each)

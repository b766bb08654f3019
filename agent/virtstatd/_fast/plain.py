"""
The code that a small library in C does faster where there is one; both do the same.

Tests compare the two on every kind of input. A difference is a fault, also in the exceptions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from itertools import groupby
from typing import Final, Protocol


READ_BYTES: Final = 1 << 14
"""More than the size of any of the files; a single read of procfs is consistent, two are not."""

ProcessStat = tuple[bytes, int, int, int, int]
"""State, minor and major faults, threads and resident pages of a process."""

ThreadSpans = tuple[tuple[int, ...], tuple[int, ...]]
"""How long each of some threads ran, and how long each waited, in nanoseconds."""

Parsed = bytes | list[int] | dict[bytes, int] | ProcessStat | ThreadSpans
"""What a file says, by its layout."""

_Parse = Callable[[list[bytes]], Parsed]

# fields of /proc/PID/stat behind the name, as proc(5) lists them
_SCHEDSTAT_NUMBERS: Final = 3
_STATE: Final = 0
_COUNTED: Final = (7, 9, 17, 21)


class Layout(StrEnum):
    """How a file of the kernel is written, and what becomes of it; anything else is ValueError."""

    TEXT = "t"
    """Anything, as bytes."""
    NUMBERS = "n"
    """Words of digits: a list of them."""
    PAIRS = "p"
    """Words and numbers in turn, as in `cpu.stat`: a dictionary; a word without a number is cut."""
    TOTALS = "o"
    """The numbers of `total=` words, as in `cpu.pressure`: a list of them."""
    SCHEDSTAT = "c"
    """`/proc/PID/task/TID/schedstat`: neighbours of this layout are one value, a `ThreadSpans`."""
    STAT = "s"
    """`/proc/PID/stat`: a `ProcessStat`."""


class Filled(Protocol):
    """
    A text with holes for numbers, `formats.numbers.PlainTemplate` or the same in C.

    U+0000 in the text marks the place of labels, U+0001 the end of a part.
    """

    def render(self, values: tuple[int | float, ...], labels: bytes, /) -> list[bytes]:
        """Fill in the values and the labels; return the parts."""
        ...

    def append(
        self, values: tuple[int | float, ...], labels: bytes, blocks: tuple[bytearray, ...], /
    ) -> None:
        """Fill in the values and the labels, and append each part to its block."""
        ...


Fill = Callable[
    [bytes, tuple[tuple[int, int, int], ...], Callable[[int | float, int], str]], Filled
]
"""Makes a `Filled` of text, of each hole's offset, place among values and exponent, and of what
writes a number that is no integer of 64 bits."""


class Observing(Protocol):
    """A histogram of shares of time, `collect.kernel.storms.Shares` or the same in C."""

    def observe(
        self, spans: tuple[int, ...], before: tuple[int, ...], elapsed: int, now: float, /
    ) -> None:
        """
        Take the share of `elapsed` by which each of the spans grew since `before`, all nanoseconds.

        `now` is in seconds. Raises ValueError if no time has passed, or if they are not as many.
        """
        ...

    def histogram(self) -> list[int | float]:
        """Return the numbers of the histogram's series: buckets, sum, count."""
        ...

    def peak(self) -> float:
        """Return the highest share of the time kept."""
        ...


MakeShares = Callable[[tuple[float, ...], float], Observing]
"""Makes an `Observing` of upper bounds, and of how many seconds the highest share is kept."""


class ParsedTexts:
    """Compares texts with the former ones; `layouts` has a letter of `Layout` for each."""

    def __init__(self, layouts: str) -> None:
        self._parses = list(_parses([Layout(layout) for layout in layouts]))
        self._texts: list[bytes] = []
        self._values: tuple[Parsed, ...] | None = None

    def forget(self) -> None:
        """Parse everything again the next time."""
        self._values = None

    def take(self, texts: list[bytes]) -> tuple[Parsed, ...]:
        """
        Return what each text says, the same object as before if none has changed.

        What a text says is the same object as long as its bytes are the same. Raises ValueError if
        one is not written as its layout says; everything is parsed again after that.
        """
        former, self._values = self._values, None
        if former is not None and texts == self._texts:
            self._values = former
            return former
        if former is None:
            values = tuple([parse(texts[place]) for place, parse in self._parses])
        else:
            rows = zip(self._parses, former, strict=True)
            values = tuple(
                [
                    value if texts[place] == self._texts[place] else parse(texts[place])
                    for (place, parse), value in rows
                ]
            )
        self._texts, self._values = texts, values
        return values


class PlainKept:
    """
    Files that are kept open, read together and compared with what they said before.

    `layouts` has a letter of `Layout` for each of the descriptors, which the caller closes. One
    thread at a time may read.
    """

    def __init__(self, descriptors: Sequence[int], layouts: str) -> None:
        if len(descriptors) != len(layouts):
            raise ValueError("each file needs a layout")
        if min(descriptors, default=0) < 0:
            raise ValueError("no such descriptor or layout")
        self._descriptors = descriptors
        self._texts = ParsedTexts(layouts)

    def read(self) -> tuple[Parsed, ...]:
        """
        Return what each file says now, as `ParsedTexts` does with what they hold.

        Raises OSError if one cannot be read; everything is parsed again after that.
        """
        try:
            texts = [os.pread(descriptor, READ_BYTES, 0) for descriptor in self._descriptors]
        except OSError:
            self._texts.forget()
            raise
        return self._texts.take(texts)


def _number(word: bytes) -> int:
    if not word.isdigit():
        raise ValueError("not a number")
    return int(word)


def _numbers(text: bytes) -> list[int]:
    return list(map(_number, text.split()))


def _pairs(text: bytes) -> dict[bytes, int]:
    words = text.split()
    return dict(zip(words[::2], map(_number, words[1::2]), strict=False))


def _totals(text: bytes) -> list[int]:
    prefix = b"total="
    return [_number(word[len(prefix) :]) for word in text.split() if word.startswith(prefix)]


def _spans(texts: list[bytes]) -> ThreadSpans:
    rows = [_numbers(text) for text in texts]
    if any(len(row) != _SCHEDSTAT_NUMBERS for row in rows):
        raise ValueError("not three numbers")
    return tuple([run for run, _, _ in rows]), tuple([delay for _, delay, _ in rows])


def _stat(text: bytes) -> ProcessStat:
    last = _COUNTED[-1]
    words = text.rpartition(b")")[2].split(None, last + 1)
    if len(words) <= last:
        raise ValueError("too short")
    minor, major, threads, resident = [_number(words[at]) for at in _COUNTED]
    return words[_STATE], minor, major, threads, resident


_PARSES: Final[dict[Layout, Callable[[bytes], Parsed]]] = {
    Layout.TEXT: bytes,
    Layout.NUMBERS: _numbers,
    Layout.PAIRS: _pairs,
    Layout.TOTALS: _totals,
    Layout.STAT: _stat,
}


def _parses(layouts: list[Layout]) -> Iterator[tuple[slice, _Parse]]:
    """Yield which texts make a value, and what makes it of them."""
    at = 0
    for layout, same in groupby(layouts):
        count = len(list(same))
        if layout is Layout.SCHEDSTAT:
            yield slice(at, at + count), _spans
        else:
            parse = _PARSES[layout]
            for each in range(at, at + count):
                yield slice(each, each + 1), partial(_only, parse)
        at += count


def _only(parse: Callable[[bytes], Parsed], texts: list[bytes]) -> Parsed:
    (text,) = texts
    return parse(text)

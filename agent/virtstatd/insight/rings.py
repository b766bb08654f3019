"""Rings of floats: the numbers of the last hour, one for each slot of time."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import isnan, nan
from typing import Final


HOUR_SECONDS: Final = 3600


@dataclass(slots=True)
class Ring:
    """
    Numbers of several series by slot.

    `step` is the time of a slot, `last` the newest one, `count` the observations in that.
    """

    numbers: array[float]
    step: int
    last: int
    count: int = 0


def series_of(ring: Ring) -> int:
    """Return how many series a ring has."""
    return len(ring.numbers) // (HOUR_SECONDS // ring.step)


def rows_of_ring(ring: Ring, newest: int) -> list[array[float]]:
    """Return the numbers of each series for the hour that ends with a slot."""
    slots = HOUR_SECONDS // ring.step
    cut = (ring.last + 1) % slots
    missing = newest - ring.last
    return [
        (ring.numbers[start + cut : start + slots] + ring.numbers[start : start + cut])[missing:]
        + empty_numbers(missing)
        for start in range(0, len(ring.numbers), slots)
    ]


def first_number(row: array[float]) -> int:
    """Return the place of the first number, behind the end where there is none."""
    return next((at for at, number in enumerate(row) if not isnan(number)), len(row))


def reshaped(ring: Ring, step: int) -> Ring:
    """Return a ring with slots of another time: means of several, or each number repeatedly."""
    former, slots = HOUR_SECONDS // ring.step, HOUR_SECONDS // step
    series = len(ring.numbers) // former
    last = (ring.last * ring.step + max(0, ring.step - step)) // step
    made = Ring(empty_numbers(series * slots), step, last, 1)
    oldest = ring.last - former + 1
    for slot in range(last - slots + 1, last + 1):
        begin = slot * step // ring.step
        end = ((slot + 1) * step - 1) // ring.step + 1
        olds = range(max(begin, oldest), min(end, ring.last + 1))
        for one in range(series):
            several = [ring.numbers[one * former + old % former] for old in olds]
            good = [number for number in several if not isnan(number)]
            if good:
                made.numbers[one * slots + slot % slots] = sum(good) / len(good)
    return made


def empty_numbers(length: int) -> array[float]:
    """Return so many numbers that are not known."""
    return array("f", [nan]) * length


def short(number: float) -> float:
    """Return a float as short as its precision is."""
    return float(f"{number:.6g}")

"""What is computed for other tools: functions of a number and of those beside it, in base units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from virtstatd.model import Number


Formula = Callable[[Sequence[Number], Sequence[Number | None]], Number | None]
"""From the numbers of the metric's own series, and those beside it; None is no series."""


def _sum(own: Sequence[Number], beside: Sequence[Number | None]) -> Number | None:
    others = [each for each in beside if each is not None]
    return sum(own) + sum(others) if len(others) == len(beside) else None


def _highest(own: Sequence[Number], beside: Sequence[Number | None]) -> Number:
    return max(own[0], *(each for each in beside if each is not None), own[0])


def _used(own: Sequence[Number], beside: Sequence[Number | None]) -> Number | None:
    """Subtract the first that is known."""
    return next((own[0] - each for each in beside if each is not None), None)


def _used_percent(own: Sequence[Number], beside: Sequence[Number | None]) -> Number | None:
    used = _used(own, beside)
    if used is None:
        return None
    return 100 * used / own[0] if own[0] else math.nan


def _not(own: Sequence[Number], _: Sequence[Number | None]) -> Number:
    return int(not own[0])


def _one(_: Sequence[Number], __: Sequence[Number | None]) -> Number:
    return 1


FORMULAS: Final[dict[str, Formula]] = {
    "sum": _sum,
    "highest": _highest,
    "used": _used,
    "used_percent": _used_percent,
    "not": _not,
    "one": _one,
}

"""Retry pauses, and the suspicion that a series is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from virtstatd.pipeline.pieces import UnitKey


BACKOFF_SECONDS = (0.5, 30.0)
"""First and longest pause between attempts; the true one is anywhere between zero and it."""

RETRY_AFTER_MAX_SECONDS = 300.0
"""Longest pause that a destination may ask for."""

DENIED_SECONDS = 30.0
"""Pause after refused credentials or a wrong address."""

SUSPECT_FAILURES, SUSPECT_SECONDS = 8, 300.0
"""Answered failures, and least seconds since the first, until the batch is suspected."""

DENIED_AGE_SECONDS = 86400.0
"""Age up to which nothing on disk is given up for having waited for better credentials."""

ALONE_FAILURES = 3
"""Failures of a series alone, while others of its batch get through, until it is lost."""

POISON_SECONDS = 3600.0
"""Time for which a refused series is remembered."""

TRIAL_SECONDS = 60.0
"""Pause between two trials whether refused series are accepted now."""

FRUITLESS_SECONDS = 60.0
"""Pause after a search in which the destination refused everything."""


class Backoff:
    """Pauses that double, with full jitter."""

    def __init__(self) -> None:
        self._longest = BACKOFF_SECONDS[0]

    def seconds(self, asked: float | None) -> float:
        """Return seconds to wait; what the destination `asked` for has priority, within bounds."""
        wait = random.uniform(0, self._longest)  # noqa: S311 - jitter
        self._longest = min(self._longest * 2, BACKOFF_SECONDS[1])
        if asked is None or not asked >= 0:  # NaN is no time either
            return wait
        return min(asked, RETRY_AFTER_MAX_SECONDS)

    def reset(self) -> None:
        """Start from the shortest pause again, after a success."""
        self._longest = BACKOFF_SECONDS[0]


class Guard:
    """
    Decide whether a batch causes its failures, rather than the destination.

    Only answered failures count, since a refused connection is no evidence about the batch. Nothing
    is given up unless another part of the same batch got through, so a destination that answers
    everything with an error costs only time.
    """

    def __init__(self, clock: Callable[[], float], *, armed: bool) -> None:
        self.proven = False
        self._moved = False
        self.found: list[UnitKey] = []
        self._clock = clock
        self._armed = armed
        self._failures = 0
        self._since = 0.0

    @property
    def suspicious(self) -> bool:
        """Whether to search for the series that causes the failures."""
        if self._armed:  # found some already a while ago
            return self._failures > 0
        long = self._clock() - self._since >= SUSPECT_SECONDS
        return self._failures >= SUSPECT_FAILURES and long

    def passed(self, samples: int) -> None:
        """Record that a piece got through; one without samples proves nothing."""
        if samples:
            self.proven = self._moved = True

    def failed(self) -> bool:
        """Count an answered failure; return whether anything got through since the last one."""
        if not self._failures:
            self._since = self._clock()
        self._failures += 1
        moved, self._moved = self._moved, False
        return moved


class Poison:
    """The series that a destination refused, remembered for an hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[UnitKey, float] = {}
        self._trial_at = 0.0

    @property
    def keys(self) -> frozenset[UnitKey]:
        """The keys that are remembered now."""
        now = self._clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return frozenset(self._until)

    def trial(self) -> bool:
        """Return whether to try refused series now, which is rare."""
        if self._clock() < self._trial_at:
            return False
        self._trial_at = self._clock() + TRIAL_SECONDS
        return True

    def add(self, key: UnitKey) -> None:
        """Remember a key for `POISON_SECONDS`."""
        self._trial_at = self._clock() + TRIAL_SECONDS
        self._until[key] = self._clock() + POISON_SECONDS

    def forget(self, keys: Iterable[UnitKey]) -> None:
        """Forget keys that were accepted."""
        for key in keys:
            self._until.pop(key, None)

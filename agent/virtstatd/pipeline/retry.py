"""When to try again, when to look for what a destination cannot take, and how old is too old."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from virtstatd.model import Batch
from virtstatd.pipeline.pieces import UnitKey


BACKOFF_SECONDS = (0.5, 30.0)
"""First and longest pause between attempts; the true one is anywhere between zero and it."""

RETRY_AFTER_MAX_SECONDS = 300.0
"""A destination may ask for patience, but not for ever."""

DENIED_SECONDS = 30.0
"""How long the others wait when a batch was lost to refused credentials."""

SUSPECT_FAILURES, SUSPECT_SECONDS = 8, 300.0
"""Failures that were answered, and for how long at least, until the batch itself is suspected."""

ALONE_FAILURES = 3
"""How often one series must fail alone, while others of its batch get through."""

POISON_SECONDS = 3600.0
"""How long it is remembered what a destination could not take."""

STEP_SECONDS = 1.0


class Backoff:
    """Pauses that double, with full jitter."""

    def __init__(self) -> None:
        self._longest = BACKOFF_SECONDS[0]

    def seconds(self, asked: float | None) -> float:
        """Return how long to wait now; what the destination asked for wins, within bounds."""
        wait = random.uniform(0, self._longest)  # noqa: S311 - jitter
        self._longest = min(self._longest * 2, BACKOFF_SECONDS[1])
        if asked is None or not asked >= 0:  # NaN is no time either
            return wait
        return min(asked, RETRY_AFTER_MAX_SECONDS)

    def reset(self) -> None:
        """Begin anew after a success."""
        self._longest = BACKOFF_SECONDS[0]


class Guard:
    """
    Whether one batch is to blame for its failures, rather than the destination.

    Only failures that the destination answered count: a connection that is refused says nothing
    about the batch. Nothing is given up unless another part of the same batch got through, so a
    destination that answers everything with an error costs nothing but time.
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
        """Whether to look for the series that is to blame."""
        if self._armed:  # found some already a while ago
            return self._failures > 0
        long = self._clock() - self._since >= SUSPECT_SECONDS
        return self._failures >= SUSPECT_FAILURES and long

    def passed(self, batch: Batch) -> None:
        """Learn what got through; what has no samples says nothing."""
        if batch.samples:
            self.proven = self._moved = True

    def failed(self) -> bool:
        """Count a failure that was answered; return whether anything got through since the last."""
        if not self._failures:
            self._since = self._clock()
        self._failures += 1
        moved, self._moved = self._moved, False
        return moved


class Poison:
    """The series that a destination could not take, for an hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[UnitKey, float] = {}

    @property
    def keys(self) -> frozenset[UnitKey]:
        """What is known now."""
        now = self._clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return frozenset(self._until)

    def add(self, key: UnitKey) -> None:
        """Remember it."""
        self._until[key] = self._clock() + POISON_SECONDS

    def forget(self, keys: Iterable[UnitKey]) -> None:
        """Take them for good again."""
        for key in keys:
            self._until.pop(key, None)


class Ages:
    """
    How old batches are by their own time, with the host's clock set in between.

    A step forward makes no batch older that was there before it. After a step back, batches seem
    younger than they are, and wait as much longer: too long is better than lost.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], int]) -> None:
        self._clock = clock
        self._wall = wall
        self._before = wall() / 1e9
        self._offset = self._before - clock()
        self._steps: list[tuple[float, float]] = []

    def seconds(self, taken_at: int) -> float:
        """Return the age of what was taken at a Unix time in nanoseconds."""
        self.look()
        steps = sum(step for before, step in self._steps if taken_at / 1e9 <= before)
        return max(0.0, self._before - taken_at / 1e9 - steps)

    def look(self) -> None:
        """Notice whether the clock was set; to be called every now and then."""
        now = self._wall() / 1e9
        offset = now - self._clock()
        if offset - self._offset > STEP_SECONDS:
            self._steps.append((self._before, offset - self._offset))
            del self._steps[:-8]
        self._before = now
        self._offset = offset

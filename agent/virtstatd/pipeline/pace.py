"""How much is sent at once, and whether a sink keeps up with what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from structlog.typing import FilteringBoundLogger


GROWTH: Final = 32
"""A request that was accepted makes the next ones larger by one part in so many."""

LAG_SECONDS: Final = 10.0
"""How long a sink is late, or in time again, until that is logged."""

STEP_SECONDS: Final = 1.0


class RequestSize:
    """The samples of a request: halved where one is too large, and grown again, up to `most`."""

    def __init__(self, most: int) -> None:
        self.samples = most
        self._most = most

    def refused(self, samples: int) -> None:
        """Shrink after a request of so many samples that was too large."""
        self.samples = max(1, min(self.samples, samples // 2))

    def taken(self, samples: int) -> None:
        """Grow after a request that was accepted; a small one proves nothing."""
        if self.samples < self._most and 2 * samples >= self.samples:
            self.samples = min(self._most, self.samples + self.samples // GROWTH + 1)


class Ages:
    """
    The age of batches by their wall-clock time, corrected for steps of the clock.

    A step forward does not age batches that were there before it. After a step back, batches seem
    younger and wait longer: too long is better than lost.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], int]) -> None:
        self._clock = clock
        self._wall = wall
        self._before = wall() / 1e9
        self._offset = self._before - clock()
        self._steps: list[tuple[float, float]] = []

    def seconds(self, taken_at: int) -> float:
        """Return the age in seconds of a batch taken at a Unix time in nanoseconds."""
        self.look()
        steps = sum(step for before, step in self._steps if taken_at / 1e9 <= before)
        return max(0.0, self._before - taken_at / 1e9 - steps)

    def look(self) -> None:
        """Notice a step of the clock; to be called with every batch."""
        now = self._wall() / 1e9
        offset = now - self._clock()
        if offset - self._offset > STEP_SECONDS:
            self._steps.append((self._before, offset - self._offset))
            del self._steps[:-8]
        self._before = now
        self._offset = offset


class Lag:
    """
    Log when what is sent has waited for more than two intervals, and when that is over.

    Two intervals are the lifetime of a batch. What waited because the destination failed is not
    meant: that is logged by itself. Nor is what waited for the first connection.
    """

    def __init__(self, clock: Callable[[], float], log: FilteringBoundLogger) -> None:
        self._clock = clock
        self._log = log
        self._excused_until = clock()  # what waited before it is no lag
        self._lagging = False
        self._turned_at: float | None = None
        self._marks: deque[tuple[float, int, int]] = deque()

    def failed(self) -> None:
        """Note that an attempt failed just now."""
        self._excused_until = self._clock()

    def sent(self, late_seconds: float, accepted: int, delivered: int) -> None:
        """
        Judge what was just sent: its age where that is over two intervals, else 0.

        `accepted` and `delivered` are samples so far.
        """
        now = self._clock()
        if not self._marks:  # the first delivery
            self._excused_until = now
        if not self._marks or now - self._marks[-1][0] >= LAG_SECONDS / 10:
            self._marks.append((now, accepted, delivered))
            while now - self._marks[0][0] > 2 * LAG_SECONDS:
                self._marks.popleft()
        late = 0 < late_seconds < now - self._excused_until
        if late == self._lagging:
            self._turned_at = None
        elif self._turned_at is None:
            self._turned_at = now
        elif now - self._turned_at >= LAG_SECONDS:
            self._turned_at = None
            self._lagging = late
            rates = self._rates(now, accepted, delivered)
            if late:
                self._log.warning("sink.lagging", behind_seconds=round(late_seconds, 1), **rates)
            else:
                self._log.info("sink.caught_up", **rates)

    def _rates(self, now: float, accepted: int, delivered: int) -> dict[str, int]:
        """Return the samples a second that came, and that were delivered, recently."""
        since, came, went = self._marks[0]
        seconds = max(now - since, 1e-9)
        return {
            "samples_per_second_in": round((accepted - came) / seconds),
            "samples_per_second_out": round((delivered - went) / seconds),
        }

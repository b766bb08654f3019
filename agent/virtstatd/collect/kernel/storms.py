"""
What averages hide: the shares of each second, or longer interval, that vCPUs waited or ran.

Every vCPU's share of the time between two readings is one observation of a histogram that only
grows, so that a scrape once a minute still sees that there was a bad second. The highest share is
kept for a while, to show how bad it was.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from operator import sub

from virtstatd._fast import SHARES
from virtstatd._fast.plain import Observing
from virtstatd.model import Number


BOUNDS = ("0.01", "0.02", "0.05", "0.1", "0.2", "0.3", "0.5", "0.7", "0.9")
"""Upper bounds of the buckets."""

FLOATS = tuple(float(bound) for bound in BOUNDS)


class Shares:
    """The shares of one guest: their histogram, and the highest of the last `kept_seconds`."""

    def __init__(self, kept_seconds: float) -> None:
        self._kept = kept_seconds
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._peaks: deque[tuple[float, float]] = deque()

    def observe(
        self, spans: tuple[int, ...], before: tuple[int, ...], elapsed: int, now: float, /
    ) -> None:
        """
        Take the shares by which spans grew, as `Observing` has it.

        A share ends at 1: the kernel accounts a long wait when it ends.
        """
        if elapsed <= 0 or len(spans) != len(before):
            raise ValueError("no time, or other spans than before")
        grown = list(map(sub, spans, before)) if spans is not before else ()
        highest = max(0.0, min(1.0, max(grown, default=0) / elapsed))
        if highest <= FLOATS[0] and min(grown, default=0) >= 0:  # nearly always
            self._counts[0] += len(spans)
            self._sum += sum(grown) / elapsed
        else:
            for span in grown:
                share = max(0.0, min(1.0, span / elapsed))
                self._counts[bisect_left(FLOATS, share)] += 1
                self._sum += share
        peaks = self._peaks
        while peaks and peaks[-1][1] <= highest:
            peaks.pop()
        peaks.append((now, highest))
        while peaks[0][0] <= now - self._kept:
            peaks.popleft()

    def histogram(self) -> list[Number]:
        """Return the numbers of the histogram's series: buckets, sum, count."""
        buckets = list(accumulate(self._counts))
        return [*buckets, self._sum, buckets[-1]]

    def peak(self) -> float:
        """Return the highest share of the time kept."""
        return self._peaks[0][1] if self._peaks else 0.0


def shares(kept_seconds: float) -> Observing:
    """Return the shares of a guest, in C where there is the library."""
    return SHARES(FLOATS, kept_seconds) if SHARES else Shares(kept_seconds)

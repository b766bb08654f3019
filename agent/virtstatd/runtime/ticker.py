"""When to poll: deadlines on the monotonic clock that never pile up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence

from virtstatd.runtime.waiting import first_of


TOGETHER_SECONDS = 0.02
"""Deadlines closer than this count as one, so that their groups share a call."""


class Ticker:
    """
    The deadlines of one interval; those that pass unused are counted and never caught up.

    All tickers of a process share one origin, so that deadlines of multiple intervals coincide.
    `seconds` is the interval in force, `configured` the configured one.
    """

    def __init__(self, name: str, seconds: float, origin: float) -> None:
        self.name = name
        self.configured = self.seconds = seconds
        self.due = self._last = origin
        self.ticks = 0
        self.skipped = 0

    @property
    def stretched(self) -> bool:
        """Whether the interval is longer than configured."""
        return self.seconds > self.configured

    def advance(self, now: float) -> None:
        """Take the deadline that has come and move to the next one that lies ahead."""
        missed = int(max(0.0, now - self.due) // self.seconds)
        self.take()
        self.skipped += missed
        self._last = self.due + missed * self.seconds
        self.due = self._last + self.seconds

    def take(self) -> None:
        """Count a tick, whether or not its deadline has come."""
        self.ticks += 1

    def skip(self) -> None:
        """Count the tick just taken as skipped: its consumer is still busy."""
        self.skipped += 1

    def stretch(self, times: int, now: float) -> None:
        """
        Make the interval a whole multiple of the configured one, from the next deadline on.

        A longer one leaves that deadline where it is: what was read last was said to be current
        until then. A shorter one may bring it forward, but never into the past.
        """
        self.seconds = times * self.configured
        ahead = max(times, math.ceil((now - self._last) / self.configured))
        self.due = min(self.due, self._last + ahead * self.configured)

    def before(self, moment: float) -> None:
        """Bring the next deadline forward where it would come after a moment."""
        if self.due > moment:
            steps = math.ceil((moment - self._last) / self.configured) - 1
            self.due = min(self.due, self._last + max(0, steps) * self.configured)


async def ticks(
    tickers: Sequence[Ticker],
    stop: asyncio.Event,
    nudge: asyncio.Event,
    clock: Callable[[], float],
) -> AsyncIterator[list[Ticker]]:
    """
    Yield the tickers whose deadlines have come, together where they fall together, until `stop`.

    A `nudge` makes all of them due immediately, as when libvirt is available again. Deadlines are
    checked again after the shortest interval at the latest, as they may be moved.
    """
    shortest = min(ticker.configured for ticker in tickers)
    while not stop.is_set():
        now = clock()
        if nudge.is_set():
            nudge.clear()
            due = list(tickers)
            for ticker in due:
                ticker.take()
        else:
            due = [ticker for ticker in tickers if ticker.due <= now + TOGETHER_SECONDS]
            for ticker in due:
                ticker.advance(now)
        if due:
            yield due
        pause = min(ticker.due for ticker in tickers) - clock()
        if pause > 0:
            await first_of(stop, nudge, seconds=min(pause, shortest))

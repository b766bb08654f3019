"""When to poll: deadlines on the monotonic clock that never pile up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from virtstatd.polling.waiting import first_of


TOGETHER_SECONDS = 0.02
"""Deadlines closer than this fall together, so that their groups travel in one call."""


class Ticker:
    """
    The deadlines of one interval; those that pass unused are counted, never made up for.

    All tickers of a process share one origin, so that a multiple of an interval falls on it.
    """

    def __init__(self, name: str, seconds: float, origin: float) -> None:
        self.name = name
        self.seconds = seconds
        self.due = origin
        self.ticks = 0
        self.skipped = 0

    def advance(self, now: float) -> None:
        """Take the deadline that has come and move to the next one that lies ahead."""
        missed = int(max(0.0, now - self.due) // self.seconds)
        self.ticks += 1
        self.skipped += missed
        self.due += (missed + 1) * self.seconds

    def skip(self) -> None:
        """Count the tick just taken as skipped: whoever it was for is still busy."""
        self.skipped += 1


async def ticks(
    tickers: Sequence[Ticker],
    stop: asyncio.Event,
    nudge: asyncio.Event,
    clock: Callable[[], float],
) -> AsyncIterator[list[Ticker]]:
    """
    Yield the tickers whose deadlines have come, together where they fall together, until `stop`.

    A `nudge` makes all of them due at once: libvirt is back, so nobody waits for an interval.
    """
    while not stop.is_set():
        now = clock()
        if nudge.is_set():
            nudge.clear()
            due = list(tickers)
            for ticker in due:
                ticker.ticks += 1
        else:
            due = [ticker for ticker in tickers if ticker.due <= now + TOGETHER_SECONDS]
            for ticker in due:
                ticker.advance(now)
        if due:
            yield due
        pause = min(ticker.due for ticker in tickers) - clock()
        if pause > 0:
            await first_of(stop, nudge, seconds=pause)

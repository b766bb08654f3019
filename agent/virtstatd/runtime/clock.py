"""
The clocks, and how steps of the wall clock and a suspend of the host are handled.

Everything is scheduled on the monotonic clock, which neither steps nor runs while the host is
suspended. Samples carry the wall clock's time, even if it is wrong: a receiver compares it with
that of others. The age of a reading is measured by the clock that continues during a suspend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from virtstatd.runtime.waiting import next_beat


LOOK_SECONDS = 1.0
STEP_SECONDS = 1.0
"""A smaller step may be a correction by NTP, or a pause between reading two clocks."""

APART_SECONDS = 0.1
"""Clocks that were not read within this time, because the process was delayed, are not compared."""


def boottime() -> float:
    """Return seconds that never step back and include the time of a suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clocks:
    """Notices steps of the wall clock and suspends of the host, and calls `on_sleep` then."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        on_sleep: Callable[[], None],
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = boottime,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps = 0
        """Number of steps of the wall clock."""
        self._log = log
        self._on_sleep = on_sleep
        self._wall = wall
        self._boot = boot
        self._monotonic = monotonic
        self._set = wall() - boot()
        self._slept = boot() - monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Compare the clocks periodically until `stop`."""
        while not stop.is_set():
            await next_beat(stop, LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Compare the clocks with their last readings."""
        before = self._boot()
        wall, monotonic, after = self._wall(), self._monotonic(), self._boot()
        if after - before > APART_SECONDS:
            return
        step = wall - before - self._set
        slept = before - monotonic - self._slept
        self._set, self._slept = wall - before, before - monotonic
        if abs(step) > STEP_SECONDS:
            self.steps += 1
            self._log.warning("clock.stepped", seconds=round(step, 3))
        if slept > STEP_SECONDS:
            self._log.info("host.slept", seconds=round(slept, 3))
            self._on_sleep()

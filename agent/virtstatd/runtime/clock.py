"""
The clocks: what is left of time when somebody sets the wall clock or the host sleeps.

Everything is scheduled on the monotonic clock, which neither steps nor runs while the host sleeps.
Samples carry the wall clock's time, right or wrong: a receiver compares it with that of others.
How long a reading is current goes by the clock that runs on in a sleep.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from virtstatd.runtime.waiting import next_beat


LOOK_SECONDS = 1.0
STEP_SECONDS = 1.0
"""A smaller step is what a clock that is kept right may do, or a pause between two looks at it."""

APART_SECONDS = 0.1
"""Clocks that were not read at once, by a process that was held up, are not compared."""


def boottime() -> float:
    """Return seconds that never step back and count the host's sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clocks:
    """Notice steps of the wall clock and the sleep of the host; `on_sleep` is called after one."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        on_sleep: Callable[[], None],
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = boottime,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps = 0
        """How often the wall clock was set."""
        self._log = log
        self._on_sleep = on_sleep
        self._wall = wall
        self._boot = boot
        self._monotonic = monotonic
        self._set = wall() - boot()
        self._slept = boot() - monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Look at the clocks until `stop`."""
        while not stop.is_set():
            await next_beat(stop, LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Compare the clocks with how they stood at the last look."""
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

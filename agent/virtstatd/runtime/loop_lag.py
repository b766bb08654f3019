"""How late the event loop runs what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from virtstatd.runtime.waiting import beat_after


LAG_PERIOD_SECONDS = 1.0
"""How often the lag is measured, besides whenever a batch is passed on."""

T = TypeVar("T")


class LoopLag:
    """
    How late the event loop runs what is due.

    Periodic measurements see lags that last or recur. Work of the agent itself is measured whenever
    it passes a batch on: an idle loop needs no measurement.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._longest = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Measure until `stop`."""
        loop = asyncio.get_running_loop()
        self._begin(loop)
        self._loop = loop
        try:
            await stop.wait()
        finally:
            self._loop = None
            self._timer.cancel()

    def measuring(self, emit: Callable[[T], None]) -> Callable[[T], None]:
        """Return `emit`, wrapped to measure the turns of the loop in which it is called."""

        def measured(batch: T) -> None:
            if self._loop is not None:  # its time is that of the turn's beginning
                self._loop.call_soon(self._turned, self._loop, self._loop.time())
            emit(batch)

        return measured

    def take(self) -> float:
        """Return the longest lag in seconds since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # a timer costs a third less than a task; at full seconds, to share the wake-up
        due = beat_after(loop.time(), LAG_PERIOD_SECONDS)
        self._timer = loop.call_at(due, self._look, loop, due)

    def _turned(self, loop: asyncio.AbstractEventLoop, begun: float) -> None:
        self._longest = max(self._longest, loop.time() - begun)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        late = max(0.0, loop.time() - due)
        self.total += late
        self._longest = max(self._longest, late)
        self._begin(loop)

"""A clock that tests advance by hand."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class FakeClock:
    """A clock in monotonic seconds; `sleep` returns when `advance` reaches its end."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), until))
        await until

    async def advance(self, seconds: float) -> None:
        """Advance by `seconds`, waking sleepers in order; each runs until it waits again."""
        end = self.now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, until = heapq.heappop(self._sleepers)
            if not until.done():
                until.set_result(None)
            await settle()
        self.now = end
        await settle()


async def settle(turns: int = 10) -> None:
    """Run all tasks that are ready, for as many `turns` of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)

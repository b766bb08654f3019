"""One batch to every outlet, and the end of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from virtstatd.model import Batch
from virtstatd.pipeline.outlet import Outlet


class Fanout:
    """Hand each batch to every outlet; never wait."""

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        self._outlets = outlets

    def __call__(self, batch: Batch) -> None:
        """Offer the batch to all."""
        for outlet in self._outlets:
            outlet.offer(batch)


@asynccontextmanager
async def draining(outlets: Sequence[Outlet], seconds: float) -> AsyncIterator[Fanout]:
    """
    Run the outlets; on leaving let what they hold flow out, at most `seconds`.

    What a sink has not taken by then is on disk or lost, which its outlet counts and logs.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(o.run(), name=f"outlet {o.name}") for o in outlets]
        try:
            yield Fanout(outlets)
        finally:
            for outlet in outlets:
                outlet.close()
            _, late = await asyncio.wait(running, timeout=seconds) if running else (set(), set())
            for task in late:
                task.cancel()

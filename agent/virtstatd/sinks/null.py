"""A sink that discards everything, for trials and for measuring the rest of the agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from virtstatd.sink import Batch, Delivery, Opening, Send


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """Count and discard every batch; log the counts at the end."""

    delivery: ClassVar[Delivery] = "memory"

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Yield a `send` that accepts everything."""
        batches = samples = 0

        async def send(batch: Batch) -> None:
            nonlocal batches, samples
            batches += 1
            samples += batch.samples

        try:
            yield send
        finally:
            opening.log.info("null.closed", batches=batches, samples=samples)

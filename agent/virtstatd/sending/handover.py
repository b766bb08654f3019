"""Hand batches to a thread whose calls may block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from virtstatd.runtime.worker import Worker


T = TypeVar("T")


class Handover(Generic[T]):
    """Write batches on a thread, each once, although waiting for it may be cancelled."""

    def __init__(self, worker: Worker, write: Callable[[T], None]) -> None:
        self._worker = worker
        self._write = write
        self._underway: tuple[T, asyncio.Future[None]] | None = None

    async def send(self, batch: T) -> None:
        """Write a batch; one whose sender was cancelled is written to its end before the next."""
        if self._underway is not None:
            earlier, written = self._underway
            await asyncio.wait([written])
            self._underway = None
            if earlier is batch and written.exception() is None:
                return  # it was only not waited for
        written = self._worker.submit(lambda: self._write(batch))
        self._underway = batch, written
        await asyncio.wait([written])  # waiting may be cancelled, writing cannot
        self._underway = None
        written.result()

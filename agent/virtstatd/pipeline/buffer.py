"""A bounded queue that forgets its oldest batch rather than make a source wait."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Self

from virtstatd.model import Batch


@dataclass(slots=True)
class Tally:
    """How many batches, and how many samples in them."""

    batches: int = 0
    samples: int = 0

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.batches += 1
        self.samples += batch.samples


class Buffer:
    """
    Waiting batches, `capacity` bytes of them at most, by the estimate of `Batch.bytes`.

    Iterating takes them out, oldest first, waits while there is none, and ends after `close` once
    it is empty. The newest is always kept: one that is larger than the whole capacity waits alone.
    """

    def __init__(self, capacity: int) -> None:
        self.dropped = Tally()
        self.bytes = 0
        self._capacity = capacity
        self._batches: deque[Batch] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def waiting(self) -> Tally:
        """What is in the buffer now."""
        return Tally(len(self._batches), sum(batch.samples for batch in self._batches))

    def offer(self, batch: Batch) -> None:
        """Take a batch in; forget the oldest until it fits."""
        self._batches.append(batch)
        self.bytes += batch.bytes
        while self.bytes > self._capacity and len(self._batches) > 1:
            self.dropped.add(self._pop())
        self._changed.set()

    def close(self) -> None:
        """Say that nothing more will be offered."""
        self._closed = True
        self._changed.set()

    def discard(self) -> Tally:
        """Empty the buffer and return what was in it."""
        waiting = self.waiting
        self._batches.clear()
        self.bytes = 0
        return waiting

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        while not self._batches:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._pop()

    def _pop(self) -> Batch:
        batch = self._batches.popleft()
        self.bytes -= batch.bytes
        return batch

"""A bounded queue that drops its oldest batch rather than make a collector wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from virtstatd.model import Batch


@dataclass(slots=True)
class Tally:
    """How many batches, how many samples in them, and their bytes by `Batch.bytes`."""

    batches: int = 0
    samples: int = 0
    bytes: int = 0

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.batches += 1
        self.samples += batch.samples
        self.bytes += batch.bytes

    def remove(self, batch: Batch) -> None:
        """Count a batch no longer."""
        self.batches -= 1
        self.samples -= batch.samples
        self.bytes -= batch.bytes

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.batches + other.batches, self.samples + other.samples, self.bytes + other.bytes
        )

    def __sub__(self, other: Tally) -> Tally:
        return Tally(
            self.batches - other.batches, self.samples - other.samples, self.bytes - other.bytes
        )


ALONE: Final = -1
"""Asks a queue for one batch."""


def train_length(batches: Iterable[Batch], samples: int) -> int:
    """Return how many of the first batches have so many samples at most, but one at least."""
    count = 0
    for batch in batches:
        if count and batch.samples > samples:
            break
        samples -= batch.samples
        count += 1
    return count


class BatchRow:
    """Batches in a row, oldest first, and their sum."""

    def __init__(self, batches: Iterable[Batch] = ()) -> None:
        self.batches = deque[Batch]()
        self.tally = Tally()
        for batch in batches:
            self.append(batch)

    def append(self, batch: Batch) -> None:
        """Add the newest."""
        self.batches.append(batch)
        self.tally.add(batch)

    def prepend(self, batch: Batch) -> None:
        """Add the oldest."""
        self.batches.appendleft(batch)
        self.tally.add(batch)

    def pop(self) -> Batch:
        """Remove the oldest."""
        batch = self.batches.popleft()
        self.tally.remove(batch)
        return batch

    def train(self, samples: int) -> list[Batch]:
        """Remove the oldest of so many samples at most, but one at least."""
        return [self.pop() for _ in range(train_length(self.batches, samples))]

    def drop(self, capacity: int, dropped: Tally) -> None:
        """Remove and count the oldest, never the newest, until the rest has so many bytes."""
        while self.tally.bytes > capacity and len(self.batches) > 1:
            dropped.add(self.pop())


Linger = Callable[[], Awaitable[None]]
"""Waits for more batches to share a request."""


class Lost(NamedTuple):
    """What ends with the process: a sum of what waited, and the batches that were taken."""

    waiting: Tally
    taken: Sequence[Batch]


class Queue(Protocol):
    """
    What waits in front of a sink, oldest first; one task takes trains of batches.

    Of all that was offered or recovered, each batch is in `waiting`, in `dropped`, or was taken.
    A batch that was taken belongs to the taker: it is no longer in `waiting` or `kept`, and never
    counted as dropped.
    """

    dropped: dict[str, Tally]
    """Batches dropped, by reason: "memory" full, "disk" full, or a "damaged" record."""
    recovered: Tally
    """Batches found on disk at the start."""

    def offer(self, batch: Batch) -> None:
        """Add a batch, on the event loop; never waits, never raises."""
        ...

    async def take(self, samples: int = ALONE, linger: Linger | None = None) -> list[Batch]:
        """
        Return the oldest waiting batches, so many samples at most but one batch at least.

        With `ALONE` it is one batch, though those behind it have no samples.

        Waits for the first one, then as long as `linger` does; returns nothing once closed and
        empty.
        """
        ...

    async def settle(self, count: int) -> None:
        """Forget so many of the oldest that were taken, which are delivered or lost."""
        ...

    def close(self) -> None:
        """End the stream: nothing is offered after this."""
        ...

    async def finish(self) -> Lost:
        """
        Write to disk what can be written; the last call on a queue.

        What is on disk stays in `waiting`, or taken. The rest is lost with the process, and
        returned.
        """
        ...

    @property
    def waiting(self) -> Tally:
        """Batches in the queue now."""
        ...

    @property
    def kept(self) -> Tally:
        """Batches of `waiting` that are on disk."""
        ...

    @property
    def bytes(self) -> int:
        """Memory of waiting batches in bytes, by estimate."""
        ...

    @property
    def disk_bytes(self) -> int:
        """Size of the files in bytes."""
        ...

    def numbers(self) -> Iterable[tuple[str, int]]:
        """Return what is on disk and was found there, by the keys of the agent's own numbers."""
        ...


class Buffer:
    """
    Waiting batches, `capacity` bytes of them at most, by the estimate of `Batch.bytes`.

    The newest is always kept: one that is larger than the whole capacity waits alone.
    """

    def __init__(self, capacity: int) -> None:
        self.dropped = {"memory": Tally()}
        self.recovered = Tally()
        self.kept = Tally()
        self.disk_bytes = 0
        self._capacity = capacity
        self._row = BatchRow()
        self._taken: deque[Batch] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def waiting(self) -> Tally:
        """Batches in the buffer now."""
        return self._row.tally + Tally()

    @property
    def bytes(self) -> int:
        """Memory of waiting batches in bytes, by estimate."""
        return self._row.tally.bytes

    def numbers(self) -> Iterable[tuple[str, int]]:
        """Return nothing: it has no disk."""
        return ()

    def offer(self, batch: Batch) -> None:
        """Add a batch; drop the oldest until it fits."""
        self._row.append(batch)
        self._row.drop(self._capacity, self.dropped["memory"])
        self._changed.set()

    async def take(self, samples: int = ALONE, linger: Linger | None = None) -> list[Batch]:
        """Return the oldest batches up to a size, or wait; nothing once closed and empty."""
        idle = not self._row.batches
        while not self._row.batches:
            if self._closed:
                return []
            self._changed.clear()
            await self._changed.wait()
        if idle and linger is not None:
            await linger()
        train = self._row.train(samples)
        self._taken.extend(train)
        return train

    async def settle(self, count: int) -> None:
        """Forget so many of the oldest that were taken, which are delivered or lost."""
        for _ in range(count):
            self._taken.popleft()

    def close(self) -> None:
        """End the stream: nothing is offered after this."""
        self._closed = True
        self._changed.set()

    async def finish(self) -> Lost:
        """Return what is lost with the process: everything."""
        lost = Lost(self._row.tally, tuple(self._taken))
        self._row = BatchRow()
        self._taken.clear()
        return lost

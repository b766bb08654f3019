"""A queue on disk under test: the files it is given, and books that are kept beside its own."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.spool.files import Space, SpoolFiles
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.queue import Spooled
from virtstatd.testing import FakeClock, make_batch, make_shapes


LOG = structlog.get_logger()
SHAPES = make_shapes()
SIZE = make_batch(shapes=SHAPES).bytes


class Moody(SpoolFiles):
    """Real files that fail or hang when they are told to."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.errors = 0
        self.failing: tuple[str, ...] = ("write", "create", "open")
        self.running = threading.Event()
        self.running.set()
        self.reached = threading.Event()

    def _mood(self, operation: str) -> None:
        if not self.running.is_set():
            self.reached.set()
            self.running.wait()
        if self.error is not None and operation in self.failing:
            self.errors += 1
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: Path) -> int:
        """Open an empty file, or fail."""
        self._mood("create")
        return super().create(path)

    def open(self, path: Path) -> int:
        """Open a file, or fail."""
        self._mood("open")
        return super().open(path)

    def read(self, file: int, size: int, offset: int) -> bytes:
        """Read, or fail."""
        self._mood("read")
        return super().read(file, size, offset)

    def write(self, file: int, content: bytes, offset: int) -> None:
        """Write, or fail."""
        self._mood("write")
        super().write(file, content, offset)

    def sync(self, file: int) -> None:
        """Sync, or fail."""
        self._mood("sync")
        super().sync(file)

    def space(self, path: Path) -> Space:
        """Tell the room, or fail."""
        self._mood("space")
        return super().space(path)


def numbered(number: int, domains: int = 3) -> Batch:
    """Return a batch that is known by its time."""
    return make_batch(domains, shapes=SHAPES, taken_at=number)


class Subject:
    """A queue, and the books kept about it from outside."""

    def __init__(self, queue: Spooled, clock: FakeClock) -> None:
        self.queue = queue
        self.clock = clock
        self.accepted = Tally()
        self.delivered = Tally()
        self.taken: list[Batch] = []
        self.times: list[int] = []
        self.offered = 0

    @property
    def idle(self) -> bool:
        """Whether the thread of the disk has nothing to do."""
        return not self.queue._thread.busy

    def offer(self, domains: int = 3) -> None:
        """Offer the next batch."""
        batch = numbered(self.offered, domains)
        self.offered += 1
        self.accepted.add(batch)
        self.queue.offer(batch)
        self.check()

    async def deliver(self) -> int | None:
        """Take and settle a batch; return its time."""
        async with asyncio.timeout(100):
            self.taken = await self.queue.take()
            self.check()
            if not self.taken:
                return None
            (batch,) = self.taken
            self.taken = []
            self.delivered.add(batch)
            self.times.append(batch.taken_at)
            await self.queue.settle(1)
            self.check()
            return batch.taken_at

    def check(self, lost: Tally | None = None) -> None:
        """Hold the books against each other."""
        queue = self.queue
        underway = Tally()
        for batch in self.taken:
            underway.add(batch)
        dropped = sum(queue.dropped.values(), Tally())
        accounted = self.delivered + dropped + queue.waiting + underway + (lost or Tally())
        assert self.accepted + queue.recovered == accounted
        rest = queue.waiting - queue.kept
        assert min(rest.batches, rest.samples, rest.bytes) >= 0

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the thread does."""
        async with asyncio.timeout(100):
            while not condition():
                await asyncio.sleep(0.001)
                self.check()

    async def quiet(self) -> None:
        """Wait until everything is on disk and synced, and the disk works."""
        queue = self.queue
        await self.written()
        await self.until(lambda: self.idle and not (queue._flushing or queue.failing))

    async def written(self) -> None:
        """Wait until everything that waits is on disk."""
        await self.until(lambda: self.queue.kept == self.queue.waiting)


@asynccontextmanager
async def queued(
    directory: Path,
    files: SpoolFiles | None = None,
    *,
    memory: int = 1 << 30,
    disk: int = 1 << 30,
    hung_seconds: float = 30.0,
    lost: int | None = 0,
) -> AsyncIterator[Subject]:
    """Run a queue; what it loses at the end is as much as expected."""
    spool = Spool(directory, capacity=disk, keep_free=(0, 0), files=files)
    clock = FakeClock()
    queue = Spooled(
        spool, LOG, clock, capacity=memory, sync_seconds=0.02, hung_seconds=hung_seconds
    )
    subject = Subject(queue, clock)
    try:
        yield subject
    finally:
        if isinstance(files, Moody):
            files.running.set()
        queue.close()
    end = await queue.finish()
    subject.taken = [batch for batch in subject.taken if batch not in end.taken]
    gone = end.waiting + Tally()
    for batch in end.taken:
        gone.add(batch)
    subject.check(gone)
    assert lost is None or gone.batches == lost
    assert queue.waiting == queue.kept

"""
A queue on disk that goes on without the disk.

    offer ──▶ pending (memory) ──▶ logged (disk) ──▶ taken
                  └──── while the disk fails or hangs ──▶

The disk has a thread of its own, and only its answers count: while the disk hangs, fails or is
full, this is a queue in memory, and what is on disk waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import ALONE, Linger, Lost, Tally
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.reader import Found
from virtstatd.pipeline.spool.segment import Position
from virtstatd.runtime.worker import Worker


RETRY_SECONDS = 30.0
"""Pause before a failed disk is tried again."""

HUNG_SECONDS = 5.0
"""Time of one call to the disk after which it counts as failed."""

SETTLE_SECONDS = 1.0
"""Longest wait of the next batch for the disk to record the one before it."""

FINISH_SECONDS = 1.5
"""Time at the end to write what is not on disk yet."""

APPEND_BYTES = 1 << 20
"""Most bytes for one call of the thread, by the estimate of `Batch.bytes`."""

READ_SAMPLES = 8192
"""Most samples to read in one call of the thread, but one batch at least."""


@dataclass(slots=True, eq=False)
class _Taken:
    """A batch that the sender has, and the position behind it, None where it is not on disk."""

    batch: Batch
    after: Position | None


@dataclass(slots=True, eq=False)
class _Append:
    """One call of the thread: write batches, and what became of them."""

    batches: list[Batch]
    reopen: bool
    opened: tuple[Position, Position] | None = None
    """`settled` and `end` of the spool as it was opened."""
    written: int = 0
    refused: Exception | None = None
    """Why the next one cannot be written, which is not the disk's fault."""

    def run(self, spool: Spool) -> None:  # on the thread
        """Write them, up to the first failure."""
        if self.reopen:
            spool.open()
            self.opened = spool.settled, spool.end
        for batch in self.batches:
            before = spool.end
            try:
                spool.append(batch)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - this batch cannot be written, others can
                self.refused = error
                return
            finally:
                self.written += spool.end != before


class Spooled:
    """
    Write every batch to disk, and hand out what is there; `capacity` bytes may wait for the disk.

    What leaves memory unwritten is dropped as "memory", what leaves the disk for want of room as
    "disk", and what cannot be read any more as "damaged".
    """

    def __init__(
        self,
        spool: Spool,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        *,
        capacity: int,
        sync_seconds: float = 1.0,
        hung_seconds: float = HUNG_SECONDS,
    ) -> None:
        self.dropped = {reason: Tally() for reason in ("memory", "disk", "damaged")}
        self.recovered = Tally()
        self.disk_bytes = 0
        self.failing = False
        self._spool = spool
        self._worker = Worker(f"spool {spool.directory.name}")
        self._log = log
        self._clock = clock
        self._capacity = capacity
        self._sync_seconds = sync_seconds
        self._hung_seconds = hung_seconds
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._pending: deque[Batch] = deque()
        self._memory = Tally()
        """What is pending."""
        self._writing = 0
        """How many of the oldest pending batches the thread has, which cannot be called back."""
        self._unfit = False
        """Whether the oldest pending batch cannot be written, and the others wait behind it."""
        self._logged = Tally()
        """Batches on disk from `_cursor` on, which are not read yet."""
        self._cursor = Position()
        self._found: deque[Found] = deque()
        """Batches that were read and not taken."""
        self._taken: deque[_Taken] = deque()
        self._settled = Position()
        self._forgotten = Position()
        self._opened = False
        self._unreadable = False
        self._closed = False
        self._ending = False
        self._finished = False
        self._retry_at = clock()
        self._jobs: dict[str, asyncio.Future[None]] = {}
        """Running calls, at most one of a kind."""
        self._flushing: asyncio.TimerHandle | None = None
        self._append()

    @property
    def waiting(self) -> Tally:
        """Batches in the queue now."""
        return self._memory + self._logged + _sum(found.batch for found in self._found)

    @property
    def kept(self) -> Tally:
        """Batches of `waiting` that are on disk."""
        return self._logged + _sum(
            found.batch for found in self._found if found.position >= self._forgotten
        )

    @property
    def bytes(self) -> int:
        """Memory of waiting batches in bytes, by estimate."""
        return self._memory.bytes + sum(found.batch.bytes for found in self._found)

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Yield the size of the files, whether they can be used, and what was found in them."""
        yield "sink_spool", self.disk_bytes
        yield "sink_spool_usable", int(not self.failing)
        yield "sink_recovered_batches", self.recovered.batches
        yield "sink_recovered_samples", self.recovered.samples

    def offer(self, batch: Batch) -> None:
        """Add a batch; never waits."""
        self._pending.append(batch)
        self._memory.add(batch)
        self._make_room()
        self._append()
        self._changed.set()

    async def take(self, samples: int = ALONE, linger: Linger | None = None) -> list[Batch]:
        """Return the oldest batches up to a size, or wait; nothing once closed and empty."""
        idle = linger is not None and not self.waiting.batches
        while True:
            if idle and linger is not None and self.waiting.batches:
                idle = False
                await linger()
            if train := self._next(samples):
                self._taken.extend(train)
                self._read()  # what comes after it, meanwhile
                return [each.batch for each in train]
            if self._closed and not self.waiting.batches and (self._opened or self.failing):
                return []
            self._changed.clear()
            await self._changed.wait()

    async def settle(self, count: int) -> None:
        """Forget so many of the oldest that were taken; wait for the disk to record that."""
        ends = [self._taken.popleft().after for _ in range(count)]
        if known := [end for end in ends if end is not None]:
            self._settle(max(known))
            await self._answer("settle", SETTLE_SECONDS)

    def close(self) -> None:
        """End the stream: nothing is offered after this."""
        self._closed = True
        self._changed.set()

    async def finish(self) -> Lost:
        """Write and sync what is not on disk yet; return what is lost."""
        deadline = self._loop.time() + FINISH_SECONDS
        self._retry_at = self._clock()
        lost = Tally()
        while (left := deadline - self._loop.time()) > 0:
            if self._unfit:
                self._unfit = False
                lost.add(self._from_memory(0))
            self._append(everything=True)
            if "append" not in self._jobs or self._unreadable:
                break
            await self._answer("append", left)
        self._ending = True
        if self._flushing:
            self._flushing.cancel()
        done = self._worker.submit(self._spool.finish)
        self._worker.close()
        await asyncio.wait([done], timeout=max(0.0, deadline - self._loop.time()))
        return self._rest(lost)

    def _rest(self, lost: Tally) -> Lost:
        """Clear the memory; return what of it is not on disk."""
        kept = self.kept
        lost = lost + self.waiting - kept
        taken = [
            each.batch
            for each in self._taken
            if each.after is None or each.after <= self._forgotten
        ]
        for each in (self._pending, self._found, self._taken):
            each.clear()
        self._finished = True
        self._memory, self._logged = Tally(), kept
        return Lost(lost, taken)

    def _next(self, samples: int) -> list[_Taken]:
        """Return the oldest batches that may be taken now."""
        self._read()
        if self._found:
            return self._popped(samples)
        direct = self.failing and (self._unreadable or not self._logged.batches)
        if direct and len(self._pending) > self._writing:
            train = [self._from_memory(self._writing)]
            while (
                len(self._pending) > self._writing
                and (size := self._pending[self._writing].samples) <= samples
            ):
                train.append(self._from_memory(self._writing))
                samples -= size
            return [_Taken(batch, None) for batch in train]
        if self._unfit and not self._logged.batches:
            self._unfit = False
            batch = self._from_memory(0)
            self._append()
            return [_Taken(batch, None)]
        return []

    def _popped(self, samples: int) -> list[_Taken]:
        """Take batches that were read."""
        train: list[_Taken] = []
        while self._found and (not train or self._found[0].batch.samples <= samples):
            found = self._found.popleft()
            samples -= found.batch.samples
            train.append(_Taken(found.batch, found.after))
        return train

    def _from_memory(self, at: int) -> Batch:
        batch = self._pending[at]
        del self._pending[at]
        self._memory.remove(batch)
        return batch

    def _make_room(self) -> None:
        """Drop the oldest from memory until the rest fits; the newest is always kept."""
        while self._memory.bytes > self._capacity and len(self._pending) > self._writing + 1:
            self.dropped["memory"].add(self._from_memory(self._writing))
            self._unfit = self._unfit and self._writing > 0

    @property
    def _end(self) -> Position:
        """The end of what is on disk."""
        return self._cursor.after(self._logged, self._logged.batches)

    def _lose(self, to: Position, reason: str) -> None:
        """Count batches on disk up to a position as dropped."""
        if (lost := min(to, self._end).since(self._cursor)).batches > 0:
            self.dropped[reason] += lost
            self._logged -= lost
            self._cursor = to
            if reason == "damaged":
                self._log.error("spool.damaged", batches=lost.batches, samples=lost.samples)

    def _append(self, *, everything: bool = False) -> None:
        """Start writing what is pending, unless the thread is busy or has just failed."""
        if self._busy("append") or self._unfit:
            return
        if self.failing and self._clock() < self._retry_at:
            return
        job = _Append([], reopen=self.failing or not self._opened)
        size = 0
        for batch in self._pending:
            if size >= APPEND_BYTES and not everything:
                break
            job.batches.append(batch)
            size += batch.bytes
        if job.batches or job.reopen:
            self._writing = len(job.batches)
            self._submit("append", job.run, lambda error: self._appended(job, error))

    def _appended(self, job: _Append, error: BaseException | None) -> None:
        self._writing = 0
        if job.opened:
            self._was_opened(*job.opened)
        for _ in range(job.written):
            self._logged.add(self._from_memory(0))
        if job.refused is not None:
            self._unfit = True
            self._log.error("spool.refused", exc_info=job.refused)
        if error is None:
            self._unreadable = False
            if self.failing:
                self.failing = False
                self._log.info("spool.regained")
        self._make_room()
        self._append()
        if not self._flushing and not self._ending:
            self._flushing = self._loop.call_later(self._sync_seconds, self._flush)

    def _was_opened(self, settled: Position, end: Position) -> None:
        """Count what was found, at the start or beyond what is known to be written."""
        if self._opened:
            between = end.since(self._end)  # reported as failed, but was written
        else:
            self._opened = True
            self._cursor = settled
            between = end.since(settled)
            if between.batches:
                self._log.info("spool.recovered", batches=between.batches, samples=between.samples)
        if between.batches > 0:
            self.recovered += between
            self._logged += between

    def _read(self) -> None:
        """Start reading the oldest that is on disk, unless some was read already."""
        if not self._opened or self._found or not self._logged.batches or self._busy("read"):
            return
        if self._unreadable and self._clock() < self._retry_at:
            return
        found: list[Found | None] = []
        at, limit = self._cursor, self._end

        def read(spool: Spool) -> None:  # on the thread
            samples, position = 0, at
            while samples < READ_SAMPLES and position < limit:
                one = spool.read(position, limit)
                found.append(one)
                if one is None:
                    return
                position = one.after
                samples += one.batch.samples

        self._submit("read", read, lambda error: self._was_read(found, limit, error))

    def _was_read(
        self, found: list[Found | None], limit: Position, error: BaseException | None
    ) -> None:
        self._unreadable = error is not None
        for each in found:
            self._lose(each.position if each else limit, "damaged")
            if each and each.position == self._cursor:  # or it was forgotten meanwhile
                self._cursor = each.after
                self._logged.remove(each.batch)
                self._found.append(each)

    def _settle(self, position: Position) -> None:
        """Start recording on disk that everything before a position is settled."""
        self._settled = max(self._settled, position)
        if not self._busy("settle"):
            settled = self._settled
            self._submit(
                "settle",
                lambda spool: spool.settle(settled),
                lambda _: self._settle(position) if settled < self._settled else None,
            )

    def _flush(self) -> None:
        self._flushing = None
        if not self._busy("flush"):
            self._submit("flush", Spool.flush, lambda _: None)

    def _busy(self, kind: str) -> bool:
        return self._ending or kind in self._jobs

    def _submit(
        self,
        kind: str,
        call: Callable[[Spool], None],
        then: Callable[[BaseException | None], None],
    ) -> None:
        """Run a call on the thread, and `then` on the event loop with its error."""
        after: list[tuple[Position, int]] = []

        def run() -> None:  # on the thread
            try:
                call(self._spool)
            finally:
                after.append((self._spool.forgotten, self._spool.size))

        done = self._jobs[kind] = self._worker.submit(run)
        timer = self._loop.call_later(self._hung_seconds, self._hung)

        def finished(_: asyncio.Future[None]) -> None:
            timer.cancel()
            del self._jobs[kind]
            if self._finished:
                return
            error = done.exception()
            if error is not None:
                self._failed(error)
            then(error)
            forgotten, self.disk_bytes = after[0]
            self._forgotten = max(self._forgotten, forgotten)
            if self._opened:
                self._lose(self._forgotten, "disk")
            self._changed.set()

        done.add_done_callback(finished)

    async def _answer(self, kind: str, seconds: float) -> None:
        """Wait for the running call of a kind, but not for a disk that hangs."""
        if kind in self._jobs and not self._unreadable:
            await asyncio.wait([self._jobs[kind]], timeout=max(0.0, seconds))

    def _hung(self) -> None:
        self._unreadable = True
        self._failed(TimeoutError(f"no answer from the disk within {self._hung_seconds:g} s"))
        self._retry_at = self._clock()  # as soon as it answers
        self._changed.set()

    def _failed(self, error: BaseException) -> None:
        """Stop using the disk for `RETRY_SECONDS`, and log the failure once."""
        self._retry_at = self._clock() + RETRY_SECONDS
        if not self.failing:
            self.failing = True
            known = isinstance(error, OSError)
            self._log.error("spool.failed", reason=str(error), exc_info=None if known else error)


def _sum(batches: Iterable[Batch]) -> Tally:
    tally = Tally()
    for batch in batches:
        tally.add(batch)
    return tally

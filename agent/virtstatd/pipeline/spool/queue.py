"""
A queue in memory and on disk that goes on without the disk.

    offer ──▶ held (in memory) ──▶ take
                │    ▲
                ▼    │ too many are held: the oldest stay on disk alone, and are read again
              spool ─┘

The disk has a thread of its own, and only its answers count: while the disk hangs, fails or is
full, this is a queue in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.reader import Found
from virtstatd.pipeline.spool.segment import Position
from virtstatd.pipeline.spool.writing import Entry, Writing
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


@dataclass(slots=True, eq=False)
class _Job:
    """One call on the spool's thread, and how the spool was after it."""

    call: Callable[[Spool], None]
    forgotten: Position = field(default_factory=Position)
    size: int = 0

    def run(self, spool: Spool) -> None:  # on the thread
        """Make the call."""
        try:
            self.call(spool)
        finally:
            self.forgotten, self.size = spool.forgotten, spool.size


class Spooled:
    """
    Keep batches on disk until they are settled, and the newest `capacity` bytes in memory too.

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
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._closed = False
        self._held: deque[Entry] = deque()
        self._holding = Tally()
        self._unwritten: deque[Entry] = deque()
        self._behind = Tally()
        """Batches that are on disk only, from `_cursor` on."""
        self._cursor = Position()
        self._back: Entry | None = None
        """The oldest of `_behind`, read back."""
        self._taken: Entry | None = None
        self._forgotten = Position()
        self._opened = False
        self._unreadable = False
        self._ending = False
        self._finished = False
        self._retry_at = clock()
        self._hung_seconds = hung_seconds
        self._jobs: dict[str, asyncio.Future[None]] = {}
        """Running calls, at most one of a kind."""
        self._flushing: asyncio.TimerHandle | None = None
        self._settled = Position()
        self._append()

    @property
    def waiting(self) -> Tally:
        """Batches in the queue now."""
        waiting = self._holding + self._behind
        if self._back:
            waiting.add(self._back.batch)
        return waiting

    @property
    def kept(self) -> Tally:
        """Batches of `waiting` that are on disk."""
        kept = self._behind + Tally()
        for entry in (*((self._back,) if self._back else ()), *self._held):
            if self._on_disk(entry):
                kept.add(entry.batch)
        return kept

    @property
    def bytes(self) -> int:
        """Memory of waiting batches in bytes, by estimate."""
        return self._holding.bytes + (self._back.batch.bytes if self._back else 0)

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Yield the size of the files, whether they can be used, and what was found in them."""
        yield "sink_spool", self.disk_bytes
        yield "sink_spool_usable", int(not self.failing)
        yield "sink_recovered_batches", self.recovered.batches
        yield "sink_recovered_samples", self.recovered.samples

    def offer(self, batch: Batch) -> None:
        """Add a batch; never waits."""
        entry = Entry(batch)
        self._held.append(entry)
        self._holding.add(batch)
        self._unwritten.append(entry)
        self._make_room()
        self._append()
        self._changed.set()

    async def take(self) -> Batch | None:
        """Return the oldest waiting batch, or wait for one; None once closed and empty."""
        while (entry := self._next()) is None:
            if self._closed and not self.waiting.batches and (self._opened or self.failing):
                return None
            self._changed.clear()
            await self._changed.wait()
        self._taken = entry
        self._read()  # the one after it, meanwhile
        return entry.batch

    async def settle(self, batch: Batch) -> None:
        """Forget the batch taken last, delivered or lost; wait for the disk to record that."""
        entry, self._taken = self._taken, None
        if entry is None:
            return
        entry.unwanted = True
        if entry.underway:
            await self._answer("append", SETTLE_SECONDS)
        if entry.position is not None:
            self._settle(entry.position.after(batch))
            await self._answer("settle", SETTLE_SECONDS)

    def close(self) -> None:
        """End the stream: nothing is offered after this."""
        self._closed = True
        self._changed.set()

    async def finish(self) -> Tally:
        """Write and sync what is not on disk yet; return what is lost."""
        deadline = self._loop.time() + FINISH_SECONDS
        self._retry_at = self._clock()
        while (left := deadline - self._loop.time()) > 0:
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
        return self._rest()

    def _rest(self) -> Tally:
        """Clear the memory; return what of it is not on disk."""
        kept, lost = self.kept, Tally()
        for entry in (self._taken, self._back, *self._held):
            if entry and not self._on_disk(entry):
                lost.add(entry.batch)
        self._held.clear()
        self._unwritten.clear()
        self._taken = self._back = None
        self._finished = True
        self._holding, self._behind = Tally(), kept
        return lost

    def _next(self) -> Entry | None:
        """Return the oldest entry that may be taken now, None for none."""
        if self._back:
            entry, self._back = self._back, None
            return entry
        if not self._opened:
            return self._overtaking() if self.failing else None
        if self._behind.batches:
            self._read()
            return self._overtaking() if self._unreadable else None
        if not self._held:
            return None
        entry = self._held.popleft()
        self._holding.remove(entry.batch)
        return entry

    def _overtaking(self) -> Entry | None:
        """Return the oldest batch that is not on disk, while those on disk cannot be read."""
        for entry in self._held:
            if entry.position is None and not entry.underway:
                self._held.remove(entry)
                self._holding.remove(entry.batch)
                entry.unwanted = True  # behind it on disk would be what came before it
                return entry
        return None

    def _make_room(self) -> None:
        """Drop the oldest from memory until the rest fits; the newest is always kept."""
        at = 0
        while self._holding.bytes > self._capacity and at < len(self._held) - 1:
            entry = self._held[at]
            if entry.underway:
                at += 1
                continue
            del self._held[at]
            self._holding.remove(entry.batch)
            if entry.position is not None and self._on_disk(entry):
                self._leave(entry, entry.position)
            else:
                entry.unwanted = True
                self.dropped["memory"].add(entry.batch)

    def _leave(self, entry: Entry, position: Position) -> None:
        """Move a held batch to disk-only."""
        if not self._behind.batches:
            self._cursor = position
        elif (
            between := position.since(self._limit)
        ).batches:  # reported as failed, but was written
            self.recovered += between
            self._behind += between
        self._behind.add(entry.batch)

    @property
    def _limit(self) -> Position:
        """The end of what is on disk only."""
        return self._cursor.after(self._behind, self._behind.batches)

    def _lose(self, to: Position, reason: str) -> None:
        """Count batches on disk only, up to a position, as dropped."""
        if (lost := min(to, self._limit).since(self._cursor)).batches > 0:
            self.dropped[reason] += lost
            self._behind -= lost
            self._cursor = to
            if reason == "damaged":
                self._log.error("spool.damaged", batches=lost.batches, samples=lost.samples)

    def _on_disk(self, entry: Entry) -> bool:
        return entry.position is not None and entry.position >= self._forgotten

    def _append(self, *, everything: bool = False) -> None:
        """Start writing what is not on disk yet, unless the thread is busy or has just failed."""
        if self._busy("append") or (self.failing and self._clock() < self._retry_at):
            return
        size = 0
        writing = Writing([], reopen=self.failing or not self._opened)
        while self._unwritten and (everything or size < APPEND_BYTES):
            entry = self._unwritten.popleft()
            if not entry.unwanted:
                entry.underway = True
                writing.entries.append(entry)
                size += entry.batch.bytes
        if writing.entries or writing.reopen:
            self._submit("append", writing.run, lambda error: self._appended(writing, error))

    def _appended(self, writing: Writing, error: BaseException | None) -> None:
        if writing.opened and not self._opened:
            settled, end = writing.opened
            self._opened = True
            self._cursor = settled
            self._behind = end.since(settled)
            self.recovered += self._behind
            if self._behind.batches:
                self._log.info(
                    "spool.recovered", batches=self._behind.batches, samples=self._behind.samples
                )
        for number, entry in reversed(list(enumerate(writing.entries))):
            entry.underway = False
            entry.position = writing.positions.get(number)
            if number in writing.refused:
                entry.unwanted = True
                self._log.error("spool.refused", exc_info=writing.refused[number])
            elif entry.position is None and not entry.unwanted:
                self._unwritten.appendleft(entry)
            elif entry.position is not None and entry.unwanted:  # settled meanwhile
                self._settle(entry.position.after(entry.batch))
        if error is None:
            self._unreadable = False
            if self.failing:
                self.failing = False
                self._log.info("spool.regained")
        self._make_room()
        self._append()
        if not self._flushing and not self._ending:
            self._flushing = self._loop.call_later(self._sync_seconds, self._flush)

    def _read(self) -> None:
        """Start reading the oldest batch that is on disk only, unless one was read already."""
        if not self._opened or self._back or not self._behind.batches or self._busy("read"):
            return
        if self._unreadable and self._clock() < self._retry_at:
            return
        found: list[Found | None] = []
        at, limit = self._cursor, self._limit
        self._submit(
            "read",
            lambda spool: found.append(spool.read(at, limit)),
            lambda error: self._was_read(found[0] if found else None, limit, error),
        )

    def _was_read(self, found: Found | None, limit: Position, error: BaseException | None) -> None:
        if error is not None:
            self._unreadable = True
            return
        self._unreadable = False
        self._lose(found.position if found else limit, "damaged")
        if found and found.position == self._cursor:  # or it was forgotten meanwhile
            self._cursor = found.after
            self._behind.remove(found.batch)
            self._back = Entry(found.batch, found.position)

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
        job = _Job(call)
        done = self._jobs[kind] = self._worker.submit(lambda: job.run(self._spool))
        timer = self._loop.call_later(self._hung_seconds, self._hung)

        def finished(_: asyncio.Future[None]) -> None:
            timer.cancel()
            del self._jobs[kind]
            if self._finished:
                return
            self.disk_bytes = job.size
            if job.forgotten > self._forgotten:
                self._forgotten = job.forgotten
                if self._behind.batches:
                    self._lose(job.forgotten, "disk")
            error = done.exception()
            if error is not None:
                self._failed(error)
            then(error)
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

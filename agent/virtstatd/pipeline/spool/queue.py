"""
A queue whose batches are on disk as well as in memory, and that goes on without the disk.

    offer ──▶ held (in memory) ──▶ take
                │    ▲
                ▼    │ too many are held: the oldest stay on disk alone, and are read again
              spool ─┘

The disk has a thread of its own. Only what the thread has answered is believed here: while it
hangs, fails or is full, this is a queue in memory.
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
"""How long a disk that failed is left alone."""

HUNG_SECONDS = 5.0
"""How long one call to the disk may take before it counts as failed."""

SETTLE_SECONDS = 1.0
"""How long the next batch waits for the disk to know that the one before it arrived."""

FINISH_SECONDS = 1.5
"""How long the end waits for what can be written."""

APPEND_BYTES = 1 << 20
"""How much goes to the thread at once, by the estimate of `Batch.bytes`."""


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
        """What is on disk alone, from `_cursor` on."""
        self._cursor = Position()
        self._back: Entry | None = None
        """The oldest of it, read again."""
        self._taken: Entry | None = None
        self._forgotten = Position()
        self._opened = False
        self._unreadable = False
        self._ending = False
        self._finished = False
        self._retry_at = clock()
        self._hung_seconds = hung_seconds
        self._jobs: dict[str, asyncio.Future[None]] = {}
        """At most one of a kind, whatever the disk does."""
        self._flushing: asyncio.TimerHandle | None = None
        self._settled = Position()
        self._append()

    @property
    def waiting(self) -> Tally:
        """What is in the queue now."""
        waiting = self._holding + self._behind
        if self._back:
            waiting.add(self._back.batch)
        return waiting

    @property
    def kept(self) -> Tally:
        """What of it is on disk."""
        kept = self._behind + Tally()
        for entry in (*((self._back,) if self._back else ()), *self._held):
            if self._on_disk(entry):
                kept.add(entry.batch)
        return kept

    @property
    def bytes(self) -> int:
        """Memory of what waits, by estimate."""
        return self._holding.bytes + (self._back.batch.bytes if self._back else 0)

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Yield the size of the files, whether they can be used, and what was found in them."""
        yield "sink_spool", self.disk_bytes
        yield "sink_spool_usable", int(not self.failing)
        yield "sink_recovered_batches", self.recovered.batches
        yield "sink_recovered_samples", self.recovered.samples

    def offer(self, batch: Batch) -> None:
        """Take a batch in; never wait."""
        entry = Entry(batch)
        self._held.append(entry)
        self._holding.add(batch)
        self._unwritten.append(entry)
        self._make_room()
        self._append()
        self._changed.set()

    async def take(self) -> Batch | None:
        """Return the oldest, wait for one; None once closed and empty."""
        while (entry := self._next()) is None:
            if self._closed and not self.waiting.batches and (self._opened or self.failing):
                return None
            self._changed.clear()
            await self._changed.wait()
        self._taken = entry
        self._read()  # the one after it, meanwhile
        return entry.batch

    async def settle(self, batch: Batch) -> None:
        """Learn that the batch taken last is delivered or lost; return when the disk knows it."""
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
        """Say that nothing more will be offered."""
        self._closed = True
        self._changed.set()

    async def finish(self) -> Tally:
        """Write what is not on disk yet, make all of it durable, and return what is lost."""
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
        """Forget what is in memory; return what of it is nowhere else."""
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
        """Return what may be taken now, oldest first."""
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
        """Return what came after the disk ceased to answer: what came before cannot be had."""
        for entry in self._held:
            if entry.position is None and not entry.underway:
                self._held.remove(entry)
                self._holding.remove(entry.batch)
                entry.unwanted = True  # behind it on disk would be what came before it
                return entry
        return None

    def _make_room(self) -> None:
        """Let the oldest go from memory until the rest fits; the newest is always kept."""
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
        """Have a batch on disk alone from now on."""
        if not self._behind.batches:
            self._cursor = position
        elif (
            between := position.since(self._limit)
        ).batches:  # said to have failed, but was written
            self.recovered += between
            self._behind += between
        self._behind.add(entry.batch)

    @property
    def _limit(self) -> Position:
        """Where what is on disk alone ends."""
        return self._cursor.after(self._behind, self._behind.batches)

    def _lose(self, to: Position, reason: str) -> None:
        """Count what is on disk alone up to a position as dropped."""
        if (lost := min(to, self._limit).since(self._cursor)).batches > 0:
            self.dropped[reason] += lost
            self._behind -= lost
            self._cursor = to
            if reason == "damaged":
                self._log.error("spool.damaged", batches=lost.batches, samples=lost.samples)

    def _on_disk(self, entry: Entry) -> bool:
        return entry.position is not None and entry.position >= self._forgotten

    def _append(self, *, everything: bool = False) -> None:
        """Send to the thread what is not written yet, unless it is busy or has failed just now."""
        if self._busy("append") or (self.failing and self._clock() < self._retry_at):
            return
        size = 0
        writing = Writing([], anew=self.failing or not self._opened)
        while self._unwritten and (everything or size < APPEND_BYTES):
            entry = self._unwritten.popleft()
            if not entry.unwanted:
                entry.underway = True
                writing.entries.append(entry)
                size += entry.batch.bytes
        if writing.entries or writing.anew:
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
        """Have the oldest of what is on disk alone read, unless something was."""
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
        """Have the disk know that everything before a position is settled."""
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
        """Make a call on the thread, and what follows from it here."""
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
        """Wait for the call of a kind that is underway, but not for a disk that has hung."""
        if kind in self._jobs and not self._unreadable:
            await asyncio.wait([self._jobs[kind]], timeout=max(0.0, seconds))

    def _hung(self) -> None:
        self._unreadable = True
        self._failed(TimeoutError(f"no answer from the disk within {self._hung_seconds:g} s"))
        self._retry_at = self._clock()  # as soon as it answers
        self._changed.set()

    def _failed(self, error: BaseException) -> None:
        """Be a queue in memory for a while."""
        self._retry_at = self._clock() + RETRY_SECONDS
        if not self.failing:
            self.failing = True
            known = isinstance(error, OSError)
            self._log.error("spool.failed", reason=str(error), exc_info=None if known else error)

"""
A queue on disk that goes on without the disk.

    offer ──▶ pending (memory) ──▶ logged (disk) ──▶ taken
                  └──── while the disk fails or hangs ──▶

The disk has a thread of its own, which makes one turn at a time, and only its answers count: while
the disk hangs, fails or is full, this is a queue in memory, and what is on disk waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import plain_reason
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import ALONE, BatchRow, Linger, Lost, Tally, train_length
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.reader import Found
from virtstatd.pipeline.spool.segment import Position
from virtstatd.pipeline.spool.turn import Turn, TurnThread


RETRY_SECONDS = 30.0
"""Pause before a failed disk is tried again."""

HUNG_SECONDS = 5.0
"""Time of one turn of the disk after which it counts as failed."""

SETTLE_SECONDS = 1.0
"""Longest wait of the next batch for the disk to record the one before it."""

FINISH_SECONDS = 1.5
"""Time at the end to write what is not on disk yet."""

APPEND_BYTES = 1 << 20
"""Most bytes to write in one turn, by the estimate of `Batch.bytes`."""


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
        self._log = log
        self._clock = clock
        self._capacity = capacity
        self._sync_seconds = sync_seconds
        self._hung_seconds = hung_seconds
        self._loop = asyncio.get_running_loop()
        self._thread = TurnThread(spool, self._ended, hung_seconds, self._hung)
        self._changed = asyncio.Event()
        self._pending = BatchRow()
        self._refused: Batch | None = None
        """A pending batch that cannot be written; the others wait behind it."""
        self._cursor = self._end = Position()
        """What is on disk and was not taken is between these two."""
        self._found: deque[Found] = deque()
        """What was read of it ahead."""
        self._taken: deque[tuple[Batch, Position | None]] = deque()
        """Each with the position behind it, None where it is not on disk."""
        self._settled = self._recorded = Position()
        self._opened = self._unreadable = self._wanted = self._flush_due = False
        self._closed = self._ending = False
        self._retry_at = clock()
        self._flushing: asyncio.TimerHandle | None = None
        self._go_on()

    @property
    def waiting(self) -> Tally:
        """Batches in the queue now."""
        return self._memory + self.kept

    @property
    def kept(self) -> Tally:
        """Batches of `waiting` that are on disk."""
        return self._end.since(self._cursor)

    @property
    def bytes(self) -> int:
        """Memory of waiting batches in bytes, by estimate."""
        return self._memory.bytes + sum(each.batch.bytes for each in self._found)

    @property
    def _memory(self) -> Tally:
        return self._pending.tally + self._thread.turn.batches.tally

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Yield the size of the files, whether they can be used, and what was found in them."""
        yield "sink_spool", self.disk_bytes
        yield "sink_spool_usable", int(not self.failing)
        yield "sink_recovered_batches", self.recovered.batches
        yield "sink_recovered_samples", self.recovered.samples

    def offer(self, batch: Batch) -> None:
        """Add a batch; never waits."""
        self._pending.append(batch)
        self._make_room()
        self._go_on()
        self._changed.set()

    async def take(self, samples: int = ALONE, linger: Linger | None = None) -> list[Batch]:
        """Return the oldest batches up to a size, or wait; nothing once closed and empty."""
        idle = linger is not None and not self.waiting.batches
        while True:
            if idle and linger is not None and self.waiting.batches:
                idle = False
                await linger()
            self._wanted = True
            self._go_on()
            if train := self._next(samples):
                self._taken.extend(train)
                self._wanted = bool(self.kept.batches)
                self._go_on()  # what comes next is read meanwhile
                return [batch for batch, _ in train]
            if self._closed and not self.waiting.batches and (self._opened or self.failing):
                return []
            self._changed.clear()
            await self._changed.wait()

    async def settle(self, count: int) -> None:
        """Forget so many of the oldest that were taken; wait for the disk to record that."""
        ends = [self._taken.popleft()[1] for _ in range(count)]
        position = max((each for each in ends if each), default=Position())
        self._settled = max(self._settled, position)
        self._go_on()
        until = self._loop.time() + SETTLE_SECONDS
        while self._recorded < position and not self._unreadable:
            if not await self._thread.turned(until):
                break

    def close(self) -> None:
        """End the stream: nothing is offered after this."""
        self._closed = True
        self._changed.set()

    async def finish(self) -> Lost:
        """Write and sync what is not on disk yet; return what is lost."""
        until = self._loop.time() + FINISH_SECONDS
        self._retry_at = self._clock()
        lost = Tally()
        while self._memory.batches:
            if self._stuck:
                lost.add(self._pending.pop())
            self._go_on(everything=True)
            if self._unreadable or not await self._thread.turned(until):
                break
        self._ending = True
        if self._flushing:
            self._flushing.cancel()
        unfinished = await self._thread.finish(until)
        lost += self._pending.tally + unfinished.batches.tally
        self._pending = BatchRow()
        self._found.clear()
        gone = self._spool.forgotten
        return Lost(lost, [batch for batch, end in self._taken if end is None or end <= gone])

    def _next(self, samples: int) -> list[tuple[Batch, Position | None]]:
        """Remove the oldest batches that may be taken now."""
        if self._found:
            count = train_length((each.batch for each in self._found), samples)
            return [self._passed(self._found.popleft()) for _ in range(count)]
        if self.kept.batches and not (self.failing and self._unreadable):
            return []
        if self.failing:
            return [(batch, None) for batch in self._pending.train(samples)]
        return [(self._pending.pop(), None)] if self._stuck else []

    def _passed(self, found: Found) -> tuple[Batch, Position]:
        self._lose(found.position, "damaged")
        self._cursor = found.after
        return found.batch, found.after

    def _lose(self, to: Position, reason: str) -> None:
        """Count batches on disk up to a position as dropped."""
        if to > self._cursor:
            lost = to.since(self._cursor)
            self.dropped[reason] += lost
            self._cursor = to
            if reason == "damaged":
                self._log.error("spool.damaged", batches=lost.batches, samples=lost.samples)

    def _make_room(self) -> None:
        """Drop the oldest from memory until the rest fits; the newest is always kept."""
        room = self._capacity - self._thread.turn.batches.tally.bytes
        self._pending.drop(room, self.dropped["memory"])

    @property
    def _stuck(self) -> bool:
        """Whether the oldest pending batch cannot be written."""
        return bool(self._pending.batches) and self._pending.batches[0] is self._refused

    def _go_on(self, *, everything: bool = False) -> None:
        """Start a turn with what is due, unless one runs."""
        if self._thread.busy or self._ending:
            return
        turn = Turn(flush=self._flush_due)
        self._flush_due = False
        trying = self._clock() >= self._retry_at
        if self._settled > self._recorded:
            turn.settled = self._settled
        if trying or not self.failing:
            turn.reopen = self.failing or not self._opened
            while self._pending.batches and not self._stuck:
                if turn.batches.tally.bytes >= APPEND_BYTES and not everything:
                    break
                turn.batches.append(self._pending.pop())
        readable = self._opened and (trying or not self._unreadable)
        there = turn.batches.batches or self.kept.batches
        if self._wanted and readable and there and not self._found:
            turn.at = self._cursor
        if turn.due:
            self._thread.start(turn)

    def _ended(self, turn: Turn, error: BaseException | None) -> None:
        """Count what came of a turn, and go on."""
        if error is not None:
            self._unreadable |= turn.reading
            if turn.reopen or not self.failing:  # what else fails meanwhile postpones no retry
                self._retry_at = self._clock() + RETRY_SECONDS
            self._failed(error)
        elif turn.writing or turn.reading:
            self._unreadable = False
            if turn.writing and self.failing:
                self.failing = False
                self._log.info("spool.regained")
        self._was_written(turn)
        self.disk_bytes = self._spool.size
        if self._opened:
            self._lose(self._spool.forgotten, "disk")
        self._found.extend(turn.found)
        while self._found and self._found[0].position < self._cursor:
            self._found.popleft()
        if turn.reading and error is None and not self._found:  # nothing that can be read is left
            self._lose(self._end, "damaged")
        self._make_room()
        self._go_on()
        self._changed.set()

    def _was_written(self, turn: Turn) -> None:
        """Count what is on disk now, and what was there at the start or beyond what is known."""
        written = BatchRow(turn.batches.pop() for _ in range(turn.written)).tally
        for batch in reversed(turn.batches.batches):
            self._pending.prepend(batch)
        if turn.refused is not None:
            self._refused = self._pending.batches[0]
            self._log.error("spool.refused", exc_info=turn.refused)
        first = turn.opened is not None and not self._opened
        if turn.opened is not None and first:
            self._opened = True
            self._cursor = self._end = turn.opened
        if turn.end is not None:
            self._recorded = turn.settled or self._recorded
            more = turn.end.since(self._end) - written  # reported as failed, but was written
            self._end = turn.end
            self.recovered += more
            if first and more.batches:
                self._log.info("spool.recovered", batches=more.batches, samples=more.samples)
        if written.batches and not (self._flushing or self._ending):
            self._flushing = self._loop.call_later(self._sync_seconds, self._flush)

    def _flush(self) -> None:
        self._flushing, self._flush_due = None, True
        self._go_on()

    def _hung(self) -> None:
        self._unreadable = True
        self._failed(TimeoutError(f"no answer from the disk within {self._hung_seconds:g} s"))
        self._retry_at = self._clock()  # as soon as it answers
        self._changed.set()

    def _failed(self, error: BaseException) -> None:
        """Stop using the disk until the retry, and log the failure once."""
        if not self.failing:
            self.failing = True
            known = isinstance(error, OSError)
            self._log.error(
                "spool.failed", reason=plain_reason(error), exc_info=None if known else error
            )

"""The thread of a spool, and its turns: what one is to do, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from virtstatd.pipeline.buffer import BatchRow
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.reader import Found
from virtstatd.pipeline.spool.segment import Position
from virtstatd.runtime.worker import Worker


READ_SAMPLES = 8192
"""Most samples to read in one turn, but one batch at least."""


@dataclass(slots=True, eq=False)
class Turn:
    """
    What is due, in the order of the fields; the disk's first failure ends it.

    `settled` is up to where nothing need be kept, and `at` where to read.
    """

    reopen: bool = False
    settled: Position | None = None
    flush: bool = False
    batches: BatchRow = field(default_factory=BatchRow)
    at: Position | None = None

    opened: Position | None = None
    """What was settled in the spool as it was opened."""
    end: Position | None = None
    """The end of the spool, None where it could not be opened."""
    written: int = 0
    refused: Exception | None = None
    """Why the batch after those written cannot be, which is not the disk's fault."""
    reading: bool = False
    """Whether it came so far."""
    found: list[Found] = field(default_factory=list)

    @property
    def writing(self) -> bool:
        """Whether success means that the disk takes batches."""
        return self.reopen or bool(self.batches.batches)

    @property
    def due(self) -> bool:
        """Whether there is anything to do."""
        return self.writing or self.flush or self.settled is not None or self.at is not None

    def run(self, spool: Spool) -> None:
        """Do it, on the thread."""
        if self.reopen:
            spool.open()
            self.opened = spool.settled
        try:
            if self.settled is not None:
                spool.settle(self.settled)
            if self.flush:
                spool.flush()
            self._append(spool)
        finally:
            self.end = spool.end
        if self.at is not None:
            self.reading = True
            self._read(spool, self.at)

    def _append(self, spool: Spool) -> None:
        for batch in self.batches.batches:
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

    def _read(self, spool: Spool, position: Position) -> None:
        samples = 0
        while samples < READ_SAMPLES and (found := spool.read(position, spool.end)):
            self.found.append(found)
            position = found.after
            samples += found.batch.samples


class TurnThread:
    """
    A thread that makes one turn at a time.

    On the event loop `ended` is called after each turn, and `hung` when one has not ended in time.
    """

    def __init__(
        self,
        spool: Spool,
        ended: Callable[[Turn, BaseException | None], None],
        hung_seconds: float,
        hung: Callable[[], None],
    ) -> None:
        self.turn = Turn()
        """The turn that is made, an empty one while there is none."""
        self._spool = spool
        self._ended = ended
        self._hung_seconds = hung_seconds
        self._hung = hung
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(f"spool {spool.directory.name}")
        self._done: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a turn that has not ended."""
        return self._done is not None

    def start(self, turn: Turn) -> None:
        """Start a turn, while there is none."""
        self.turn = turn
        self._done = done = self._worker.submit(lambda: turn.run(self._spool))
        timer = self._loop.call_later(self._hung_seconds, self._hung)

        def finished(_: asyncio.Future[None]) -> None:
            timer.cancel()
            if self._done is done:  # or nobody waits any more
                self._done, self.turn = None, Turn()
                self._ended(turn, done.exception())

        done.add_done_callback(finished)

    async def turned(self, until: float) -> bool:
        """Wait for the end of the turn; False where there is none, or not until that time."""
        if self._done is None:
            return False
        left = max(0.0, until - self._loop.time())
        return bool((await asyncio.wait([self._done], timeout=left))[0])

    async def finish(self, until: float) -> Turn:
        """Close the spool and end; return the turn that did not end until that time."""
        closed = self._worker.submit(self._spool.finish)
        self._worker.close()
        await asyncio.wait([closed], timeout=max(0.0, until - self._loop.time()))
        unfinished, self._done, self.turn = self.turn, None, Turn()
        return unfinished

"""
The runner in front of a sink: queue, deadline, retries, counters, isolation.

    offer ──▶ queue ──▶ attempt ──▶ delivered
                │          │ TryLater, too slow: again, later
                ▼          ▼
             dropped      lost (rejected, denied, poison, too old, broken, shutdown)

    accepted = delivered + dropped + lost + waiting, at every moment, in batches, samples and bytes.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Histogram, Row
from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Queue, Tally
from virtstatd.pipeline.delivery import Attempts, Piece, Underway, outcome_of
from virtstatd.pipeline.pieces import Splitter, key_of, keys_of
from virtstatd.pipeline.retry import (
    ALONE_FAILURES,
    DENIED_SECONDS,
    Ages,
    Backoff,
    Guard,
    Poison,
)
from virtstatd.sink import Delivery, Send


LOSSES = ("rejected", "denied", "poison", "expired", "error", "shutdown")
LAG_BUCKETS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 3600.0, 86400.0)

FINISH_SECONDS = 3.0
"""What the queue gets to write at the end what it can keep."""


class Outlet:
    """
    Deliver batches to one sink, one at a time and in order, whatever the sink does.

    Nothing that a sink raises, and no time that it takes, is felt by anybody else.
    """

    def __init__(
        self,
        name: str,
        send: Send,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        queue: Queue,
        *,
        attempt_seconds: float,
        max_age_seconds: float,
        delivery: Delivery = "memory",
        wall: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], Coroutine[None, None, None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.delivery = delivery
        self.queue = queue
        self.delivered = Tally()
        self.lost = {reason: Tally() for reason in LOSSES}
        self.lags = [0] * (len(LAG_BUCKETS) + 1)
        self.lag_seconds = 0.0
        self._attempts = Attempts(name, send, attempt_seconds)
        self._log = log
        self._clock = clock
        self._sleep = sleep
        self._max_age = max_age_seconds
        self._ages = Ages(clock, wall)
        self._splitter = Splitter()
        self._poison = Poison(clock)
        self._offered = Tally()
        self._underway: Underway | None = None
        self._denied_until = 0.0
        self._closing = asyncio.Event()
        self._state = ""  # or what the last attempt came to, until one succeeds

    @property
    def accepted(self) -> Tally:
        """What was offered, or found on disk at the start."""
        return self._offered + self.queue.recovered

    @property
    def dropped(self) -> Mapping[str, Tally]:
        """What was forgotten before the sink was asked, by reason."""
        return self.queue.dropped

    @property
    def waiting(self) -> Tally:
        """What is in the queue or on its way to the sink."""
        waiting = self.queue.waiting
        return waiting + self._underway.left if self._underway else waiting

    @property
    def buffer_bytes(self) -> int:
        """The memory of what waits, by estimate."""
        return self.queue.bytes

    @property
    def attempts(self) -> Mapping[str, int]:
        """How often the sink was asked, by outcome."""
        return self._attempts.counts

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return bool(self._state)

    @property
    def circuit_open(self) -> bool:
        """Whether nothing is sent for a while because the sink was denied."""
        return self._clock() < self._denied_until

    def numbers(self) -> Iterator[Row]:
        """Yield what became of the batches, and what waits."""
        labels = {"sink": self.name}
        tallies = [
            ("accepted", labels, self.accepted),
            ("delivered", labels, self.delivered),
            ("waiting", labels, self.waiting),
            *(("dropped", {**labels, "reason": reason}, of) for reason, of in self.dropped.items()),
            *(("lost", {**labels, "reason": reason}, of) for reason, of in self.lost.items()),
        ]
        for what, of, tally in tallies:
            yield f"sink_{what}_batches", of, tally.batches
            yield f"sink_{what}_samples", of, tally.samples
            yield f"sink_{what}_bytes", of, tally.bytes
        for outcome, count in self.attempts.items():
            yield "sink_attempts", {**labels, "outcome": outcome}, count
        yield "sink_buffer", labels, self.buffer_bytes
        yield "sink_circuit_open", labels, int(self.circuit_open)
        for key, number in self.queue.numbers():
            yield key, labels, number
        lags = Histogram(LAG_BUCKETS, self.lags, self.lag_seconds)
        yield "sink_delivery_lag", labels, lags

    def offer(self, batch: Batch) -> None:
        """Accept a batch, never wait."""
        self._ages.look()
        self._offered.add(batch)
        self.queue.offer(batch)

    def close(self) -> None:
        """Say that nothing more will be offered: `run` ends once the queue is empty."""
        self._closing.set()
        self.queue.close()

    async def run(self) -> None:
        """Deliver until `close` and the end of the queue; what is left then is kept or lost."""
        try:
            while await self._circuit() and (batch := await self.queue.take()) is not None:
                self._underway = Underway(batch, self._splitter, self.delivered, self.lost)
                if not await self._deliver(self._underway):
                    break
                self._underway = None
                await self.queue.settle(batch)
        finally:
            await self._finish()

    async def _circuit(self) -> bool:
        """Wait while it is open; False when that is to the end."""
        while (seconds := self._denied_until - self._clock()) > 0:
            await self._pause(seconds)
            if self._closing.is_set():
                return False
        return True

    async def _deliver(self, it: Underway) -> bool:
        """Try until all of it is delivered or lost; False when it is left for the queue to keep."""
        known = self._poison.keys
        it.part(known)
        guard = Guard(self._clock, armed=bool(known))
        backoff = Backoff()
        wait = 0.0
        while it.pieces:
            if self._ages.seconds(it.batch.taken_at) + wait > self._max_age:
                it.lose_rest("expired")
                break
            if wait:
                await self._pause(wait)
            piece = it.pieces.popleft()
            error = await self._attempts.send(piece.batch, patient=not self._closing.is_set())
            # an empty batch that is accepted proves nothing: not every sink sends one
            told = error or piece.batch.readings
            if told and not (guard.suspicious or piece.known or isinstance(error, TooLarge)):
                self._turn(error)
            wait = 0.0
            if error is None:
                it.got(piece)
                guard.passed(piece.batch.samples)
                backoff.reset()
                self._poison.forget(keys_of(piece.batch) if piece.known else ())
            elif not isinstance(error, TryLater):
                self._failed(error, piece, it)
            elif not self._closing.is_set():
                wait = backoff.seconds(error.after_seconds)
                if self._put_back(piece, it, guard, error):
                    wait = 0.0
            elif self.delivery == "spool":  # while draining nothing is tried twice
                return False
            else:
                it.lose_rest("shutdown", piece)
        self._settle(it, guard)
        return True

    def _failed(self, error: Exception, piece: Piece, it: Underway) -> None:
        """Do with a piece what its failure asks for, where that is not to wait."""
        match error:
            case TooLarge(samples=None) if halves := it.halves(piece):
                it.pieces.extendleft(reversed(halves))
            case Denied():
                self._denied_until = self._clock() + DENIED_SECONDS
                it.lose_rest("denied", piece)
            case Rejected(samples=int(refused)):
                it.got(piece, refused)
            case Rejected():
                self._turn(error)
                it.lose("rejected", piece)
            case _:
                it.lose("error", piece)

    def _put_back(self, piece: Piece, it: Underway, guard: Guard, error: TryLater) -> bool:
        """Put a piece back, or its halves, or nothing of it; return whether to go on at once."""
        if not error.answered:
            it.pieces.appendleft(piece)
            return False
        piece.failures += 1
        moved = guard.failed()
        if piece.known:
            it.lose("poison", piece)
        elif not guard.suspicious:
            it.pieces.appendleft(piece)
        elif halves := it.halves(piece):
            it.pieces.extend(halves)
        elif guard.proven and piece.failures >= ALONE_FAILURES and (key := key_of(piece.batch)):
            it.lose("poison", piece)
            self._poison.add(key)
            guard.found.append(key)
        else:
            it.pieces.append(piece)
        return moved and error.after_seconds is None

    def _settle(self, it: Underway, guard: Guard) -> None:
        it.settle()
        if it.delivered:
            seconds = self._ages.seconds(it.batch.taken_at)
            self.lags[bisect_left(LAG_BUCKETS, seconds)] += 1
            self.lag_seconds += seconds
            if guard.suspicious:
                self._turn(None)
        if guard.found:
            (_, series), *others = guard.found
            self._log.error(
                "sink.poisoned",
                series=series.field.family,
                labels=dict(series.labels),
                others=len(others),
            )

    def _turn(self, error: Exception | None) -> None:
        """Log when the sink begins to fail, when it needs a person, and when it is well again."""
        if error is None:
            if self._state:
                self._log.info("sink.recovered")
            self._state = ""
            return
        outcome = outcome_of(error)
        reason = str(error) or type(error).__name__
        if outcome == "denied" and self._state != "denied":
            self._log.error("sink.denied", reason=reason, pause_seconds=DENIED_SECONDS)
            self._state = outcome
        elif not self._state:
            trace = error if outcome == "error" else None
            self._log.warning("sink.failing", outcome=outcome, reason=reason, exc_info=trace)
            self._state = outcome

    async def _pause(self, seconds: float) -> None:
        """Wait, but not once nothing more comes."""
        waits = [
            asyncio.ensure_future(each) for each in (self._sleep(seconds), self._closing.wait())
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _finish(self) -> None:
        """Let the queue keep what it can, and count the rest as lost."""
        before = self._inside
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                lost = await self.queue.finish()
        except TimeoutError:
            self._log.error("sink.unfinished", batches=self.waiting.batches)
            return
        if (it := self._underway) is not None and lost.batches + self._inside > before:
            # the queue lost all of the batch, it knows nothing of pieces that were delivered
            lost = lost - Tally(1, it.batch.samples, it.batch.bytes) + it.left
            self._underway = None
        self.lost["shutdown"] += lost
        if lost.batches:
            self._log.error("sink.abandoned", batches=lost.batches)
        if self.waiting.batches:
            self._log.info("sink.kept", batches=self.waiting.batches)

    @property
    def _inside(self) -> int:
        """How many of the offered batches the queue has or has forgotten, but the one taken."""
        forgotten = sum(each.batches for each in self.queue.dropped.values())
        return self.queue.waiting.batches + forgotten - self.queue.recovered.batches

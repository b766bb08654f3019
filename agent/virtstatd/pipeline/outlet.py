"""
The runner in front of a sink: queue, deadline, retries, counters, isolation.

    offer ──▶ queue ──▶ train ──▶ requests ──▶ delivered
                │                  │ TryLater, Denied, too slow: again, later
                ▼                  ▼
             dropped             lost (rejected, poison, too old, broken, shutdown)

    accepted = delivered + dropped + lost + waiting, at every moment, in batches, samples and bytes.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Histogram, Row
from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import ALONE, Queue, Tally
from virtstatd.pipeline.delivery import OUTCOMES, Attempts, Piece, SendTrain, Underway, outcome_of
from virtstatd.pipeline.pace import Ages, Lag, RequestSize
from virtstatd.pipeline.pieces import Splitter, UnitKey, key_of, keys_of
from virtstatd.pipeline.retry import (
    ALONE_FAILURES,
    DENIED_AGE_SECONDS,
    DENIED_SECONDS,
    FRUITLESS_SECONDS,
    Backoff,
    Guard,
    Poison,
)
from virtstatd.pipeline.search import Search
from virtstatd.sink import Delivery, Trains


LOSSES = ("rejected", "poison", "expired", "error", "shutdown")
LAG_BUCKETS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 3600.0, 86400.0)

LINGER_SECONDS: Final = 0.2
"""Longest wait for more, where a request would be half empty."""

TRAIN_REQUESTS: Final = 4
"""Least number of requests that a train may fill."""

FINISH_SECONDS = 3.0
"""What the queue gets to write at the end what it can keep."""

UNLIMITED: Final = Trains(sys.maxsize)


@dataclass(slots=True, eq=False)
class _Lane:
    """Pieces that are sent one after the other."""

    pieces: deque[Piece]
    attempts: Attempts
    guard: Guard
    backoff: Backoff = field(default_factory=Backoff)
    wait: float = 0.0
    """Seconds until the next attempt."""

    def behind(self, pieces: Sequence[Piece]) -> None:
        """Put parts of one batch behind the rest of it, and before the batches after it."""
        parcel = pieces[0].shares[0].parcel
        rest = list(self.pieces)
        at = 0
        while at < len(rest) and all(share.parcel is parcel for share in rest[at].shares):
            at += 1
        self.pieces = deque([*rest[:at], *pieces, *rest[at:]])


class Outlet:
    """
    Deliver batches to one sink, in order for every guest, whatever the sink does.

    A sink with `trains` gets as much at once as waits and it takes, any other a batch at a time.
    Nothing that a sink raises, and no time that it takes, affects another sink.
    """

    def __init__(
        self,
        name: str,
        send: SendTrain,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        queue: Queue,
        *,
        attempt_seconds: float,
        max_age_seconds: float,
        delivery: Delivery = "memory",
        trains: Trains | None = None,
        catch_up_bytes_per_second: int = 0,
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
        self.attempts = dict.fromkeys(OUTCOMES, 0)
        """Attempts to send, by outcome."""
        self._trains = trains or UNLIMITED
        self._size = RequestSize(self._trains.samples)
        self._attempts = [
            Attempts(name, send, attempt_seconds, self.attempts) for _ in range(self._trains.lanes)
        ]
        self._log = log
        self._clock = clock
        self._sleep = sleep
        self._max_age = max_age_seconds
        self._catch_up_bytes = catch_up_bytes_per_second
        self._ages = Ages(clock, wall)
        self._lag = Lag(clock, log)
        self._splitter = Splitter()
        self._poison = Poison(clock)
        self._offered = Tally()
        self._underway: Underway | None = None
        self._began = False
        self._resumed = False
        """Whether the train is what a run before may have sent."""
        self._denied_at = -math.inf
        self._denied_until = 0.0
        self._search_after = 0.0
        self._closing = asyncio.Event()
        self._full = asyncio.Event()
        self._state = ""  # or what the last attempt came to, until one succeeds

    @property
    def accepted(self) -> Tally:
        """What was offered, or found on disk at the start."""
        return self._offered + self.queue.recovered

    @property
    def dropped(self) -> Mapping[str, Tally]:
        """What was forgotten before an attempt, by reason."""
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
        if self.queue.waiting.samples >= self._size.samples:
            self._full.set()

    def close(self) -> None:
        """Say that nothing more will be offered: `run` ends once the queue is empty."""
        self._closing.set()
        self.queue.close()

    @property
    def _most(self) -> int:
        """The samples of a train: several requests, so that few of them are not full."""
        return self._size.samples * max(TRAIN_REQUESTS, 2 * self._trains.lanes)

    async def run(self) -> None:
        """Deliver until `close` and the end of the queue; what is left then is kept or lost."""
        try:
            while train := await self._taken():
                begun = self._clock()
                it = Underway(train, self._splitter, self.delivered, self.lost, self._ended)
                self._underway = it
                if not await self._deliver(it):
                    break
                self._underway = None
                late = self._late(train)
                self._lag.sent(late, self.accepted.samples, self.delivered.samples)
                if late:
                    await self._spare(train, begun)
        finally:
            await self._finish()

    async def _taken(self) -> list[Batch]:
        """Take what waits; after a wait for the first of it, also what comes a moment later."""
        if self._trains is UNLIMITED:
            return await self.queue.take(ALONE)
        self._full.clear()
        return await self.queue.take(self._most, self._linger)

    async def _linger(self) -> None:
        if self.queue.waiting.samples < self._size.samples:
            await self._pause(LINGER_SECONDS, self._full)

    def _late(self, train: list[Batch]) -> float:
        """Return the age of what was sent later than two intervals, 0 where none was."""
        ages = ((self._ages.seconds(each.taken_at), each.lifetime_seconds) for each in train)
        return max((age for age, most in ages if age > most), default=0.0)

    async def _spare(self, train: list[Batch], begun: float) -> None:
        """Wait so long that what is late goes out as slowly as the configuration says."""
        if self._catch_up_bytes:
            wanted = sum(batch.bytes for batch in train) / self._catch_up_bytes
            if (left := begun + wanted - self._clock()) > 0:
                await self._pause(left)

    async def _deliver(self, it: Underway) -> bool:
        """Deliver or lose all of a train; False when some is left for the queue to keep."""
        known = self._poison.keys
        self._resumed = not self._began and bool(self.queue.recovered.batches)
        self._began = True
        lanes: list[_Lane] = []
        for pieces, attempts in zip(
            it.lanes(self._size.samples, self._trains.lanes), self._attempts, strict=False
        ):
            if apart := it.set_apart(pieces, known):
                if self._poison.trial():
                    pieces.append(apart)
                else:
                    it.lose("poison", [apart])
            for piece in pieces if self._resumed else ():
                piece.doubt()
            lanes.append(_Lane(pieces, attempts, Guard(self._clock, armed=bool(known))))
        if len(lanes) == 1:
            return await self._carry(it, lanes[0])
        async with asyncio.TaskGroup() as tasks:
            carrying = [
                tasks.create_task(self._carry(it, lane), name=f"lane {self.name}") for lane in lanes
            ]
        return all(each.result() for each in carrying)

    async def _carry(self, it: Underway, lane: _Lane) -> bool:
        """Try until all pieces are delivered or lost; False when some are left to the queue."""
        while self._young(it, lane):
            if not await self._waited(lane):
                return False
            piece = lane.pieces.popleft()
            error = await lane.attempts.send(piece.batches, patient=not self._closing.is_set())
            # an empty batch that is accepted proves nothing: not every sink sends one
            told = error or any(batch.readings for batch in piece.batches)
            if piece.doubtful and isinstance(error, Rejected) and error.overtaken:
                error = self._arrived(piece, lane, error)
            searched = self._searched(error)
            quiet = lane.guard.suspicious or piece.known or searched
            if told and not (quiet or isinstance(error, TooLarge)):
                self._turn(error)
            if error is None:
                self._got(piece, lane, it)
            elif searched:
                await self._search(error, piece, lane, it)
            elif not (isinstance(error, TryLater | Denied) and self._closing.is_set()):
                self._failed(error, piece, lane, it)
            elif self.delivery == "spool":  # while draining nothing is tried twice
                return False
            else:
                it.lose("shutdown", [piece, *lane.pieces])
                lane.pieces.clear()
            if ended := it.settled():
                await self.queue.settle(ended)
        self._found(lane.guard)
        return True

    async def _waited(self, lane: _Lane) -> bool:
        """Wait as long as the last failure asks for; False when that is to the end."""
        wait, lane.wait = max(lane.wait, self._denied_until - self._clock()), 0.0
        if wait > 0:
            await self._pause(wait)
        return not (self._closing.is_set() and self.circuit_open)

    def _young(self, it: Underway, lane: _Lane) -> bool:
        """Lose what will be too old after the wait; return whether anything is left."""
        for piece in lane.pieces:
            old = [share for share in piece.shares if self._too_old(share.batch, lane.wait)]
            if old:
                it.lose_shares("expired", old)
                piece.shares = [share for share in piece.shares if share not in old]
        while lane.pieces and not lane.pieces[0].shares:
            lane.pieces.popleft()
        return bool(lane.pieces)

    def _arrived(self, piece: Piece, lane: _Lane, error: Rejected) -> Exception | None:
        """
        Return what a refusal means of a piece that was sent before, without an answer.

        A destination that refuses its older batches for its newest has all of it. They are tried
        one by one, and each that a later one of them has overtaken has arrived.
        """
        if len(piece.shares) > 1:
            lane.pieces.extendleft(Piece([share]) for share in reversed(piece.shares))
            piece.shares = []
            return None
        (share,) = piece.shares
        mine = _groups(share.batch)
        later = (each for other in lane.pieces for each in other.shares if each.doubtful)
        return None if any(not mine.isdisjoint(_groups(each.batch)) for each in later) else error

    def _too_old(self, batch: Batch, wait: float) -> bool:
        age, most = self._ages.seconds(batch.taken_at), self._max_age
        if self.delivery == "spool" and age >= self._clock() - self._denied_at:
            most = max(most, DENIED_AGE_SECONDS)
        return age + wait > most

    def _searched(self, error: Exception | None) -> bool:
        """Return whether to search for what is to blame for a failure."""
        atomic = isinstance(error, Rejected) and error.atomic
        return atomic and self._clock() >= self._search_after

    async def _search(
        self, error: Exception | None, piece: Piece, lane: _Lane, it: Underway
    ) -> None:
        """Search for what a destination refuses; what fails otherwise meanwhile ends the search."""
        search = Search(it, piece, self._poison)
        steps = search.steps()
        refused = True
        with suppress(StopIteration):
            attempt = next(steps)
            while True:
                failure = await lane.attempts.send(attempt.batches, patient=True)
                refused = isinstance(failure, Rejected) and failure.atomic
                if not (refused or failure is None):
                    lane.pieces.extendleft(reversed(search.left))
                    self._failed(failure, attempt, lane, it)
                    break
                if not refused:
                    self._got(attempt, lane, it)
                attempt = steps.send(not refused)
        if search.accepted:
            self._turn(None)
        elif refused and not piece.known:
            self._search_after = self._clock() + FRUITLESS_SECONDS
            self._turn(error)
        self._name(search.found, str(error))

    def _got(self, piece: Piece, lane: _Lane, it: Underway) -> None:
        """Count a piece that was accepted, and learn from it."""
        self._search_after = 0.0
        self._size.taken(piece.samples)
        it.got(piece)
        lane.guard.passed(piece.samples)
        lane.backoff.reset()
        for batch in piece.batches if piece.known else ():
            self._poison.forget(keys_of(batch))

    def _failed(self, error: Exception, piece: Piece, lane: _Lane, it: Underway) -> None:
        """Do with a piece what its failure asks for."""
        match error:
            case TryLater():
                self._lag.failed()
                wait = lane.backoff.seconds(error.after_seconds)
                if not self._put_back(piece, lane, it, error):
                    lane.wait = wait
            case TooLarge(samples=None):
                self._size.refused(piece.samples)
                if halves := it.halves(piece):
                    lane.pieces.extendleft(reversed(halves))
                    if self._trains is not UNLIMITED:
                        it.repack(lane.pieces, self._size.samples)
                else:
                    self._turn(error)
                    it.lose("rejected", [piece])
            case Denied():
                self._lag.failed()
                self._denied_at = self._clock()
                self._denied_until = self._denied_at + DENIED_SECONDS
                # what a destination dislikes in a batch is denied by some: it is searched for
                self._put_back(piece, lane, it, TryLater(str(error), 0.0, answered=True))
            case Rejected(samples=int(refused)):
                it.got(piece, refused)
            case Rejected():
                self._turn(error)
                it.lose("rejected", [piece])
            case _:
                it.lose("error", [piece])

    def _put_back(self, piece: Piece, lane: _Lane, it: Underway, error: TryLater) -> bool:
        """Put a piece back, or its halves, or nothing of it; return whether to go on at once."""
        if not error.answered:
            if not piece.known:  # what is known to be refused is tried as a whole
                piece.doubt()
            lane.pieces.appendleft(piece)
            return False
        piece.failures += 1
        moved = lane.guard.failed()
        if piece.known:
            it.lose("poison", [piece])
        elif not lane.guard.suspicious:
            lane.pieces.appendleft(piece)
        elif len(piece.shares) > 1:
            lane.pieces.extendleft(reversed(it.halves(piece)))
        elif halves := it.halves(piece):
            lane.behind(halves)
        elif not (lane.guard.proven and piece.failures >= ALONE_FAILURES):
            lane.behind([piece])
        elif key := key_of(piece.batches[0]):
            it.lose("poison", [piece])
            self._poison.add(key)
            lane.guard.found.append(key)
        else:
            lane.behind([piece])
        return moved and error.after_seconds is None

    def _ended(self, batch: Batch, delivered: bool) -> None:  # noqa: FBT001 - of a callback
        """Count how long a batch took from being taken to being delivered."""
        if delivered:
            seconds = self._ages.seconds(batch.taken_at)
            self.lags[bisect_left(LAG_BUCKETS, seconds)] += 1
            self.lag_seconds += seconds

    def _found(self, guard: Guard) -> None:
        """Log what the search for refused series has found."""
        if guard.suspicious and guard.proven:
            self._turn(None)
        self._name(guard.found, "answered with errors")

    def _name(self, found: Sequence[UnitKey], reason: str) -> None:
        """Log which series a destination does not take."""
        if found:
            (uuid, series), *others = found
            self._log.error(
                "sink.poisoned",
                uuid=uuid,
                series=series.field.family,
                labels=dict(series.labels),
                others=len(others),
                reason=reason,
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

    async def _pause(self, seconds: float, *events: asyncio.Event) -> None:
        """Wait, but not once nothing more comes, or any of some events is there."""
        waits = [
            asyncio.ensure_future(each)
            for each in (
                self._sleep(seconds),
                self._closing.wait(),
                *(event.wait() for event in events),
            )
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _finish(self) -> None:
        """Let the queue keep what it can, and count the rest as lost."""
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                lost = await self.queue.finish()
        except TimeoutError:
            self._log.error("sink.unfinished", batches=self.waiting.batches)
            return
        gone = lost.waiting + Tally()
        if self._underway is not None:  # the queue knows nothing of parts that were delivered
            gone += self._underway.dropped(lost.taken)
        self.lost["shutdown"] += gone
        if gone.batches:
            self._log.error("sink.abandoned", batches=gone.batches)
        if self.waiting.batches:
            self._log.info("sink.kept", batches=self.waiting.batches)


def _groups(batch: Batch) -> set[tuple[str | None, str]]:
    """Return the groups of each guest in a batch: another with one of them has its series."""
    return {
        (reading.domain.uuid if reading.domain else None, reading.shape.group)
        for reading in batch.readings
    }

"""
The runner in front of a sink: buffer, deadline, retries, counters, isolation.

    offer ──▶ buffer ──▶ attempt ──▶ delivered
                │           │ TryLater, too slow: again, later
                ▼           ▼
             dropped       lost (rejected, too old, broken, shutdown)

    accepted = delivered + dropped + lost + waiting, at every moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import Rejected, TryLater
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Queue, Tally
from virtstatd.sink import Send


BACKOFF_SECONDS = (0.5, 30.0)
"""First and longest pause between attempts; the true one is anywhere between zero and it."""

RETRY_AFTER_MAX_SECONDS = 300.0
"""A destination may ask for patience, but not for ever."""

LOSSES = ("rejected", "expired", "error", "shutdown")
ATTEMPTS = ("ok", "later", "timeout", "rejected", "error")


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
    ) -> None:
        self.name = name
        self.accepted = Tally()
        self.delivered = Tally()
        self.lost = {reason: Tally() for reason in LOSSES}
        self.attempts = dict.fromkeys(ATTEMPTS, 0)
        self._send = send
        self._log = log
        self._clock = clock
        self._queue = queue
        self._attempt_seconds = attempt_seconds
        self._max_age = max_age_seconds
        self._current: Batch | None = None
        self._closing = asyncio.Event()
        self._failing = False

    @property
    def dropped(self) -> Mapping[str, Tally]:
        """What was forgotten before the sink was asked, by reason."""
        return self._queue.dropped

    @property
    def waiting(self) -> Tally:
        """What is in the buffer or on its way to the sink."""
        waiting = self._queue.waiting
        if self._current is not None:
            waiting.add(self._current)
        return waiting

    @property
    def buffer_bytes(self) -> int:
        """The memory that waiting batches cost, by estimate."""
        return self._queue.bytes

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._failing

    def offer(self, batch: Batch) -> None:
        """Accept a batch, never wait."""
        self.accepted.add(batch)
        self._queue.offer(batch)

    def close(self) -> None:
        """Say that nothing more will be offered: `run` ends once the buffer is empty."""
        self._closing.set()
        self._queue.close()

    async def run(self) -> None:
        """Deliver until `close` and the end of the buffer; what is left at a cancel is lost."""
        try:
            while (batch := await self._queue.take()) is not None:
                self._current = batch
                reason, part = await self._deliver(batch)
                self._current = None
                (self.lost[reason] if reason else self.delivered).add(batch)
                self.delivered -= part
                self.lost["rejected"] += part
                await self._queue.settle(batch)
        finally:
            self.lost["shutdown"] += await self._queue.finish()
            self._current = None

    async def _deliver(self, batch: Batch) -> tuple[str | None, Tally]:
        """Try until it is delivered; return why it is lost, or what was refused of it alone."""
        expires_at = self._clock() + self._max_age
        pause = BACKOFF_SECONDS[0]
        while True:
            error = await self._attempt(batch)
            if error is None:
                return None, Tally()
            if isinstance(error, Rejected) and error.samples is not None:
                refused = min(max(error.samples, 0), batch.samples)
                return None, Tally(0, refused, batch.bytes * refused // max(batch.samples, 1))
            if not isinstance(error, TryLater):
                return ("rejected" if isinstance(error, Rejected) else "error"), Tally()
            if self._closing.is_set():  # while draining nothing is tried twice
                return "shutdown", Tally()
            wait = random.uniform(0, pause)  # noqa: S311 - jitter
            if error.after_seconds is not None:
                wait = min(max(error.after_seconds, 0.0), RETRY_AFTER_MAX_SECONDS)
            if self._clock() + wait > expires_at:
                return "expired", Tally()
            pause = min(pause * 2, BACKOFF_SECONDS[1])
            try:
                async with asyncio.timeout(wait):
                    await self._closing.wait()
            except TimeoutError:
                pass

    async def _attempt(self, batch: Batch) -> Exception | None:
        """Send once, contain whatever comes of it, and log the transitions."""
        outcome = "ok"
        error: Exception | None = None
        try:
            async with asyncio.timeout(self._attempt_seconds):
                await self._send(batch)
        except TryLater as raised:
            outcome, error = "later", raised
        except TimeoutError:
            outcome, error = "timeout", TryLater(f"no answer within {self._attempt_seconds:g} s")
        except Rejected as raised:
            outcome, error = "rejected", raised
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            outcome, error = "error", RuntimeError("the sink cancelled itself")
        except Exception as raised:  # noqa: BLE001 - a sink is not our code
            outcome, error = "error", raised
        self.attempts[outcome] += 1
        if error is not None and not self._failing:
            known = isinstance(error, TryLater | Rejected)
            self._log.warning(
                "sink.failing",
                outcome=outcome,
                reason=str(error) or type(error).__name__,
                exc_info=None if known else error,
            )
        elif error is None and self._failing:
            self._log.info("sink.recovered")
        self._failing = error is not None
        return error

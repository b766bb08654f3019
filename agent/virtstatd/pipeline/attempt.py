"""One call of a sink: within its time, contained, and counted."""

from __future__ import annotations

import asyncio

from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.model import Batch
from virtstatd.sink import Send


OUTCOMES = ("ok", "later", "timeout", "too_large", "rejected", "denied", "error")

CANCEL_SECONDS = 1.0
"""Time for a sink to end once cancelled; after that it is not called until it has ended."""


class NoAnswer(TryLater):
    """The sink did not answer in time."""


class Attempts:
    """
    Send in a task of its own, within the time that an attempt has.

    A sink that cancels itself or ignores being cancelled delays only itself. It is not called again
    while an earlier call is still running.
    """

    def __init__(self, name: str, send: Send, seconds: float) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self._name = name
        self._send = send
        self._seconds = seconds
        self._stuck: asyncio.Task[Exception | None] | None = None

    async def send(self, batch: Batch, *, patient: bool) -> Exception | None:
        """Return the failure, None for success; `patient` waits for an earlier call to end."""
        error = await self._sent(batch, self._seconds if patient else 0.0)
        self.counts[outcome_of(error)] += 1
        return error

    async def _sent(self, batch: Batch, patience: float) -> Exception | None:
        if self._stuck is not None:
            await asyncio.wait({self._stuck}, timeout=patience)
            if not self._stuck.done():
                return NoAnswer("does not heed that its time is over")
            self._stuck = None
        task = asyncio.create_task(self._contained(batch), name=f"send {self._name}")
        try:
            in_time, _ = await asyncio.wait({task}, timeout=self._seconds)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        if not task.done():
            self._stuck = task
        elif not task.cancelled():
            return task.result()
        elif in_time:
            return RuntimeError("the sink cancelled itself")
        return NoAnswer(f"no answer within {self._seconds:g} s")

    async def _contained(self, batch: Batch) -> Exception | None:
        """Return the exception that a sink raises."""
        try:
            await self._send(batch)
        except SystemExit:
            return RuntimeError("the sink wanted the process to exit")
        except Exception as error:  # noqa: BLE001 - a sink is not our code
            return error
        return None


def outcome_of(error: Exception | None) -> str:
    """Return the outcome that an attempt is counted under."""
    return next(outcome for kind, outcome in _OUTCOMES if isinstance(error, kind))


_OUTCOMES = (
    (type(None), "ok"),
    (NoAnswer, "timeout"),
    (TryLater, "later"),
    (TooLarge, "too_large"),
    (Denied, "denied"),
    (Rejected, "rejected"),
    (Exception, "error"),
)

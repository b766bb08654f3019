"""One batch on its way to a sink: its pieces, the calls that carry them, and their outcomes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.pieces import Splitter, UnitKey
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


@dataclass(slots=True)
class Piece:
    """A part of the batch, or all of it, and the bytes that it counts for."""

    batch: Batch
    bytes: int
    failures: int = 0
    known: bool = False  # was refused before


class Underway:
    """
    Count the pieces of a batch into `delivered` and `lost`; `left` is what is still to come.

    The batch itself counts as delivered when any part of it was.
    """

    def __init__(
        self, batch: Batch, splitter: Splitter, delivered: Tally, lost: Mapping[str, Tally]
    ) -> None:
        self.batch = batch
        self.left = Tally(1, batch.samples, batch.bytes)
        self.pieces = deque([Piece(batch, batch.bytes)])
        self._splitter = splitter
        self._delivered = delivered
        self._lost = lost
        self._outcome = Tally()

    @property
    def delivered(self) -> bool:
        """Whether any part was delivered."""
        return self._outcome is self._delivered

    def part(self, bad: Collection[UnitKey]) -> None:
        """Cut off the series that were refused before, to be tried last."""
        if not bad:
            return
        whole = self.pieces.popleft()
        good, known = self._splitter.without(whole.batch, bad)
        if known is None:
            self.pieces.append(whole)
            return
        parts = [good, known] if good.readings or good.gone else [known]
        self.pieces.extend(self._shared(whole, parts))
        self.pieces[-1].known = True

    def halves(self, piece: Piece) -> list[Piece]:
        """Cut a piece; empty when it cannot be cut."""
        return self._shared(piece, self._splitter.halves(piece.batch))

    def got(self, piece: Piece, refused: int = 0) -> None:
        """Count a piece as delivered, except `refused` samples of it."""
        refused = min(max(refused, 0), piece.batch.samples)
        share = piece.bytes * refused // max(piece.batch.samples, 1)
        self._count(self._lost["rejected"], refused, share)
        self._count(self._delivered, piece.batch.samples - refused, piece.bytes - share)

    def lose(self, reason: str, *pieces: Piece) -> None:
        """Count pieces as lost."""
        for piece in pieces:
            self._count(self._lost[reason], piece.batch.samples, piece.bytes)

    def lose_rest(self, reason: str, *pieces: Piece) -> None:
        """Count pieces, and all that remain, as lost."""
        self.lose(reason, *pieces, *self.pieces)
        self.pieces.clear()

    def settle(self) -> None:
        """Count the batch itself; called once no piece is left."""
        self._outcome.batches += 1
        self.left = Tally()

    def _count(self, tally: Tally, samples: int, size: int) -> None:
        tally.samples += samples
        tally.bytes += size
        self.left.samples -= samples
        self.left.bytes -= size
        if not self.delivered:
            self._outcome = tally

    @staticmethod
    def _shared(whole: Piece, batches: Sequence[Batch]) -> list[Piece]:
        """Return the parts of a piece, each with its share of the bytes."""
        pieces: list[Piece] = []
        samples, left = whole.batch.samples, whole.bytes
        for batch in batches:
            share = left * batch.samples // samples if samples else 0
            pieces.append(Piece(batch, share, known=whole.known))
            samples -= batch.samples
            left -= share
        if pieces:
            pieces[-1].bytes += left
        return pieces

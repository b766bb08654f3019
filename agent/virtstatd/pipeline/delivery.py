"""A train of batches on its way to a sink: pieces, the calls that carry them, and outcomes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.pieces import Splitter, UnitKey, dealt, halved


SendTrain = Callable[..., Awaitable[None]]
"""Send batches together: one, or as many as a sink with `trains` takes."""

OUTCOMES = ("ok", "later", "timeout", "too_large", "rejected", "denied", "error")

LEAST_SHARE = 16
"""A batch is cut to fill what is free of a request, if that is one part in so many or more."""

CANCEL_SECONDS = 1.0
"""Time for a sink to end once cancelled; after that it is not called until it has ended."""


class NoAnswer(TryLater):
    """The sink did not answer in time."""


class Attempts:
    """
    Send in a task of its own, within the time that an attempt has.

    A sink that cancels itself or ignores being cancelled delays only itself. It is not called again
    while an earlier call of the same lane is still running.
    """

    def __init__(self, name: str, send: SendTrain, seconds: float, counts: dict[str, int]) -> None:
        self._counts = counts
        self._name = name
        self._send = send
        self._seconds = seconds
        self._stuck: asyncio.Task[Exception | None] | None = None

    async def send(self, batches: Sequence[Batch], *, patient: bool) -> Exception | None:
        """Return the failure, None for success; `patient` waits for an earlier call to end."""
        error = await self._sent(batches, self._seconds if patient else 0.0)
        self._counts[outcome_of(error)] += 1
        return error

    async def _sent(self, batches: Sequence[Batch], patience: float) -> Exception | None:
        if self._stuck is not None:
            await asyncio.wait({self._stuck}, timeout=patience)
            if not self._stuck.done():
                return NoAnswer("does not heed that its time is over")
            self._stuck = None
        task = asyncio.create_task(self._contained(batches), name=f"send {self._name}")
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

    async def _contained(self, batches: Sequence[Batch]) -> Exception | None:
        """Return the exception that a sink raises."""
        try:
            await self._send(*batches)
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


@dataclass(slots=True, eq=False)
class Parcel:
    """A batch of a train, and what of it is still to come; it may be in several parts."""

    batch: Batch
    left: Tally
    shares: int = 1
    outcome: Tally | None = None


@dataclass(slots=True)
class Share:
    """
    All of a batch or a part of it, and the bytes that it counts for.

    It is `doubtful` where it was sent before, without an answer.
    """

    batch: Batch
    bytes: int
    parcel: Parcel
    doubtful: bool = False


@dataclass(slots=True)
class Piece:
    """What one call carries: shares of batches, in their order."""

    shares: list[Share]
    failures: int = 0
    known: bool = False  # was refused before

    @property
    def batches(self) -> list[Batch]:
        """What a sink is called with."""
        return [share.batch for share in self.shares]

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return sum(share.batch.samples for share in self.shares)

    @property
    def doubtful(self) -> bool:
        """Whether the destination may have some of it."""
        return any(share.doubtful for share in self.shares)

    def doubt(self) -> None:
        """Take note that it was sent, without an answer."""
        for share in self.shares:
            share.doubtful = True


class Underway:
    """
    Count the shares of a train into `delivered` and `lost`; `left` is what is still to come.

    A batch itself counts as delivered when any part of it was; `ended` is called with it.
    """

    def __init__(
        self,
        train: Sequence[Batch],
        splitter: Splitter,
        delivered: Tally,
        lost: Mapping[str, Tally],
        ended: Callable[[Batch, bool], None],
    ) -> None:
        self.parcels = [Parcel(each, Tally(1, each.samples, each.bytes)) for each in train]
        self._splitter = splitter
        self._delivered = delivered
        self._lost = lost
        self._ended = ended

    @property
    def left(self) -> Tally:
        """What is neither delivered nor lost."""
        return sum((parcel.left for parcel in self.parcels), Tally())

    def settled(self) -> int:
        """Remove the oldest batches that have ended, and return how many they were."""
        count = 0
        while count < len(self.parcels) and not self.parcels[count].shares:
            count += 1
        del self.parcels[:count]
        return count

    def dropped(self, batches: Iterable[Batch]) -> Tally:
        """Give up what is left of some of the batches, and return it."""
        ids = {id(each) for each in batches}
        lost = Tally()
        for parcel in self.parcels:
            if id(parcel.batch) in ids:
                lost += parcel.left
                parcel.left = Tally()
        return lost

    def lanes(self, samples: int, lanes: int) -> list[deque[Piece]]:
        """
        Cut and join everything into pieces of so many samples at most.

        What needs more than one piece goes by guest into as many as `lanes` rows of pieces.
        """
        count = max(1, min(lanes, -(-self.left.samples // samples)))
        rows: list[list[Share]] = [[] for _ in range(count)]
        owners = dealt([parcel.batch for parcel in self.parcels], count) if count > 1 else {}
        for parcel in self.parcels:
            share = Share(parcel.batch, parcel.batch.bytes, parcel)
            if not owners:
                rows[0].append(share)
                continue
            shards = self._splitter.shards(parcel.batch, owners.__getitem__)
            # none of them is all: what a lane lacks of the others' guests may still be on its way
            parts = [replace(part, piece=part.piece or "/") for _, part in shards]
            for (number, _), shard in zip(shards, _shared(share, parts), strict=True):
                rows[number].append(shard)
        return [self._packed(row, samples) for row in rows if row]

    def repack(self, pieces: deque[Piece], samples: int) -> None:
        """Cut and join what is still to come into pieces of another size."""
        known = [piece for piece in pieces if piece.known]
        rest = [share for piece in pieces if not piece.known for share in piece.shares]
        pieces.clear()
        pieces.extend((*self._packed(rest, samples), *known))

    def set_apart(self, pieces: deque[Piece], bad: Collection[UnitKey]) -> Piece | None:
        """Cut off the series that were refused before, and return them."""
        if not bad:
            return None
        known: list[Share] = []
        for piece in pieces:
            piece.shares, cut = self.apart(piece.shares, bad)
            known += cut
        kept = [piece for piece in pieces if piece.shares]
        pieces.clear()
        pieces.extend(kept)
        return Piece(known, known=True) if known else None

    def apart(
        self, shares: Sequence[Share], bad: Collection[UnitKey]
    ) -> tuple[list[Share], list[Share]]:
        """Return shares without some series, and those series."""
        rest: list[Share] = []
        apart: list[Share] = []
        for share in shares:
            good, known = self._splitter.without(share.batch, bad)
            if known is None:
                rest.append(share)
                continue
            wanted = [good, known] if good.readings or good.gone else [known]
            *others, bad_one = _shared(share, wanted)
            apart.append(bad_one)
            rest += others
        return rest, apart

    def by_guest(
        self, shares: Sequence[Share], guests: Collection[str | None]
    ) -> tuple[list[Share], list[Share]]:
        """Return the shares of some guests, and those of the others."""
        rows: tuple[list[Share], list[Share]] = [], []
        for share in shares:
            cut = self._splitter.shards(share.batch, lambda uuid: int(uuid not in guests))
            for (row, _), part in zip(cut, _shared(share, [b for _, b in cut]), strict=True):
                rows[row].append(part)
        return rows

    def halves(self, piece: Piece) -> list[Piece]:
        """Cut a piece between its batches, or its only batch; empty when it cannot be cut."""
        shares = piece.shares
        if len(shares) == 1:
            parts = [
                [share] for share in _shared(shares[0], self._splitter.halves(shares[0].batch))
            ]
        else:
            middle = halved([share.batch.samples for share in shares])
            parts = [shares[:middle], shares[middle:]]
        return [Piece(part, known=piece.known) for part in parts]

    def got(self, piece: Piece, refused: int = 0) -> None:
        """Count a piece as delivered, except `refused` samples of it."""
        samples = piece.samples
        refused = min(max(refused, 0), samples)
        for share in piece.shares:
            own = share.batch.samples
            lost = refused * own // samples if samples else 0
            size = share.bytes * lost // max(own, 1)
            self._count(share, self._lost["rejected"], lost, size)
            self._count(share, self._delivered, own - lost, share.bytes - size)
            self._end(share)
            refused -= lost
            samples -= own

    def lose(self, reason: str, pieces: Iterable[Piece]) -> None:
        """Count pieces as lost."""
        for piece in pieces:
            self.lose_shares(reason, piece.shares)

    def lose_shares(self, reason: str, shares: Iterable[Share]) -> None:
        """Count shares as lost."""
        for share in shares:
            self._count(share, self._lost[reason], share.batch.samples, share.bytes)
            self._end(share)

    def _packed(self, shares: Sequence[Share], samples: int) -> deque[Piece]:
        """Fill pieces, in order; a batch is cut where it is too large, or much room is left."""
        pieces: deque[Piece] = deque()
        rest = deque(shares)
        piece, room = Piece([]), samples
        while rest:
            share = rest.popleft()
            if share.batch.samples > room:
                much = room * LEAST_SHARE >= samples
                if much and (cut := self._cut(share, room, alone=not piece.shares)):
                    rest.extendleft(reversed(cut))
                    continue
                if piece.shares:
                    pieces.append(piece)
                    piece, room = Piece([]), samples
                    rest.appendleft(share)
                    continue
            piece.shares.append(share)
            room -= share.batch.samples
        return deque([*pieces, piece] if piece.shares else pieces)

    def _cut(self, share: Share, room: int, *, alone: bool) -> list[Share]:
        """Cut a share so that its beginning fits; nothing where it cannot, or not by guests."""
        if head := self._splitter.head(share.batch, room):
            return _shared(share, head)
        return _shared(share, self._splitter.halves(share.batch)) if alone else []

    def _count(self, share: Share, tally: Tally, samples: int, size: int) -> None:
        tally.samples += samples
        tally.bytes += size
        parcel = share.parcel
        parcel.left.samples -= samples
        parcel.left.bytes -= size
        if parcel.outcome is not self._delivered:
            parcel.outcome = tally

    def _end(self, share: Share) -> None:
        parcel = share.parcel
        parcel.shares -= 1
        if not parcel.shares and parcel.outcome is not None:
            parcel.outcome.batches += 1
            parcel.left = Tally()
            self._ended(parcel.batch, parcel.outcome is self._delivered)


def _shared(whole: Share, batches: Sequence[Batch]) -> list[Share]:
    """Cut a share, and its bytes with it."""
    shares: list[Share] = []
    samples, left = whole.batch.samples, whole.bytes
    for batch in batches:
        size = left * batch.samples // samples if samples else 0
        shares.append(Share(batch, size, whole.parcel, whole.doubtful))
        samples -= batch.samples
        left -= size
    if shares:
        shares[-1].bytes += left
        whole.parcel.shares += len(shares) - 1
    return shares

"""The search for the series that make a destination refuse a whole request."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from virtstatd.pipeline.delivery import Piece, Share, Underway
from virtstatd.pipeline.pieces import UnitKey, key_of, keys_of
from virtstatd.pipeline.retry import Poison


SEARCH_REQUESTS: Final = 16
"""Most requests of one search."""

LAST_REQUESTS: Final = 2
"""Those that are kept for what is not to blame."""


class Search:
    """
    Halve what was refused until the series to blame is alone, then send the rest together.

    A half that is accepted is delivered, and the other half has the fault. What is not found
    within `SEARCH_REQUESTS` is lost with its guest at most, where the others are accepted.
    """

    def __init__(self, it: Underway, refused: Piece, poison: Poison) -> None:
        self.found: list[UnitKey] = []
        self.accepted = False
        """Whether the destination took anything."""
        self._it = it
        self._poison = poison
        self._pool = refused
        """What has the fault."""
        self._proven = True
        """Whether that itself was refused, not only what it was a half of."""
        self._rest: list[Share] = []
        """What may have a fault as well."""
        self._known = refused.known

    @property
    def left(self) -> list[Piece]:
        """What is neither delivered nor lost, without what is tried just now."""
        pieces = (self._pool, Piece(self._rest, known=self._known))
        return [piece for piece in pieces if piece.shares]

    def steps(self) -> Generator[Piece, bool, None]:
        """Yield what to send next, and get whether it was accepted."""
        requests = SEARCH_REQUESTS
        while requests > LAST_REQUESTS and (self._pool.shares or self._rest):
            if not self._pool.shares:
                requests -= 1
                yield from self._all_of_the_rest()
            elif halves := self._it.halves(self._pool):
                requests -= 1
                yield from self._half(*halves)
            elif self._proven:
                self._blame()
            else:
                requests -= 1
                yield from self._alone()
        yield from self._finish()

    def _half(self, first: Piece, *others: Piece) -> Generator[Piece, bool, None]:
        second = Piece([share for each in others for share in each.shares], known=self._known)
        self._pool = second
        if (yield from self._sent(first)):
            self._proven = False
        else:
            self._pool, self._proven = first, True
            self._rest = [*second.shares, *self._rest]

    def _alone(self) -> Generator[Piece, bool, None]:
        alone, self._pool = self._pool, Piece([])
        if not (yield from self._sent(alone)):
            self._pool, self._proven = alone, True

    def _all_of_the_rest(self) -> Generator[Piece, bool, None]:
        rest, self._rest = Piece(self._rest, known=self._known), []
        if (yield from self._sent(rest)):
            return
        self._pool, self._proven = rest, True
        suspects, others = self._it.by_guest(rest.shares, {uuid for uuid, _ in self.found})
        if suspects and others:  # the guest of one bad series has more of them, as a rule
            self._pool, self._proven = Piece(suspects, known=self._known), False
            self._rest = others

    def _sent(self, piece: Piece) -> Generator[Piece, bool, bool]:
        accepted = yield piece
        self.accepted |= accepted
        return accepted

    def _blame(self) -> None:
        """Lose the series that was refused alone, also where it is in later batches."""
        key = key_of(self._pool.batches[0])
        self._lose(self._pool, "poison" if key else "rejected")
        self._pool = Piece([])

    def _finish(self) -> Generator[Piece, bool, None]:
        """Lose what could not be searched, and keep its guest from taking others with it."""
        guests = {uuid for uuid, _ in self.found}
        if self._pool.shares:
            guests |= _guests(self._pool)
            self._lose(self._pool, "rejected")
            self._pool = Piece([])
        if not self._rest:
            return
        rest, self._rest = Piece(self._rest, known=self._known), []
        if (yield from self._sent(rest)):
            return
        suspects, others = self._it.by_guest(rest.shares, guests)
        if suspects and others:
            self._rest = suspects
            if not (yield from self._sent(Piece(others, known=self._known))):
                self._it.lose_shares("rejected", others)
            self._rest = []
            self._lose(Piece(suspects), "rejected")
        else:
            self._it.lose_shares("rejected", rest.shares)

    def _lose(self, piece: Piece, reason: str) -> None:
        """Lose a piece; where it is of one guest, remember its series, and lose all of them."""
        self._it.lose(reason, [piece])
        if len(_guests(piece)) == 1:
            keys = {key: None for batch in piece.batches for key in keys_of(batch)}
            for key in keys:
                self._poison.add(key)
            self.found += keys
            self._rest, same = self._it.apart(self._rest, keys)
            self._it.lose_shares("poison", same)


def _guests(piece: Piece) -> set[str | None]:
    return {
        reading.domain.uuid if reading.domain else None
        for batch in piece.batches
        for reading in batch.readings
    }

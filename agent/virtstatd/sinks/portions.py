"""Batches in requests of a size that the destination takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from virtstatd.errors import Rejected
from virtstatd.model import Batch


T = TypeVar("T")


class TooLarge(Rejected):
    """The destination takes no request of this size; it may take the halves."""


class Portions:
    """
    Cut batches into requests that the destination takes; a 413 halves them for good.

    A batch that was interrupted goes on where it was, so that one which needs more time than
    an attempt has gets through as well.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._underway: object = None
        self._done = 0
        self._rejected: Rejected | None = None

    async def send(
        self,
        batch: Batch,
        items: Sequence[tuple[int, Callable[[], T]]],
        join: Callable[[list[T]], bytes],
        post: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """
        Encode, join and post one request after the other; the same batch must make equal items.

        Each item is its number of samples, and what encodes it when its request is made. A request
        that is rejected takes none of the others with it; the last fault is raised at the end.
        TryLater is raised at once.
        """
        identity = batch.source, batch.taken_at, batch.samples, len(items)
        if self._underway != identity:
            self._underway, self._done, self._rejected = identity, 0, None
        counts = [count for count, _ in items]
        while self._done < len(items):
            start = self._done
            end, samples = self._cut(counts, start)
            body = join([encode() for _, encode in items[start:end]])
            try:
                await post(body)
            except TooLarge as fault:
                if end - start > 1:
                    self.samples = max(1, samples // 2)
                    continue
                self._rejected = fault
            except Rejected as fault:
                self._rejected = fault
            self._done = end
        rejected, self._underway, self._rejected = self._rejected, None, None
        if rejected is not None:
            raise rejected

    def _cut(self, counts: Sequence[int], start: int) -> tuple[int, int]:
        samples = counts[start]
        end = start + 1
        while end < len(counts) and samples + counts[end] <= self.samples:
            samples += counts[end]
            end += 1
        return end, samples

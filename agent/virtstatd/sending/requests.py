"""Put items into requests of a size that the destination takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from virtstatd.errors import Denied, Rejected, TooLarge


T = TypeVar("T")


class Requests:
    """
    Put items together into requests of `samples` at most; `TooLarge` halves that for good.

    A batch that was interrupted is continued where it was, so that one which needs more time than
    an attempt has gets through as well.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._underway: object = None
        self._done = 0
        self._refused = 0

    async def send(
        self,
        batch: Hashable,
        items: Sequence[tuple[int, Callable[[], T]]],
        join: Callable[[list[T]], bytes],
        post: Callable[[bytes, int], Awaitable[None]],
    ) -> None:
        """
        Encode, join and post one request after the other.

        `batch` is equal when the same items are sent again. Each item is its number of samples, and
        what encodes it when its request is made; `post` gets a request and its number of samples.
        A request that is rejected does not keep back the others: Rejected is raised at the end,
        with the sum of what was refused. TryLater and Denied are raised at once.
        """
        counts = [count for count, _ in items]
        identity = batch, len(items)
        if self._underway != identity:  # another may be half of the same batch
            self._underway, self._done, self._refused = identity, 0, 0
        last: Rejected | None = None
        while self._done < len(items):
            start = self._done
            end, samples = self._cut(counts, start)
            body = join([encode() for _, encode in items[start:end]])
            try:
                await post(body, samples)
            except Denied:
                self._underway = None
                raise
            except Rejected as fault:
                if isinstance(fault, TooLarge) and end - start > 1:
                    self.samples = max(1, samples // 2)
                    continue
                self._refused += samples if fault.samples is None else fault.samples
                last = fault
            self._done = end
        refused, self._underway = self._refused, None
        if refused or last:
            reason = str(last) if last else "a part was refused before"
            raise Rejected(reason, refused if refused < sum(counts) else None) from last

    def _cut(self, counts: Sequence[int], start: int) -> tuple[int, int]:
        samples = counts[start]
        end = start + 1
        while end < len(counts) and samples + counts[end] <= self.samples:
            samples += counts[end]
            end += 1
        return end, samples

"""What is sent at once: batches in requests, and lines in pieces, of a size that is taken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from virtstatd.errors import Denied, Rejected, TooLarge
from virtstatd.model import Batch


T = TypeVar("T")
Item = tuple[int, Callable[[], T]]
"""A number of samples, and what encodes them."""


class Portions:
    """
    Cut batches into requests that the destination takes; `TooLarge` halves them for good.

    A batch that was interrupted goes on where it was, so that one which needs more time than
    an attempt has gets through as well.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._underway: object = None
        self._done = 0
        self._refused = 0

    async def send(
        self,
        batch: Batch,
        items: Sequence[Item[T]],
        join: Callable[[list[T]], bytes],
        post: Callable[[bytes, int], Awaitable[None]],
    ) -> None:
        """
        Encode, join and post one request after the other; the same batch must make equal items.

        Each item is its number of samples, and what encodes it when its request is made; `post` is
        told how many there are in a request. One that is rejected takes none of the others with
        it: Rejected is raised at the end, with the sum of what was refused. TryLater and Denied
        are raised at once.
        """
        counts = [count for count, _ in items]
        readings = [(each.domain and each.domain.uuid, id(each.shape)) for each in batch.readings]
        identity = batch.source, batch.taken_at, len(items), hash(tuple(readings))
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


def packed(texts: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Join texts up to a size; one that is longer than the limit goes alone."""
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        if size and size + len(text) > limit:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
        waiting.append(text)
        size += len(text)
    if size:
        yield b"".join(waiting)

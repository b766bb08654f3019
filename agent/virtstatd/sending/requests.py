"""One request of several batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from virtstatd.errors import Denied, Rejected


B = TypeVar("B")
T = TypeVar("T")


async def post_together(
    batches: Sequence[B],
    items: Callable[[B], list[tuple[int, Callable[[], T]]]],
    join: Callable[[list[T]], bytes],
    post: Callable[[bytes, int], Awaitable[None]],
    settle: Callable[[B], None],
) -> None:
    """
    Encode, join and post the items of all batches; settle those that will not be sent again.

    Each item is its number of samples and what encodes it; `post` gets the request and its number
    of samples.
    """
    every = [item for batch in batches for item in items(batch)]
    try:
        if every:
            await post(join([encode() for _, encode in every]), sum(count for count, _ in every))
    except Rejected as error:
        if not (error.atomic or isinstance(error, Denied)):
            for batch in batches:
                settle(batch)
        raise
    for batch in batches:
        settle(batch)

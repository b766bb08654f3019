"""The queue in front of a sink."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Buffer, Tally
from virtstatd.testing import make_batch


def batch(domains: int) -> Batch:
    """Return a batch of some size."""
    return make_batch(domains=domains)


async def took(buffer: Buffer) -> Batch:
    """Return the oldest."""
    taken = await buffer.take()
    assert taken is not None
    return taken


async def everything(buffer: Buffer) -> list[Batch]:
    """Take until the end."""
    taken = []
    while (one := await buffer.take()) is not None:
        taken.append(one)
        await buffer.settle(one)
    return taken


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 40))
def test_the_newest_survive_and_the_rest_is_counted(sizes: list[int], tenths: int):
    """Whatever is offered, the buffer holds the newest that fit and has counted the others."""
    batches = [batch(size) for size in sizes]
    capacity = tenths * batch(5).bytes // 10
    buffer = Buffer(capacity)
    for each in batches:
        buffer.offer(each)

    left = []
    loop = asyncio.new_event_loop()
    buffer.close()

    async def drain() -> None:
        left.extend(await everything(buffer))

    waiting, forgotten = buffer.waiting, buffer.dropped["memory"]
    loop.run_until_complete(drain())
    loop.close()
    assert left == batches[len(batches) - len(left) :]
    assert sum(each.bytes for each in left) <= capacity or len(left) == 1
    assert left or not batches
    assert forgotten.batches == len(batches) - len(left) == len(batches) - waiting.batches
    assert forgotten.samples == sum(b.samples for b in batches[: forgotten.batches])
    assert forgotten.bytes == sum(b.bytes for b in batches[: forgotten.batches])
    assert buffer.bytes == 0


async def test_a_reader_waits_for_a_batch_and_ends_with_the_stream():
    """A reader of an empty buffer wakes for a batch and ends after close."""
    buffer = Buffer(1 << 20)
    one = batch(1)
    asyncio.get_running_loop().call_soon(buffer.offer, one)
    asyncio.get_running_loop().call_later(0.01, buffer.close)

    assert await everything(buffer) == [one]


async def test_what_is_lost_at_the_end_is_returned():
    """What waits at the end, and what was taken and not settled, is counted like all else."""
    buffer = Buffer(1 << 30)
    for size in range(4):
        buffer.offer(batch(size))
    await buffer.settle(await took(buffer))
    await took(buffer)

    lost = await buffer.finish()
    assert lost == Tally(3, sum(batch(n).samples for n in (1, 2, 3)), lost.bytes)
    assert buffer.waiting == Tally()

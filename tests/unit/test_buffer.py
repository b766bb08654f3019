"""The queue in front of a sink."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Buffer
from virtstatd.testing import make_batch


def batch(domains: int) -> Batch:
    """Return a batch of some size."""
    return make_batch(domains=domains)


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
        left.extend([each async for each in buffer])

    waiting = buffer.waiting
    loop.run_until_complete(drain())
    loop.close()
    assert left == batches[len(batches) - len(left) :]
    assert sum(each.bytes for each in left) <= capacity or len(left) == 1
    assert left or not batches
    assert buffer.dropped.batches == len(batches) - len(left) == len(batches) - waiting.batches
    assert buffer.dropped.samples == sum(b.samples for b in batches[: buffer.dropped.batches])
    assert buffer.bytes == 0


async def test_a_reader_waits_for_a_batch_and_ends_with_the_stream():
    """A reader of an empty buffer wakes for a batch and ends after close."""
    buffer = Buffer(1 << 20)
    one = batch(1)
    asyncio.get_running_loop().call_soon(buffer.offer, one)
    asyncio.get_running_loop().call_later(0.01, buffer.close)

    assert [each async for each in buffer] == [one]


def test_discard_says_what_it_took():
    """What is thrown away at the end is counted like everything else."""
    buffer = Buffer(1 << 30)
    for _ in range(3):
        buffer.offer(batch(2))

    assert buffer.discard().batches == 3
    assert (buffer.waiting.batches, buffer.bytes) == (0, 0)

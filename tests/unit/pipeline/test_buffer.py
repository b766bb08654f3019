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


async def everything(buffer: Buffer) -> list[Batch]:
    """Take until the end."""
    taken = []
    while train := await buffer.take():
        taken += train
        await buffer.settle(len(train))
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
    await buffer.settle(len(await buffer.take()))
    taken = await buffer.take()

    lost = await buffer.finish()
    assert list(lost.taken) == taken
    assert [each.samples for each in taken] == [batch(1).samples]
    assert lost.waiting == Tally(2, batch(2).samples + batch(3).samples, lost.waiting.bytes)
    assert buffer.waiting == Tally()


async def test_a_train_is_as_much_as_waits_and_fits():
    """A train has the oldest batches up to a size; one that is larger by itself goes alone."""
    buffer = Buffer(1 << 30)
    for size in (3, 1, 1, 5, 1):
        buffer.offer(batch(size))
    unit = batch(1).samples
    trains = [await buffer.take(4 * unit) for _ in range(3)]
    assert [[each.samples // unit for each in train] for train in trains] == [[3, 1], [1], [5]]
    await buffer.settle(4)
    assert buffer.waiting.batches == 1


async def test_only_the_first_of_a_train_is_lingered_for():
    """What comes to an idle sink waits for more; what waits already does not."""
    buffer = Buffer(1 << 30)
    lingered = 0

    async def linger() -> None:
        nonlocal lingered
        lingered += 1
        buffer.offer(batch(2))

    buffer.offer(batch(1))
    assert len(await buffer.take(1 << 20, linger)) == 1
    asyncio.get_running_loop().call_soon(buffer.offer, batch(1))
    assert len(await buffer.take(1 << 20, linger)) == 2
    assert lingered == 1

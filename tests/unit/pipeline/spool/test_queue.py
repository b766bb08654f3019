"""A queue on disk and in memory."""

import asyncio
import errno
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.spool import SIZE, Moody, numbered, queued
from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.spool.backlog import backlogs
from virtstatd.pipeline.spool.queue import RETRY_SECONDS


async def test_what_is_delivered_at_once_leaves_the_disk_empty(tmp_path: Path):
    """While the sender keeps up it gets each batch in turn, and nothing is left on the disk."""
    async with queued(tmp_path / "s") as one:
        for number in range(50):
            one.offer()
            assert await one.deliver() == number
            assert one.queue.bytes == 0
        assert one.queue.recovered == Tally()
    assert os.listdir(tmp_path / "s") == ["checkpoint"]


async def test_a_backlog_is_taken_in_trains(tmp_path: Path):
    """What is on disk comes back in trains of a size, in order, and settles in parts."""
    async with queued(tmp_path / "s") as one:
        for _ in range(10):
            one.offer()
        await one.written()
        each = numbered(0).samples
        for count in (4, 1, 3):
            train = await one.queue.take(count * each)
            assert len(train) == count
            one.taken += train
            one.check()
        assert [batch.taken_at for batch in one.taken] == list(range(8))
        await one.queue.settle(5)
        for batch in one.taken[:5]:
            one.delivered.add(batch)
        del one.taken[:5]
    async with queued(tmp_path / "s") as two:
        assert [await two.deliver() for _ in range(5)] == [5, 6, 7, 8, 9]


async def test_a_backlog_leaves_memory_and_comes_back_in_order(tmp_path: Path):
    """Memory holds what it may, the disk the rest, and all of it is delivered once."""
    async with queued(tmp_path / "s", memory=5 * SIZE) as one:
        for _ in range(100):
            one.offer()
            await one.written()
            assert one.queue.bytes <= 5 * SIZE
        assert one.queue.kept.batches == 100
        assert one.queue.disk_bytes > 0
        for _ in range(50):
            await one.deliver()
        for _ in range(20):
            one.offer()
            await one.written()
        for _ in range(70):
            await one.deliver()
    assert one.times == list(range(120))
    assert one.queue.dropped == {"memory": Tally(), "disk": Tally(), "damaged": Tally()}


async def test_the_next_process_goes_on(tmp_path: Path):
    """What was not delivered is there after the end, the batch underway too, before what is new."""
    async with queued(tmp_path / "s", memory=3 * SIZE) as one:
        for _ in range(10):
            one.offer()
            await one.written()
        for _ in range(4):
            await one.deliver()
        one.taken = await one.queue.take()
    assert one.queue.waiting.batches == 5
    async with queued(tmp_path / "s") as two:
        two.offered = 10
        two.offer()
        for _ in range(7):
            await two.deliver()
        assert two.queue.recovered.batches == 6
    assert one.times + two.times == list(range(11))


@pytest.mark.parametrize("seed", range(6))
async def test_the_books_agree_at_every_moment(tmp_path: Path, seed: int):
    """Whatever fails and comes back, everything accepted is delivered, dropped or waiting."""
    chance = random.Random(seed)
    files = Moody()
    offered, times = 0, []
    for _ in range(3):
        memory = chance.randrange(1, 12) * SIZE
        async with queued(tmp_path / "s", files, memory=memory, disk=48 * 1024, lost=None) as one:
            one.offered = offered
            for _ in range(120):
                match chance.randrange(12):
                    case 0:
                        files.failing = tuple(
                            chance.sample(["write", "create", "open", "sync", "space", "read"], 2)
                        )
                        files.error = chance.choice((errno.ENOSPC, errno.EIO, errno.EROFS))
                    case 1 | 2:
                        files.error = None
                        one.clock.now += RETRY_SECONDS
                    case 3 | 4 | 5:
                        if one.queue.waiting.batches and not (files.error or one.queue.failing):
                            await one.deliver()
                    case 6:
                        await asyncio.sleep(chance.choice((0, 0.001, 0.03)))
                        one.check()
                    case _:
                        one.offer(chance.randrange(1, 5))
            files.error = None
            await one.until(lambda: one.idle)
            one.clock.now += RETRY_SECONDS
            one.offer()
            await one.until(lambda: not one.queue.failing)
            offered = one.offered
        times.append(one.times)
    for run in times:
        assert run == sorted(set(run))


async def test_a_full_disk_is_a_queue_in_memory_for_half_a_minute(tmp_path: Path):
    """A disk without room costs nothing that fits into memory, and is tried again by itself."""
    files = Moody()
    async with queued(tmp_path / "s", files, memory=6 * SIZE) as one:
        for _ in range(10):
            one.offer()
            await one.written()
        files.error = errno.ENOSPC
        with capture_logs() as logs:
            one.offer()
            await one.until(lambda: one.queue.failing)
            for _ in range(20):
                one.offer()
            assert files.errors == 1
            assert one.queue.kept.batches == 10
            assert one.queue.dropped["memory"].batches == 15
            one.clock.now += RETRY_SECONDS
            one.offer()
            await one.until(lambda: files.errors > 1 and one.idle)
            files.error = None
            one.clock.now += RETRY_SECONDS - 1
            one.offer()
            assert one.queue.failing
            one.clock.now += 1
            one.offer()
            await one.until(lambda: not one.queue.failing)
            await one.written()
        for _ in range(16):
            await one.deliver()
    assert one.times == [*range(10), *range(28, 34)]
    assert [line["event"] for line in logs] == ["spool.failed", "spool.regained"]


async def test_what_is_on_a_full_disk_is_delivered(tmp_path: Path):
    """A disk that takes nothing more still gives what it has, and gets its room back."""
    files = Moody()
    async with queued(tmp_path / "s", files, memory=SIZE) as one:
        for _ in range(10):
            one.offer()
            await one.written()
        files.failing, files.error = ("create",), errno.ENOSPC
        for number in range(10):
            assert await one.deliver() == number
        files.error = None


async def test_what_is_settled_while_the_disk_fails_is_recorded_later(tmp_path: Path):
    """A process that is killed after the disk works again leaves nothing to deliver twice."""
    files = Moody()
    async with queued(tmp_path / "s", files) as one:
        for _ in range(4):
            one.offer()
            await one.written()
        one.taken = await one.queue.take()
        files.failing, files.error = ("write", "open"), errno.ENOSPC
        one.offer()
        await one.until(lambda: one.queue.failing)
        one.clock.now += RETRY_SECONDS
        await one.queue.settle(1)
        one.delivered.add(one.taken.pop())
        files.error = None
        one.clock.now += RETRY_SECONDS
        one.offer()
        await one.written()
        [found] = backlogs(tmp_path)
        assert found.waiting == one.queue.waiting
        assert found.waiting.batches == 5


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EIO, errno.ENOSPC])
async def test_an_unusable_directory_is_no_reason_not_to_start(tmp_path: Path, error: int):
    """Without a disk there is a queue in memory, an alarm, and the disk as soon as it is there."""
    files = Moody()
    files.error = error
    with capture_logs() as logs:
        async with queued(tmp_path / "s", files, memory=3 * SIZE) as one:
            for _ in range(5):
                one.offer()
            await one.until(lambda: one.queue.failing)
            assert await one.deliver() == 2  # the two before it did not fit into memory
            files.error = None
            one.clock.now += RETRY_SECONDS
            one.offer()
            await one.written()
            assert not one.queue.failing
    assert [line["event"] for line in logs] == ["spool.failed", "spool.regained"]
    async with queued(tmp_path / "s") as two:
        assert [await two.deliver() for _ in range(3)] == [3, 4, 5]


async def test_two_agents_never_share_a_directory(tmp_path: Path):
    """The second says so and works in memory; what the first has stays the first one's."""
    async with queued(tmp_path / "s") as one:
        one.offer()
        await one.written()
        with capture_logs() as logs:
            async with queued(tmp_path / "s", lost=1) as two:
                two.offered = 100
                two.offer()
                assert await two.deliver() == 100
                two.offer()
        assert "another agent uses this spool" in logs[0]["reason"]
        assert await one.deliver() == 0


async def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path):
    """While a call to the disk never returns, what it does not have yet goes on in memory."""
    files = Moody()
    try:
        async with queued(tmp_path / "s", files, hung_seconds=0.05, lost=None) as one:
            one.offer()
            await one.quiet()
            files.running.clear()
            for _ in range(5):
                one.offer()
            await one.until(files.reached.is_set)
            assert [await one.deliver() for _ in range(3)] == [2, 3, 4]
            assert one.queue.failing
            for _ in range(5):
                one.offer()
                await one.deliver()
            assert one.queue._thread._worker._calls.empty()  # or what it has would wait for ever
            one.offer()
    finally:
        files.running.set()
    assert one.times == list(range(2, 10))
    async with queued(tmp_path / "s") as two:
        assert [await two.deliver() for _ in range(2)] == [0, 1]


async def test_what_is_new_passes_what_hangs(tmp_path: Path):
    """While a backlog cannot be read, what is new is delivered; it follows when it can be."""
    files = Moody()
    async with queued(tmp_path / "s", files, memory=2 * SIZE, hung_seconds=0.05) as one:
        for _ in range(4):
            one.offer()
            await one.quiet()
        files.running.clear()
        for _ in range(2):
            one.offer()
            await one.until(files.reached.is_set)
        assert await one.deliver() == 5  # what is underway to the disk cannot be called back
        files.running.set()
        while len(one.times) < 6:
            await one.deliver()
    assert sorted(one.times) == list(range(6))


async def test_a_disk_that_hangs_at_the_start_is_waited_for_in_vain(tmp_path: Path):
    """The queue works in memory until the disk answers, and then has what was on it."""
    async with queued(tmp_path / "s") as one:
        one.offer()
        await one.written()
    files = Moody()
    files.running.clear()
    async with queued(tmp_path / "s", files, hung_seconds=0.05) as two:
        two.offered = 1
        two.offer()
        assert await two.deliver() == 1
        files.running.set()
        two.offer()
        assert {await two.deliver(), await two.deliver()} == {0, 2}
        assert two.queue.recovered.batches == 1


async def test_a_removed_directory_is_noticed_and_made_again(tmp_path: Path):
    """Files that were removed are missed within the sync interval."""
    async with queued(tmp_path / "s") as one:
        for _ in range(3):
            one.offer()
        await one.written()
        for each in (tmp_path / "s").iterdir():
            each.unlink()
        (tmp_path / "s").rmdir()
        one.offer()
        await one.until(lambda: one.queue.failing)
        one.clock.now += RETRY_SECONDS
        one.offer()
        await one.until(lambda: not one.queue.failing)
        one.offer()
        assert [await one.deliver() for _ in range(2)] == [3, 4]
        assert one.queue.dropped["damaged"].batches == 3
        assert (tmp_path / "s" / "checkpoint").exists()


async def test_what_fails_meanwhile_postpones_no_retry(tmp_path: Path):
    """While a full disk is left alone, deliveries that it cannot record do not prolong that."""
    files = Moody()
    async with queued(tmp_path / "s", files) as one:
        for _ in range(3):
            one.offer()
        await one.quiet()
        files.error, files.failing = errno.ENOSPC, ("write", "create")
        one.offer()
        await one.until(lambda: one.queue.failing)
        for _ in range(3):
            one.clock.now += RETRY_SECONDS / 4
            errors = files.errors
            await one.deliver()
        assert files.errors > errors
        files.error = None
        one.clock.now += RETRY_SECONDS / 4
        one.offer()
        await one.until(lambda: not one.queue.failing)


async def test_what_the_disk_forgets_is_counted(tmp_path: Path):
    """When the disk is full of what waits, its oldest is dropped and counted, and nothing else."""
    async with queued(tmp_path / "s", memory=4 * SIZE, disk=32 * 1024) as one:
        for _ in range(120):
            one.offer()
            await one.written()
        assert one.queue.disk_bytes <= 32 * 1024
        dropped = one.queue.dropped["disk"].batches
        assert 0 < dropped < 120
        while one.queue.waiting.batches:
            await one.deliver()
    assert one.times == list(range(dropped, 120))
    assert one.queue.dropped["memory"] == Tally()
    assert (one.queue.recovered, one.queue.dropped["damaged"]) == (Tally(), Tally())


async def test_a_batch_larger_than_the_disk_may_be_is_sent_from_memory(tmp_path: Path):
    """One batch that does not fit costs its neighbours nothing."""
    with capture_logs() as logs:
        async with queued(tmp_path / "s", disk=20_000) as one:
            for domains in (3, 400, 3):
                one.offer(domains)
            await one.until(lambda: logs)
            assert [await one.deliver() for _ in range(3)] == [0, 1, 2]
    assert [line["event"] for line in logs] == ["spool.refused"]


async def test_a_batch_that_cannot_be_written_costs_no_other(tmp_path: Path):
    """Whatever is wrong with a batch, it is the sink's to refuse it."""
    async with queued(tmp_path / "s") as one:
        one.offer()
        odd = replace(numbered(1), taken_at="never")  # type: ignore[arg-type]
        odd = replace(odd, source=None)  # type: ignore[arg-type]
        one.accepted.add(odd)
        one.offered += 1
        one.queue.offer(odd)
        one.offer()
        assert [await one.deliver() for _ in range(3)] == [0, "never", 2]
    assert not one.queue.failing


async def test_damage_is_counted_and_passed(tmp_path: Path):
    """What cannot be read any more is dropped as damaged, everything else is delivered."""
    async with queued(tmp_path / "s") as one:
        for _ in range(10):
            one.offer()
            await one.written()
    (segment,) = (tmp_path / "s").glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    async with queued(tmp_path / "s") as two:
        while not two.times or two.queue.waiting.batches:
            await two.deliver()
        assert two.queue.recovered.batches == 10
        assert two.queue.dropped["damaged"].batches == 1
        assert len(two.times) == 9
    assert [path.name for path in (tmp_path / "s").glob("*.corrupt")]


async def test_the_end_of_an_empty_queue(tmp_path: Path):
    """Closed and empty is the end; closed with a backlog is not."""
    async with queued(tmp_path / "s") as one:
        one.offer()
        one.queue.close()
        assert await one.deliver() == 0
        assert await one.deliver() is None


async def test_a_taker_may_be_cancelled(tmp_path: Path):
    """A wait that was cut off loses nothing."""
    files = Moody()
    async with queued(tmp_path / "s", files, memory=SIZE) as one:
        for _ in range(5):
            one.offer()
            await one.written()
        for _ in range(3):
            files.running.clear()
            waiting = asyncio.create_task(one.queue.take())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.cancelled()
            files.running.set()
        assert [await one.deliver() for _ in range(5)] == list(range(5))


async def test_files_are_for_the_agent_alone(tmp_path: Path):
    """Nobody else may look into the directory or its files."""
    async with queued(tmp_path / "s") as one:
        one.offer()
        await one.written()
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "s").iterdir()} == {0o600}

"""The runner in front of a sink."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from support.outlets import draining
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Buffer, Tally
from virtstatd.pipeline.one_source import OneSource
from virtstatd.pipeline.outlet import Outlet
from virtstatd.sink import Rejected, TryLater
from virtstatd.testing import make_batch
from virtstatd.testing.batches import TAKEN_AT


LOG = structlog.get_logger()


def outlet(
    send: Callable[[Batch], Awaitable[None]], buffer_bytes: int = 1 << 20, **options: Any
) -> Outlet:
    """Return an outlet."""
    chosen = {"attempt_seconds": 60.0, "max_age_seconds": 60.0} | options
    clock = asyncio.get_running_loop().time
    queue = Buffer(buffer_bytes)
    return Outlet("test", send, LOG, clock, queue, wall=lambda: TAKEN_AT, **chosen)


def conserved(one: Outlet) -> bool:
    """Tell whether every accepted batch and sample is accounted for at this moment."""
    away = sum([*one.dropped.values(), *one.lost.values()], Tally())
    return one.accepted == one.delivered + away + one.waiting


@pytest.mark.parametrize("seed", range(20))
async def test_everything_accepted_is_accounted_for_at_every_moment(seed: int):
    """Accepted = delivered + dropped + lost + waiting holds between any two steps of the loop."""
    chance = random.Random(seed)

    async def send(_: Batch) -> None:
        for _turn in range(chance.randrange(4)):
            await asyncio.sleep(0)
        match chance.randrange(6):
            case 0:
                raise TryLater("later", 0.0)
            case 1:
                raise Rejected("never")
            case 2:
                raise KeyError("bug")
            case 3 if chance.random() < 0.2:
                await asyncio.sleep(3600)

    one = outlet(send, buffer_bytes=make_batch().bytes * 5, attempt_seconds=0.01)
    async with draining([one], 0.2) as emit:
        for _ in range(120):
            emit(make_batch(domains=chance.randrange(4)))
            assert conserved(one)
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
                assert conserved(one)

    assert conserved(one)
    assert one.waiting.batches == 0
    assert one.accepted.batches == 120
    assert one.delivered.batches > 0
    assert sum(tally.batches for tally in one.lost.values()) > 0


async def test_a_slow_sink_loses_only_its_own_oldest():
    """A sink that never answers costs its neighbour nothing."""
    got: list[Batch] = []

    async def ok(batch: Batch) -> None:
        got.append(batch)

    async def stuck(_: Batch) -> None:
        await asyncio.Event().wait()

    outlets = [outlet(ok), outlet(stuck, buffer_bytes=make_batch().bytes * 2, attempt_seconds=60)]
    batches = [make_batch() for _ in range(10)]
    async with draining(outlets, 0.05) as emit:
        for each in batches:
            emit(each)
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while len(got) < len(batches):
                await asyncio.sleep(0)
        assert got == batches
    assert outlets[1].dropped["memory"].batches == 7
    assert outlets[1].lost["shutdown"].batches == 3


async def test_the_same_batch_is_tried_again_and_order_is_kept():
    """What the destination could not take is sent again before anything newer."""
    seen: list[Batch] = []

    async def flaky(batch: Batch) -> None:
        seen.append(batch)
        if len(seen) < 3:
            raise TryLater("away", 0.0)

    one = outlet(flaky)
    first, second = make_batch(), make_batch()
    async with draining([one], 100.0) as emit:
        emit(first)
        emit(second)
        while one.delivered.batches < 2:
            await asyncio.sleep(0)
    assert seen == [first, first, first, second]
    assert one.attempts["later"] == 2


async def test_while_draining_nothing_is_tried_twice():
    """An outlet that drains gives each batch one more attempt, so the end is near."""
    tries = 0

    async def away(_: Batch) -> None:
        nonlocal tries
        tries += 1
        raise TryLater("away", 3600.0)

    one = outlet(away, max_age_seconds=1e6)
    async with draining([one], 100.0) as emit:
        for _ in range(4):
            emit(make_batch())
        while not one.failing:
            await asyncio.sleep(0)
    assert one.lost["shutdown"].batches == 4
    assert tries == 5  # the first was waiting for its second


async def test_a_batch_that_grew_too_old_is_given_up():
    """Past its age a batch makes room for newer ones, and is counted as expired."""

    async def away(_: Batch) -> None:
        raise TryLater("away", 200.0)

    one = outlet(away, max_age_seconds=100.0)
    async with draining([one], 0.1) as emit:
        emit(make_batch())
        while not one.lost["expired"].batches:
            await asyncio.sleep(0)
    assert conserved(one)


async def test_a_sink_that_cancels_itself_is_contained():
    """A CancelledError that nobody asked for is a fault of the sink like any other."""

    async def odd(_: Batch) -> None:
        raise asyncio.CancelledError

    one = outlet(odd)
    async with draining([one], 100.0) as emit:
        emit(make_batch())
        emit(make_batch())
        while one.lost["error"].batches < 2:
            await asyncio.sleep(0)
    assert one.attempts["error"] == 2


async def test_an_empty_batch_ends_no_trouble():
    """A sink that has nothing to send says nothing about a destination that is away."""

    async def send(batch: Batch) -> None:
        if batch.readings:
            raise Rejected("no")

    one = outlet(send)
    with capture_logs() as logs:
        async with draining([one], 100.0) as emit:
            for domains in (1, 0, 1):
                emit(make_batch(domains=domains))
    assert [each["event"] for each in logs] == ["sink.failing"]


async def test_trouble_is_logged_once_and_its_end_once():
    """A sink that fails for an hour writes one line, and one when it is well again."""
    count = 0

    async def flaky(_: Batch) -> None:
        nonlocal count
        count += 1
        if count <= 50:
            raise Rejected("no")

    one = outlet(flaky)
    with capture_logs() as logs:
        async with draining([one], 100.0) as emit:
            for _ in range(60):
                emit(make_batch())
    assert [each["event"] for each in logs] == ["sink.failing", "sink.recovered"]


async def test_a_batch_that_is_refused_in_part():
    """What the destination refused of a batch is lost, the rest delivered, and never retried."""
    refusals = [7, 0, 10**9, -1]
    sent: list[Batch] = []

    async def picky(batch: Batch) -> None:
        sent.append(batch)
        raise Rejected("some", refusals.pop(0))

    one = outlet(picky)
    async with draining([one], 100.0) as emit:
        batches = [make_batch() for _ in refusals]
        for batch in batches:
            emit(batch)
    assert sent == batches
    assert conserved(one)
    assert one.delivered.batches == 4
    assert one.lost["rejected"].batches == 0
    assert one.lost["rejected"].samples == 7 + batches[0].samples


async def test_fanout_never_waits():
    """Offering to any number of outlets takes no turn of the loop."""

    async def stuck(_: Batch) -> None:
        await asyncio.Event().wait()

    outlets = [outlet(stuck) for _ in range(5)]
    turned = False

    def turn() -> None:
        nonlocal turned
        turned = True

    asyncio.get_running_loop().call_soon(turn)
    for _ in range(100):
        OneSource([each.offer for each in outlets], structlog.get_logger())(make_batch())
    assert not turned
    assert all(each.accepted.batches == 100 for each in outlets)

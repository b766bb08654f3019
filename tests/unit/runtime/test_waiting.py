"""Waiting with a bound."""

import asyncio

import pytest

from virtstatd.runtime.waiting import beat_after, until_stopped


@pytest.mark.parametrize(
    ("now", "expected"),
    [(10.0, 12.0), (10.001, 12.0), (11.7, 12.0), (11.9995, 14.0), (12.0004, 14.0)],
)
def test_beats_fall_together_and_none_is_taken_twice(now: float, expected: float):
    """Looks meet at the multiples of their periods; a timer that came early is not set again."""
    assert beat_after(now, 2.0) == expected


async def test_what_ends_by_itself_is_not_cancelled():
    """It has its turn after `stop`, as long as it needs little."""
    stop, done = asyncio.Event(), []

    async def run() -> None:
        await stop.wait()
        await asyncio.sleep(0)
        done.append("ended")

    stop.set()
    await until_stopped(run(), stop)
    assert done == ["ended"]


async def test_what_hangs_after_the_stop_is_cancelled():
    """A call that libvirt does not answer keeps nobody from ending."""
    stop, done = asyncio.Event(), []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append("cancelled")

    stop.set()
    async with asyncio.timeout(100):
        await until_stopped(run(), stop)
    assert done == ["cancelled"]


async def test_a_fault_is_raised():
    """What fails before the stop is not kept back until then."""
    stop = asyncio.Event()

    async def run() -> None:
        raise ValueError("wrong")

    async with asyncio.timeout(100):
        with pytest.raises(ValueError, match="wrong"):
            await until_stopped(run(), stop)


async def test_whoever_is_cancelled_cancels_what_it_waits_for():
    """Nothing runs on when the agent falls."""
    running, done = asyncio.Event(), []

    async def run() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            done.append("cancelled")

    task = asyncio.create_task(until_stopped(run(), asyncio.Event()))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert done == ["cancelled"]

"""How late the loop is, as the agent itself sees it."""

import asyncio
import time

import uvloop

from virtstatd.model import Batch
from virtstatd.runtime.loop_lag import LoopLag


BATCH = Batch("bulk", 0, ())


async def lags() -> tuple[float, float]:
    """Hold up the loop for a while between two regular looks; return what is seen, and later."""
    lag, stop = LoopLag(), asyncio.Event()
    running = asyncio.create_task(lag.run(stop))
    emit = lag.measuring(lambda _: None)
    await asyncio.sleep(0.01)
    emit(BATCH)
    time.sleep(0.05)  # noqa: ASYNC251 - what the test is about
    await asyncio.sleep(0.01)
    seen = lag.take(), lag.take()
    stop.set()
    await running
    emit(BATCH)  # nobody looks any more
    return seen


def test_what_is_done_while_a_batch_is_passed_on_is_measured():
    """It need not wait for a regular look to fall into it, and is told once."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        first, second = runner.run(lags())

    assert first > 0.04
    assert second == 0.0

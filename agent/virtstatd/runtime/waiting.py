"""Waiting for the first of several events, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress


STOP_SECONDS = 1.0
"""Time for running calls to finish when the agent stops."""


EARLY = 0.9
"""From this fraction of an interval on, a wake-up counts as the next: timers can be early."""


async def first_of(*events: asyncio.Event, seconds: float) -> None:
    """Return when one of the events is set, or after `seconds`."""
    if len(events) == 1:  # without a task, which costs more than the wait itself
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await events[0].wait()
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def next_beat(stop: asyncio.Event, seconds: float) -> None:
    """
    Return at the next multiple of `seconds` on the loop's clock, or when `stop` is set.

    All periodic checks share the same wake-ups, because the wake-up is what costs.
    """
    now = asyncio.get_running_loop().time()
    await first_of(stop, seconds=beat_after(now, seconds) - now)


def beat_after(now: float, seconds: float) -> float:
    """Return the next multiple of `seconds`, skipping one for which a timer fired early."""
    return (now // seconds + (1 if now % seconds < EARLY * seconds else 2)) * seconds


async def until_stopped(running: Coroutine[None, None, None], stop: asyncio.Event) -> None:
    """Await work that ends after `stop` is set; cancel it if a call to libvirt delays that."""
    task = asyncio.ensure_future(running)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({task}, timeout=STOP_SECONDS)
    finally:
        stopped.cancel()
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task

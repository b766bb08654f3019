"""Waiting for the first of several events, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress


STOP_SECONDS = 1.0
"""What calls under way get to finish when the agent stops."""


EARLY = 0.9
"""From this part of a beat on a look is taken for the next one's: timers count milliseconds."""


async def first_of(*events: asyncio.Event, seconds: float) -> None:
    """Return when one of the events is set, or after `seconds`."""
    if len(events) == 1:  # no task, which costs more than the wait itself
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

    Whoever looks at something now and then does it with all others: what costs is the wake-up.
    """
    now = asyncio.get_running_loop().time()
    await first_of(stop, seconds=beat_after(now, seconds) - now)


def beat_after(now: float, seconds: float) -> float:
    """Return the next multiple of `seconds`; one that is near is the one a timer came early for."""
    return (now // seconds + (1 if now % seconds < EARLY * seconds else 2)) * seconds


async def until_stopped(running: Coroutine[None, None, None], stop: asyncio.Event) -> None:
    """Await what ends by itself when `stop` is set; cancel it where libvirt keeps it from that."""
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

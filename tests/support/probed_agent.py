"""
An agent that logs the longest turn of its loop, in CPU time of the loop's thread.

Run as `python -m support.probed_agent run --config FILE`. Every 2 ms the loop runs a probe, which
adds its own cost; a turn is at most what the thread used between two of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from virtstatd.__main__ import start
from virtstatd.runtime.loop_lag import LoopLag


PROBE_SECONDS = 0.002
REPORT_SECONDS = 5.0


async def probed(self: LoopLag, stop: asyncio.Event) -> None:
    """Measure as the agent does, and probe beside it."""
    probing = asyncio.create_task(_probe())
    try:
        await measured(self, stop)
    finally:
        probing.cancel()


async def _probe() -> None:
    longest, before = 0.0, time.thread_time()
    report = time.monotonic() + REPORT_SECONDS
    while True:
        await asyncio.sleep(PROBE_SECONDS)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
        if time.monotonic() >= report:
            sys.stderr.write(json.dumps({"event": "probe", "seconds": longest}) + "\n")
            sys.stderr.flush()
            longest, report = 0.0, time.monotonic() + REPORT_SECONDS
            before = time.thread_time()


measured = LoopLag.run


if __name__ == "__main__":
    LoopLag.run = probed  # type: ignore[method-assign]
    start()

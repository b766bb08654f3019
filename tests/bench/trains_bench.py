"""
What an outlet carries: `PYTHONPATH=agent:tests python tests/bench/trains_bench.py [SECONDS]`.

The load is that of 2,000 guests: 30 batches a second of 25 guests and 725 samples. A destination
answers each request after a while. Printed are the requests a second, how old what arrived was, and
what was dropped.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from virtstatd.pipeline.buffer import Buffer
from virtstatd.pipeline.outlet import Outlet
from virtstatd.service.sending import contained, draining
from virtstatd.sink import Opening
from virtstatd.sinks.influx import Influx
from virtstatd.sinks.otlp import Otlp
from virtstatd.sinks.remote_write import RemoteWrite
from virtstatd.testing import make_batch, make_domain, make_shapes


GUESTS, SLICE = 2000, 25
BATCHES_PER_SECOND = 30
ANSWERS = (0.005, 0.05, 0.25, 1.0)
LOG = structlog.wrap_logger(structlog.testing.CapturingLogger())


@asynccontextmanager
async def answering(seconds: float) -> AsyncIterator[tuple[str, list[int]]]:
    """Run a server that answers 204 after some seconds; yield its URL and a count of requests."""
    count = [0]

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        count[0] += 1
        await asyncio.sleep(seconds)
        return web.Response(status=204)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", count
    finally:
        await runner.cleanup()


async def load(name: str, sink: Any, count: list[int], answer: float, seconds: float) -> None:
    """Send through one sink, and print what came of it."""
    shapes = make_shapes()
    slices = [
        [make_domain(number) for number in range(first, first + SLICE)]
        for first in range(0, GUESTS, SLICE)
    ]
    async with contained(sink, Opening(name, LOG)) as send:
        one = Outlet(
            name,
            send,
            LOG,
            time.monotonic,
            Buffer(16 << 20),
            attempt_seconds=10.0,
            max_age_seconds=900.0,
            trains=sink.trains,
        )
        async with draining([one], 10.0):
            begun = time.monotonic()
            number = 0
            used = time.process_time()
            while (now := time.monotonic() - begun) < seconds:
                while number < now * BATCHES_PER_SECOND:
                    guests = slices[number % len(slices)]
                    one.offer(
                        make_batch(guests, shapes=shapes, taken_at=time.time_ns(), base=number)
                    )
                    number += 1
                await asyncio.sleep(1 / BATCHES_PER_SECOND)
            used = time.process_time() - used
            requests, waiting = count[0], one.waiting.batches
        mean = one.lag_seconds / max(one.delivered.batches, 1)
    dropped = sum(each.samples for each in one.dropped.values())
    lost = sum(each.samples for each in one.lost.values())
    print(
        f"{name:12} {answer * 1e3:5.0f} ms: {one.accepted.samples / seconds:7.0f} samples/s in,"
        f" {requests / seconds:5.1f} requests/s, lag {mean:5.2f} s on average, {waiting} batches"
        f" waiting, {dropped} samples dropped, {lost} lost, CPU {used / seconds * 100:.0f} %"
    )


async def main(seconds: float) -> None:
    """Try each sink at each delay."""
    for answer in ANSWERS:
        async with answering(answer) as (url, count):
            for name, sink in (
                ("remote_write", RemoteWrite(url=f"{url}/w", protocol="1.0")),
                ("otlp", Otlp(url=f"{url}/v1/metrics")),
                ("influx", Influx(url=url)),
            ):
                count[0] = 0
                await load(name, sink, count, answer, seconds)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))

"""How fast a scrape page is rendered: `python tests/bench/exposition_bench.py [domains]`."""

from __future__ import annotations

import asyncio
import sys
import time

import structlog
import uvloop

from virtstatd.model import Batch, Reading
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages
from virtstatd.testing import FakeClock, make_batch, make_domain, make_shapes


SAMPLES_PER_GUEST = 270
ROUNDS = 10


def batch_of(domains: int) -> Batch:
    """Return guests of about 270 samples each; half of them share their shapes."""
    shared = make_shapes(vcpus=60, disks=10, nics=8)
    parts = [
        make_batch([make_domain(each)], shapes=shared if each % 2 else make_shapes(60, 10, 8))
        for each in range(domains)
    ]
    return Batch(
        "bulk",
        0,
        tuple(reading for part in parts for reading in part.readings),
        parts[0].groups,
        lifetime_seconds=1e9,
    )


def moved(batch: Batch) -> Batch:
    """Return the same readings with other numbers."""
    return Batch(
        batch.source,
        batch.taken_at,
        tuple(
            Reading(each.domain, each.shape, tuple(value + 7 for value in each.values))
            for each in batch.readings
        ),
        batch.groups,
        batch.lifetime_seconds,
    )


async def main(domains: int) -> None:
    """Print the time of each stage, the best of some rounds, and the longest stall."""
    batch = batch_of(domains)
    latest = Latest(FakeClock(), lambda: 0)
    pages = Pages(latest, structlog.get_logger())
    stalls = [0.0]

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            stalls.append(now - last - 0.001)
            last = now

    started = time.perf_counter()
    latest.put(batch)
    first = await pages.get(openmetrics=False)
    compiling = time.perf_counter() - started
    took: dict[str, list[float]] = {}
    watching = asyncio.create_task(watch(), name="watch")
    for _ in range(ROUNDS):
        batch = moved(batch)
        await asyncio.sleep(0.01)
        stalls.clear()
        started = time.perf_counter()
        latest.put(batch)
        took.setdefault("put", []).append(time.perf_counter() - started)
        started = time.process_time()
        blocks = await pages._blocks(openmetrics=False)
        took.setdefault("render (CPU)", []).append(time.process_time() - started)
        del blocks
        started = time.process_time()
        await pages._blocks(openmetrics=False)
        took.setdefault("assemble, already rendered (CPU)", []).append(
            time.process_time() - started
        )
        started = time.perf_counter()
        page = await pages.get(openmetrics=False)
        took.setdefault("assemble and compress", []).append(time.perf_counter() - started)
        started = time.perf_counter()
        sum(map(len, page.plain()))
        took.setdefault("decompress", []).append(time.perf_counter() - started)
        took.setdefault("longest stall", []).append(max(stalls, default=0.0))
    watching.cancel()
    print(f"{domains} guests, {batch.samples} samples, {first.length / 1e6:.1f} MB")
    print(f"{'first page, with compiling':36}{compiling * 1e3:8.1f} ms")
    for name, times in took.items():
        print(f"{name:36}{min(times) * 1e3:8.1f} ms")
    rate = batch.samples / min(took["render (CPU)"]) / 1e6
    print(f"{'rendered':36}{rate:8.2f} M samples/s, compressed {len(page.compressed) / 1e6:.2f} MB")


if __name__ == "__main__":
    counts = [each for each in sys.argv[1:] if each.isdigit()]  # `make bench` names a file
    count = int(counts[0]) if counts else 300
    uvloop.run(main(count))

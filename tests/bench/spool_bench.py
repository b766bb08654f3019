"""
What a spool costs: `PYTHONPATH=agent:tests python tests/bench/spool_bench.py [DIRECTORY]`.

Batches of about 8,000 samples, numbers that change, half of the guests with shapes of their own.
CPU time is the process's; the time on the disk is what a batch waits for, with each kind of sync.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.exposition_bench import batch_of, moved
from virtstatd.model import Batch
from virtstatd.pipeline.spool.codec import RecordDecoder, RecordEncoder
from virtstatd.pipeline.spool.log import Spool, Sync
from virtstatd.pipeline.spool.shapes import KnownShapes


GUESTS = 35
BATCHES = 400
BACKLOG = 256 << 20


def codec(batch: Batch) -> None:
    """Print the CPU time of encoding and decoding, by what is known already."""
    shapes = KnownShapes()
    for name, encoder in (
        ("first batch", RecordEncoder(shapes)),
        ("new segment", RecordEncoder(shapes)),
    ):
        begun = time.process_time()
        size = len(encoder.encode(batch))
        print(f"encode, {name:12} {(time.process_time() - begun) * 1e3:8.3f} ms {size:8} bytes")
    encoder.encode(batch)
    decoder = RecordDecoder(shapes)
    begun = time.process_time()
    records = [encoder.encode(batch) for _ in range(BATCHES)]
    used = (time.process_time() - begun) / BATCHES
    print(f"encode, steady       {used * 1e3:8.3f} ms {len(records[0]):8} bytes", end=" ")
    print(f"{len(records[0]) / batch.samples:.1f} bytes and {used / batch.samples * 1e9:.0f} ns")
    again = RecordEncoder(shapes)
    for _ in range(2):
        decoder.decode(again.encode(batch))
    begun = time.process_time()
    for record in records:
        decoder.decode(record)
    used = (time.process_time() - begun) / BATCHES
    print(f"decode, steady       {used * 1e3:8.3f} ms", end=" ")
    print(f"{'':14} {used / batch.samples * 1e9:.0f} ns a sample")


def disk(directory: Path, batches: list[Batch], sync: Sync) -> None:
    """Print what a batch costs that is written and settled."""
    spool = Spool(directory / sync, capacity=1 << 30, sync=sync, keep_free=(0, 0))
    spool.open()
    waits = []
    begun = time.process_time()
    for number in range(BATCHES):
        before = time.perf_counter()
        spool.append(batches[number % len(batches)])
        spool.settle(spool.end)
        waits.append(time.perf_counter() - before)
        if sync == "interval" and number % 10 == 0:
            spool.flush()
    used = (time.process_time() - begun) / BATCHES
    spool.finish()
    waits.sort()
    print(
        f"append and settle, sync {sync:9} CPU {used * 1e3:6.3f} ms, "
        f"{used / batches[0].samples * 1e9:3.0f} ns a sample; waits "
        f"{statistics.median(waits) * 1e3:.3f} ms, 99 %: {waits[int(BATCHES * 0.99)] * 1e3:.3f} ms"
    )


def start(directory: Path, batches: list[Batch]) -> None:
    """Print how long it takes from the start to the first batch of a large backlog."""
    options = {"capacity": BACKLOG, "sync": "none", "keep_free": (0, 0)}
    spool = Spool(directory / "backlog", **options)  # type: ignore[arg-type]
    spool.open()
    number = 0
    while spool.forgotten.batches == 0:
        spool.append(batches[number % len(batches)])
        number += 1
    spool.close()
    spool = Spool(directory / "backlog", **options)  # type: ignore[arg-type]
    begun = time.perf_counter()
    spool.open()
    opened = time.perf_counter() - begun
    spool.read(spool.settled, spool.end)
    first = time.perf_counter() - begun
    count, at = 0, spool.settled
    begun = time.process_time()
    while found := spool.read(at, spool.end):
        at, count = found.after, count + 1
    used = (time.process_time() - begun) / count
    print(
        f"backlog of {spool.size >> 20} MiB, {count} batches: opened in {opened * 1e3:.0f} ms, "
        f"first batch after {first * 1e3:.0f} ms, then {used * 1e3:.3f} ms of CPU each"
    )


def main() -> None:
    """Print everything."""
    batches = [batch_of(GUESTS)]
    for _ in range(7):
        batches.append(moved(batches[-1]))
    print(f"{batches[0].samples} samples a batch")
    codec(batches[0])
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        for sync in ("none", "interval", "batch"):
            disk(Path(name), batches, sync)
        start(Path(name), batches)


if __name__ == "__main__":
    main()

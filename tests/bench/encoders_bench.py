"""
How many samples a second one core encodes, for every format that is pushed or shown.

Run with `PYTHONPATH=agent python tests/bench/encoders_bench.py [FILE.json]`: 300 guests of about
230 samples, half of them with shapes of their own, numbers that change, the best of some rounds.
Time is the process's own CPU time. What a sink does beside encoding has a row of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cramjam

from bench.exposition_bench import batch_of, moved
from virtstatd import __version__
from virtstatd.formats.json_lines import Lines
from virtstatd.formats.lifetimes import Plan
from virtstatd.formats.line_protocol import LineProtocol
from virtstatd.formats.otlp import OtlpEncoder
from virtstatd.formats.postgres_rows import PostgresRows
from virtstatd.formats.prometheus_text import TextTemplates, label_text
from virtstatd.formats.statsd import StatsdGauges
from virtstatd.formats.write1 import WriteEncoder
from virtstatd.formats.write2 import Write2Encoder
from virtstatd.model import Batch
from virtstatd.runtime.compress import gzipped
from virtstatd.testing import TAKEN_AT


GUESTS = 300
ROUNDS = 8
MILLION = 1e6
REQUEST_READINGS = 150
DATAGRAM_BYTES = 1432
EXTERNAL = (("instance", "host1.example.org"), ("job", "virtstatd"))

Encode = Callable[[Batch], bytes]


def text() -> Encode:
    """Render Prometheus' text format, the lines without a page around them."""
    templates = TextTemplates()

    def encode(batch: Batch) -> bytes:
        return b"".join(
            piece
            for reading in batch.readings
            for piece in templates.get(reading.shape, labelled=True).render(
                reading.values, label_text(reading.domain.labels if reading.domain else ())
            )
        )

    return encode


def json_lines() -> Encode:
    """Render JSON lines."""
    lines = Lines()
    return lambda batch: b"".join(lines.pieces(batch))


def remote_write(encoder: WriteEncoder | Write2Encoder) -> Encode:
    """Encode remote write's time series, in requests of as many readings as are usual."""

    def encode(batch: Batch) -> bytes:
        milliseconds = batch.taken_at // 1_000_000
        plan = Plan(batch.readings, (), {}, {}, milliseconds)
        items = encoder.items(plan, [milliseconds - 10**6] * len(batch.readings))
        return b"".join(
            encoder.request([make() for _, make in items[start : start + REQUEST_READINGS]])
            for start in range(0, len(items), REQUEST_READINGS)
        )

    return encode


def influx() -> Encode:
    """Render line protocol."""
    lines = LineProtocol("libvirt_", (("host", "host1.example.org"),))
    return lambda batch: b"".join([lines.encode(each, batch.taken_at) for each in batch.readings])


def otlp() -> Encode:
    """Encode OTLP's request."""
    encoder = OtlpEncoder((("host.name", "host1.example.org"),), __version__)
    return lambda batch: encoder.request(
        [
            encoder.encode(
                each.shape, each.domain.labels, each.values, TAKEN_AT - 10**12, batch.taken_at
            )
            for each in batch.readings
            if each.domain
        ]
    )


def postgres() -> Encode:
    """Render the rows of a COPY."""
    rows = PostgresRows("host1.example.org")
    return lambda batch: b"".join(rows.of(batch))


def statsd() -> Encode:
    """Render the datagrams of StatsD."""
    gauges = StatsdGauges("", "host1.example.org")
    return lambda batch: b"".join(gauges.datagrams(batch, DATAGRAM_BYTES))


def snappy(body: bytes) -> bytes:
    """Compress as remote write does."""
    return bytes(cramjam.snappy.compress_raw(body))


def measured(encode: Encode, batch: Batch) -> dict[str, float]:
    """Return rates, and the cost of compiling every shape at its first reading."""
    begun = time.process_time()
    size = len(encode(batch))
    first = time.process_time() - begun
    best = float("inf")
    for _ in range(ROUNDS):
        batch = moved(batch)
        begun = time.process_time()
        encode(batch)
        best = min(best, time.process_time() - begun)
    return {
        "million_samples_per_second": round(batch.samples / best / MILLION, 2),
        "bytes_per_sample": round(size / batch.samples, 1),
        "first_batch_ms": round(first * 1e3, 1),
    }


def rows() -> Iterable[tuple[str, Encode]]:
    """Yield what is measured."""
    yield "text", text()
    yield "jsonl", json_lines()
    yield "postgres", postgres()
    yield "statsd", statsd()
    for name, encode, compress in (
        ("remote_write 1.0", remote_write(WriteEncoder(EXTERNAL)), snappy),
        ("remote_write 2.0", remote_write(Write2Encoder(EXTERNAL)), snappy),
        ("influx", influx(), gzipped),
        ("otlp", otlp(), gzipped),
    ):
        yield name, encode
        yield (
            f"{name}, compressed",
            partial(lambda encode, compress, batch: compress(encode(batch)), encode, compress),
        )


def main() -> None:
    """Print the table, and write it where the argument says."""
    batch = batch_of(GUESTS)
    results = {name: measured(encode, batch) for name, encode in rows()}
    sys.stdout.write(f"{GUESTS} guests, {batch.samples} samples\n")
    sys.stdout.write(f"{'':28}{'M samples/s':>12}{'bytes/sample':>14}{'first, ms':>11}\n")
    for name, row in results.items():
        rate, size, first = row.values()
        sys.stdout.write(f"{name:28}{rate:12.2f}{size:14.1f}{first:11.1f}\n")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

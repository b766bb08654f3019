"""
What a poll costs, counted and not timed, so that a busy machine changes nothing.

A figure far below its limit is a reason to lower the limit.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent import running
from support.callgrind import instructions
from support.counted_work import YARDSTICK, Work
from support.simulator import simulated


BYTES_PER_SAMPLE = {
    "text": 80.6,
    "jsonl": 30.2,
    "postgres": 132.6,
    "statsd": 100.6,
    "remote_write 1.0": 165.3,
    "remote_write 2.0": 46.0,
    "influx": 82.0,
    "otlp": 81.6,
}
BLOCKS_PER_READING = 2.9
BYTES_MARGIN, BLOCKS_MARGIN = 1.03, 1.1

YARDSTICKS = {
    YARDSTICK: 1.0,
    "poll": 0.68,
    "page": 1.38,
    "text": 1.12,
    "jsonl": 0.98,
    "postgres": 1.49,
    "statsd": 1.61,
    "remote_write 1.0": 1.04,
    "remote_write 2.0": 0.98,
    "influx": 2.07,
    "otlp": 1.51,
}
"""Instructions of each part, in units of reading the same records' JSON."""

INSTRUCTIONS_MARGIN = 1.25

DOMAINS, SLICE = 60, 25
CALLS_PER_POLL = -(-DOMAINS // SLICE)
POLLS = 10
TIERS = ("pulse", "monitor")
STATS = "CONNECT_GET_ALL_DOMAIN_STATS"
IDLE_SECONDS = 10.0
WAKE_UPS_PER_SECOND = 5.0
"""Of all threads; the agent sends its own numbers each second here."""


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    """Prepare the work."""
    made = Work()
    yield made
    made.close()


def test_bytes_of_a_sample(work: Work):
    """No format needs more bytes for a number than before; the batch is fixed."""
    sizes = {
        name: len(encode(work.batch)) / work.batch.samples for name, encode in work.encoders.items()
    }
    assert sizes.keys() == BYTES_PER_SAMPLE.keys()
    assert {
        name: round(size, 1)
        for name, size in sizes.items()
        if size > BYTES_PER_SAMPLE[name] * BYTES_MARGIN
    } == {}


def test_objects_of_a_reading(work: Work):
    """Decoding guests that are known makes a few objects for each reading, none for a number."""
    kept = work.decoded()
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        again = work.decoded()
        made = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert again.samples == kept.samples
    assert made / len(again.readings) < BLOCKS_PER_READING * BLOCKS_MARGIN


def test_instructions(tmp_path: Path, work: Work):
    """No part takes more instructions than before, beside those of a fixed piece of work."""
    counted = instructions("support.counted_work", work.parts, tmp_path)
    ratios = {name: count / counted[YARDSTICK] for name, count in counted.items()}
    assert ratios.keys() == YARDSTICKS.keys()
    assert {
        name: round(ratio, 2)
        for name, ratio in ratios.items()
        if ratio > YARDSTICKS[name] * INSTRUCTIONS_MARGIN
    } == {}


def test_calls_of_a_poll(tmp_path: Path):
    """A poll makes as many bulk calls as it has slices of guests, in each tier."""
    with (
        simulated(tmp_path, f"--domains={DOMAINS}") as sim,
        running(tmp_path, sim.uri, extra=86400) as agent,
    ):

        def polls() -> dict[str, float]:
            return {tier: agent.value("virtstatd_ticks_total", tier=tier) or 0 for tier in TIERS}

        agent.wait_for(lambda: min(polls().values()) > POLLS / 2)
        began, calls = polls(), sim.do("status")["calls"][STATS]
        agent.wait_for(lambda: polls()["monitor"] >= began["monitor"] + POLLS)
        calls = sim.do("status")["calls"][STATS] - calls
        made = sum(polls()[tier] - began[tier] for tier in TIERS)
    assert POLLS * CALLS_PER_POLL <= calls <= CALLS_PER_POLL * (made + len(TIERS))


def test_wake_ups_of_an_idle_agent(tmp_path: Path):
    """An agent with nothing due hardly wakes; a busy machine lets it wake less often, not more."""
    hour = 3600.0
    with (
        simulated(tmp_path, "--domains=10") as sim,
        running(tmp_path, sim.uri, pulse=hour, monitor=hour, extra=hour) as agent,
    ):
        agent.wait_for(lambda: agent.value("virtstatd_ticks_total", tier="extra"))
        time.sleep(IDLE_SECONDS / 2)
        began, woken = time.monotonic(), wake_ups(agent.pid)
        time.sleep(IDLE_SECONDS)
        rate = (wake_ups(agent.pid) - woken) / (time.monotonic() - began)
    assert rate < WAKE_UPS_PER_SECOND


def wake_ups(pid: int) -> int:
    """Return how often the threads of a process have waited for something."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total

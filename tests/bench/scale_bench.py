"""
What an agent needs for 100, 1,000 and 10,000 simulated guests of a hundred statistics each.

Run with `PYTHONPATH=agent:tests python tests/bench/scale_bench.py [FILE.json] [--guests N ...]
[--seconds N]`. The intervals are the default ones, without a budget and without history. CPU time
is that of all threads of the agent in a window of steady state, memory is measured before the
first scrape and after it. `stall` is the longest turn of the loop, in CPU time of its thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from support.agent import Agent
from support.simulator import simulated
from support.spending import Spending, resident_bytes


SIZES = (100, 1_000, 10_000)
CHURN_PER_SECOND = 50
MANY_SINKS = 12
SETTLE_SECONDS = 75.0
"""All tiers have been polled by then, and guests are described."""

IDLE = """
[poll.pulse]
interval_seconds = 3600
[poll.monitor]
interval_seconds = 3600
[poll.extra]
interval_seconds = 3600
[defined]
enabled = false
[pools]
enabled = false
[networks]
enabled = false
[jobs]
enabled = false
[storage]
enabled = false
"""
CONFIG = """
[hypervisor]
uri = {uri}
[local]
enabled = false
[budget]
host_cpu_percent = 0
[web]
history_bytes = 0
[[sink]]
type = "prometheus"
listen_address = "127.0.0.1:0"
"""

Row = dict[str, float | int | str]


class Probed(Agent):
    """An agent that logs the longest turns of its loop."""

    program = ("-m", "support.probed_agent")


@contextmanager
def agent_of(folder: Path, uri: str, more: str = "", kind: type[Agent] = Agent) -> Iterator[Agent]:
    """Run an agent until the end of the block."""
    file = folder / "virtstatd.toml"
    file.write_text(CONFIG.format(uri=json.dumps(uri)) + more)
    agent = kind(file)
    try:
        yield agent
    finally:
        agent.stop()


def spent(agent: Agent, seconds: float) -> float:
    """Return the share of one CPU that an agent uses in a window, in percent."""
    began, spending = time.monotonic(), Spending([agent.pid])
    time.sleep(seconds)
    return 100 * spending.seconds() / (time.monotonic() - began)


def skipped(agent: Agent) -> float:
    """Return how many polls of the two frequent tiers were not started in time."""
    page = agent.samples()
    return sum(
        number
        for (name, labels), number in page.items()
        if name == "virtstatd_ticks_skipped_total" and dict(labels)["tier"] in ("pulse", "monitor")
    )


def scale(folder: Path, guests: int, seconds: float) -> Row:
    """Measure one size."""
    with simulated(folder, f"--domains={guests}", "--profile=hundred") as sim:
        began = time.monotonic()
        with agent_of(folder, sim.uri) as agent:
            agent.wait_for(lambda: agent.events("agent.started"))
            ready = time.monotonic() - began
            time.sleep(SETTLE_SECONDS)
            before = resident_bytes(agent.pid)
            asked = time.monotonic()
            page = agent.page()
            first = time.monotonic() - asked
            late = skipped(agent)
            percent = spent(agent, seconds)
            row: Row = {
                "name": f"{guests} guests",
                "series": sum(not line.startswith("#") for line in page.splitlines()),
                "ready_seconds": round(ready, 2),
                "cpu_percent": round(percent, 1),
                "resident_mib": round(before / 2**20),
                "resident_scraped_mib": round(resident_bytes(agent.pid) / 2**20),
                "first_scrape_seconds": round(first, 2),
                "polls_skipped": skipped(agent) - late,
            }
        with agent_of(folder, sim.uri, kind=Probed) as agent:
            time.sleep(SETTLE_SECONDS)
            seen = len(agent.events("probe"))
            agent.page()
            time.sleep(seconds)
            stalls = [float(str(line["seconds"])) for line in agent.events("probe")[seen:]]
            return row | {"stall_ms": round(1e3 * max(stalls), 1)}


def churn(folder: Path, guests: int, seconds: float) -> Row:
    """Measure while guests start and end all the time."""
    with (
        simulated(folder, f"--domains={guests}", "--profile=hundred") as sim,
        agent_of(folder, sim.uri) as agent,
    ):
        time.sleep(SETTLE_SECONDS)
        quiet = spent(agent, seconds)
        sim.do("churn", per_second=CHURN_PER_SECOND)
        time.sleep(SETTLE_SECONDS / 5)
        busy = spent(agent, seconds)
        return {
            "name": f"{guests} guests, {CHURN_PER_SECOND} starts and ends a second",
            "cpu_percent": round(busy, 1),
            "cpu_percent_without": round(quiet, 1),
        }


def sinks(folder: Path, guests: int, seconds: float) -> Row:
    """Measure with one sink and with many, each of which encodes for itself."""
    lines = "".join(
        f'[[sink]]\nname = "lines{number}"\ntype = "jsonl"\ntarget = "/dev/null"\n'
        for number in range(MANY_SINKS - 1)
    )
    with simulated(folder, f"--domains={guests}", "--profile=hundred") as sim:
        shares: list[float] = []
        for more in ("", lines):
            with agent_of(folder, sim.uri, more) as agent:
                time.sleep(SETTLE_SECONDS)
                shares.append(round(spent(agent, seconds), 1))
    return {
        "name": f"{guests} guests, {MANY_SINKS} sinks",
        "cpu_percent": shares[1],
        "cpu_percent_without": shares[0],
    }


def idle(folder: Path, seconds: float) -> Row:
    """Measure an agent for which nothing is due."""
    with simulated(folder, "--domains=10") as sim, agent_of(folder, sim.uri, IDLE) as agent:
        time.sleep(SETTLE_SECONDS)
        return {"name": "nothing due", "cpu_percent": round(spent(agent, seconds), 3)}


def main() -> None:
    """Print a line for each measurement, and write all as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--guests", nargs="*", type=int, default=SIZES)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="virtstatd-bench-") as name:
        folder, seconds = Path(name), options.seconds
        measurements: list[Callable[[], Row]] = [
            partial(idle, folder, seconds),
            *(partial(scale, folder, size, seconds) for size in options.guests),
            partial(churn, folder, 1_000, seconds),
            partial(sinks, folder, 1_000, seconds),
        ]
        for measure in measurements:
            row = measure()
            rows.append(row)
            numbers = ", ".join(f"{key} {value}" for key, value in row.items() if key != "name")
            sys.stdout.write(f"{row['name']}: {numbers}\n")
            sys.stdout.flush()
    if options.file:
        options.file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""An agent that runs for long while everything fails now and then: nothing piles up."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from support.agent import Agent, running
from support.simulator import Simulated, simulated


MINUTES = float(os.environ.get("VIRTSTATD_SOAK_MINUTES", "75"))
"""How long it runs; the memory of the first 15 minutes is not looked at."""

WARM_UP_SECONDS = min(900.0, MINUTES * 60 / 3)
STEADY_SECONDS = 60.0
FAULT_SECONDS = 15.0
QUIET_SECONDS = 45.0
"""A sink that failed is tried again within this time, and says so when it works."""
SETTLING_SECONDS = 300.0

INFLUX = """
[[sink]]
type = "influx"
url = "http://127.0.0.1:{port}"
database = "soak"
"""


class Receiver(ThreadingHTTPServer):
    """Answers every write with success, or with 503 while `away`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.away = False
        self.taken = 0
        super().__init__(("127.0.0.1", 0), Writes)


class Writes(BaseHTTPRequestHandler):
    """One connection of the sink's."""

    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        """Read a request to its end, and answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken += 1
        self.send_response(503 if self.server.away else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver until the end of a block."""
    with Receiver() as receiver:
        thread = Thread(target=receiver.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join(60)


def faults(sim: Simulated, receiver: Receiver) -> list[Callable[[], object]]:
    """Return what may go wrong."""
    every = {"times": None}

    def outage() -> None:
        receiver.away = True

    return [
        lambda: sim.do("refuse", count=2, groups=["vcpu"], **every),
        lambda: sim.do("refuse", count=1, groups=["block"], too_large=True, **every),
        lambda: sim.do("hang", count=1),
        lambda: sim.do("hang", count=5),
        lambda: sim.do("spoil", count=2, groups=["balloon"]),
        lambda: sim.do("lag", count=2, seconds=0.02),
        lambda: sim.do("hold", count=2, seconds=0.2),
        lambda: sim.do("churn", per_second=5),
        lambda: sim.do("cut", procedure="CONNECT_GET_ALL_DOMAIN_STATS"),
        lambda: sim.do("freeze"),
        lambda: sim.do("restart"),
        outage,
    ]


def well_again(sim: Simulated, receiver: Receiver) -> None:
    """End all faults; libvirt starts anew, since what it refused is remembered for minutes."""
    receiver.away = False
    for verb in ("thaw", "release", "clear", "restart"):
        sim.do(verb)
    sim.do("churn", per_second=0)


def memory(agent: Agent) -> tuple[int, int]:
    """
    Return the process's share of memory, and its own part of it, in bytes.

    The share of a library's pages grows when another process that uses the library ends, so only
    the part that no file holds tells whether the agent itself grows.
    """
    found = {}
    for line in Path(f"/proc/{agent.pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, _ = line.split()
        found[name] = int(size) * 1024
    return found["Pss:"], found["Pss_Anon:"] + found["Pss_Shmem:"]


def slope(points: list[tuple[float, int]]) -> tuple[float, float]:
    """Return by how many bytes an hour a line through points rises, and twice its error."""
    times, sizes = zip(*points, strict=True)
    fit = statistics.linear_regression(times, sizes)
    middle = statistics.fmean(times)
    rest = sum((size - fit.intercept - fit.slope * at) ** 2 for at, size in points)
    spread = sum((at - middle) ** 2 for at in times)
    error = (rest / (len(points) - 2) / spread) ** 0.5
    return fit.slope * 3600, 2 * error * 3600


def said(agent: Agent) -> list[dict[str, object]]:
    """Return what the log has, without what hurts the simulated guests by themselves."""
    return [each for each in agent.log if not str(each["event"]).startswith("finding.")]


def quiet(agent: Agent) -> None:
    """Wait until the log has said nothing for some seconds."""
    ended = time.monotonic() + SETTLING_SECONDS
    lines, since = len(said(agent)), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        assert time.monotonic() < ended, said(agent)[-5:]
        time.sleep(0.2)
        if len(said(agent)) != lines:
            lines, since = len(said(agent)), time.monotonic()


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 1200)
def test_an_agent_that_runs_for_long_grows_by_nothing(tmp_path: Path):
    """
    Minutes with a fault alternate with steady ones, in which the log has no line.

    After the warm-up, in which a sink opens as many connections as it ever has, the descriptors at
    the end of a steady minute stay the same, two more or less, and memory grows by less than 1 MiB
    an hour.
    """
    chance = random.Random(1)
    with (
        simulated(tmp_path, "--domains=60", "--profile=complete", "--libvirt=12") as sim,
        receiving() as receiver,
        running(
            tmp_path,
            sim.uri,
            monitor=2.0,
            extra=4.0,
            more=INFLUX.format(port=receiver.server_port),
        ) as agent,
    ):
        begun = time.monotonic()
        quiet(agent)
        descriptors: list[int] = []
        sizes: list[tuple[float, int]] = []
        own: list[tuple[float, int]] = []
        while (now := time.monotonic() - begun) < MINUTES * 60:
            for fault in chance.sample(faults(sim, receiver), 2):
                fault()
            time.sleep(FAULT_SECONDS)
            well_again(sim, receiver)
            quiet(agent)
            lines = len(said(agent))
            time.sleep(STEADY_SECONDS)
            assert said(agent)[lines:] == [], f"after {now:.0f} s"
            if now >= WARM_UP_SECONDS:
                descriptors.append(len(os.listdir(f"/proc/{agent.pid}/fd")))
                at = time.monotonic() - begun
                for points, size in zip((sizes, own), memory(agent), strict=True):
                    points.append((at, size))
        assert agent.value("virtstatd_missing_domains", tier="monitor") == 0
        assert receiver.taken > len(descriptors)
        print(f"{len(descriptors)} steady minutes with so many files open: {descriptors}")
        for name, points in (("PSS", sizes), ("of it anonymous", own)):
            grown, error = (each / 2**20 for each in slope(points))
            print(f"{name}: {points[-1][1] / 2**20:.1f} MiB, grows {grown:.2f} ± {error:.2f} MiB/h")
    assert max(descriptors) - descriptors[0] <= 2
    assert descriptors[0] - min(descriptors) <= 2
    assert slope(own)[0] < 2**20

"""A second in which guests fight for a CPU is seen by those who come rarely."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from support.agent import Agent, running
from support.waits import slowness


GUESTS = ("one", "two")
BURN = ("sh", "-c", "while :; do :; done")


def vcpu_thread(pid: int) -> int:
    """Return the thread of a guest's only vCPU."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if re.match(r"CPU 0/", (task / "comm").read_text()):
            return int(task.name)
    raise AssertionError(f"process {pid} has no vCPU")


@contextmanager
def on_one_cpu(threads: list[int]) -> Iterator[None]:
    """Pin threads to one and the same CPU for the length of a block."""
    allowed = os.sched_getaffinity(0)
    try:
        for thread in threads:
            os.sched_setaffinity(thread, {min(allowed)})
        yield
    finally:
        for thread in threads:
            os.sched_setaffinity(thread, allowed)


def prefer(lab: Lab) -> None:
    """Let the lab's guests go before everything else of this machine: it may be busy itself."""
    for group in lab.trace.groups:
        for name, weight in (("cpu.shares", "262144"), ("cpu.weight", "10000")):
            if (group / name).exists():
                (group / name).write_text(weight)


def looks(agent: Agent) -> float:
    """Return how often the lane has looked."""
    return agent.value("virtstatd_local_ticks_total") or 0


def wait_for_look(agent: Agent, number: float) -> None:
    """Wait for one of the lane's looks."""
    agent.wait_for(lambda: looks(agent) >= number)


def scraped(agent: Agent) -> dict[str, dict[str, float]]:
    """Return what a scraper sees of the guests' steal, by guest."""
    samples = agent.samples()
    stem = "libvirt_domain_steal_ratio"
    found = {}
    for guest in GUESTS:
        domain = ("domain", guest)
        buckets = {le: samples[f"{stem}_bucket", (domain, ("le", le))] for le in ("0.2", "+Inf")}
        found[guest] = {
            "bad": buckets["+Inf"] - buckets["0.2"],
            "seconds": buckets["+Inf"],
            "peak": samples["libvirt_domain_steal_peak_ratio", (domain,)],
            "delay": samples["libvirt_domain_vcpu_delay_seconds_total", (domain, ("vcpu", "0"))],
        }
    return found


@contextmanager
def two_guests() -> Iterator[tuple[Lab, list[int]]]:
    """Run two guests with a system of their own; yield the threads of their vCPUs as well."""
    with Lab() as lab:
        prefer(lab)
        with ThreadPoolExecutor(len(GUESTS)) as pool:
            list(pool.map(lab.live_guest, GUESTS))
        yield lab, [vcpu_thread(lab.qemu_pid(name)) for name in GUESTS]
        trace = lab.trace
    assert not trace.leftovers()


def storm(lab: Lab, seconds: int) -> None:
    """Let both guests burn their CPU at the same time."""
    arguments = {"path": "/bin/busybox", "arg": ["timeout", str(seconds), *BURN]}
    command = json.dumps({"execute": "guest-exec", "arguments": arguments})
    with ThreadPoolExecutor(len(GUESTS)) as pool:
        begun = [
            pool.submit(lab.virsh, "qemu-agent-command", lab.uuid(name), command) for name in GUESTS
        ]
    assert all(each.result() for each in begun)


@pytest.mark.parametrize(
    ("storms", "scrape", "period"),
    [(1, 9, 9), pytest.param(3, 15, 20, marks=pytest.mark.soak)],
)
def test_a_storm_of_one_second_is_seen_at_the_next_scrape(
    storms: int, scrape: int, period: int, tmp_path: Path
):
    """Two guests busy on one CPU for a second: in histogram and peak, hardly in the average."""
    longer = min(3, math.ceil(slowness()))  # a busy machine's second is no second of the guests'
    with (
        two_guests() as (lab, threads),
        running(tmp_path, lab.uri_readonly, local=True) as agent,
    ):
        agent.wait_for(lambda: agent.page().count("libvirt_domain_steal_peak_ratio{") == 2)
        for _ in range(storms):
            before, began = scraped(agent), looks(agent)
            with on_one_cpu(threads):
                storm(lab, longer)
                wait_for_look(agent, began + 1 + longer)
            wait_for_look(agent, began + scrape * longer)
            after, seconds = scraped(agent), looks(agent) - began
            for name in GUESTS:
                first, last = before[name], after[name]
                seen = first, last
                average = (last["delay"] - first["delay"]) / seconds
                assert last["bad"] >= first["bad"] + 1, seen
                assert last["peak"] > 0.2, seen
                assert average < last["peak"] / 4, seen
            wait_for_look(agent, began + period * longer)

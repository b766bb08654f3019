"""A second in which guests fight for a CPU is seen by those who come rarely."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.hypervisor import Lab
from running import Agent, running


GUESTS = ("one", "two")
SCRAPE_LOOKS = 12
BURN = ["timeout", "1", "sh", "-c", "while :; do :; done"]


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


def waited(agent: Agent, guest: str) -> dict[str, float]:
    """Return what a scraper sees of a guest's steal."""
    samples = agent.samples()
    stem = "libvirt_domain_steal_ratio"
    domain = ("domain", guest)

    def bucket(le: str) -> float:
        return samples[f"{stem}_bucket", (domain, ("le", le))]

    return {
        "bad seconds": bucket("+Inf") - bucket("0.2"),
        "seconds": samples[f"{stem}_count", (domain,)],
        "sum": samples[f"{stem}_sum", (domain,)],
        "peak": samples["libvirt_domain_steal_peak_ratio", (domain,)],
        "delay": samples["libvirt_domain_vcpu_delay_seconds_total", (domain, ("vcpu", "0"))],
    }


def test_a_storm_of_one_second_is_seen_at_the_next_scrape(tmp_path: Path):
    """Two guests busy on one CPU for a second: in histogram and peak, hardly in the average."""
    command = json.dumps(
        {"execute": "guest-exec", "arguments": {"path": "/bin/busybox", "arg": BURN}}
    )
    with Lab() as lab:
        prefer(lab)
        threads = []
        for name in GUESTS:
            lab.live_guest(name)
            threads.append(vcpu_thread(lab.qemu_pid(name)))
        with running(tmp_path, lab.uri_readonly, local=True) as agent:
            agent.wait_for(lambda: "libvirt_domain_steal_peak_ratio" in agent.page())
            before = {name: waited(agent, name) for name in GUESTS}
            began = looks(agent)
            with on_one_cpu(threads):
                for name in GUESTS:
                    lab.virsh("qemu-agent-command", lab.uuid(name), command)
                agent.wait_for(lambda: looks(agent) >= began + 3)
            agent.wait_for(lambda: looks(agent) >= began + SCRAPE_LOOKS)
            after = {name: waited(agent, name) for name in GUESTS}
        trace = lab.trace
    assert not trace.leftovers()
    for name in GUESTS:
        first, last = before[name], after[name]
        seconds = last["seconds"] - first["seconds"]
        worst = last["peak"]
        average = (last["sum"] - first["sum"]) / seconds
        assert last["bad seconds"] >= first["bad seconds"] + 1, (first, last)
        assert worst > 0.2, (first, last)
        assert average < worst / 2, "the average hides it"

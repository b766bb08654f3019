"""Storms of events, from a libvirt that sends as many as a test wants."""

from __future__ import annotations

import os
from pathlib import Path

from support.agent import Agent, running
from support.simulator import simulated


KINDS = "libvirt_domain_events_total"
DETAILS = "libvirt_domain_event_details_total"
STORM = 20_000
PER_EVENT_SECONDS = 0.0002
"""Far more than an event takes, on a machine that is busy with other things too."""


def received(agent: Agent, event: str) -> float:
    """Return how many events of a kind have come."""
    return agent.value("virtstatd_events_total", event=event) or 0.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_storm_costs_little_and_none_of_it_is_lost(tmp_path: Path):
    """Each of 20,000 I/O errors is counted, those of different kinds too; the page stays small."""
    with (
        simulated(tmp_path, "--domains=3") as sim,
        running(tmp_path, sim.uri, pulse=5.0, monitor=60.0, extra=60.0) as agent,
    ):
        agent.wait_for(lambda: sum(name == KINDS for name, _ in agent.samples()) == 12)
        first, second, _ = sorted(
            dict(labels)["domain"] for name, labels in agent.samples() if name == KINDS
        )[::4]
        before = cpu_seconds(agent.pid)
        error = ["/disk", "virtio-disk0", 2, "enospc"]
        sim.do("event", domains=[first], id=6, arguments=error, times=STORM)
        sim.do("event", domains=[second], id=3, arguments=[2])
        agent.wait_for(lambda: received(agent, "io_error") == STORM)
        agent.wait_for(lambda: agent.value(KINDS, domain=first, event="io_error") == STORM)
        agent.wait_for(lambda: agent.value(KINDS, domain=second, event="watchdog") == 1)
        print(f"{(cpu_seconds(agent.pid) - before) / STORM * 1e6:.0f} us of CPU per event")
        for number in range(300):
            different = [f"/disk\n{number}", f"alias\x1b{number}", 1, "…" * 300]
            sim.do("event", domains=[first], id=6, arguments=different, times=10)
        sim.do("event", domains=[first], id=24, arguments=["vda", None, 7, 8], times=3)
        agent.wait_for(lambda: received(agent, "io_error") == STORM + 3000, 60)
        agent.wait_for(lambda: agent.value(KINDS, domain=first, event="block_threshold") == 3)
        shown = agent.samples()
        details = [key for key in shown if key[0] == DETAILS]
        assert 1 < len(details) < 100
        assert agent.value(KINDS, domain=first, event="io_error") == STORM + 3000
        assert cpu_seconds(agent.pid) - before < (STORM + 3000) * PER_EVENT_SECONDS + 5
        assert not [each for each in agent.log if each["level"] == "error"]

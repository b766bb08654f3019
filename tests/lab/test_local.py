"""The local lane on real guests: it agrees with libvirt, and continues without its answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from support.agent import Agent, Series, running


TICKS = 0.02
"""Libvirt's clocks of a vCPU count ticks of 10 ms, one for user and one for system time."""

NS = 1e-9
LOOKS: Series = ("virtstatd_local_ticks_total", ())
SKIPPED: Series = ("virtstatd_local_ticks_skipped_total", ())
WAYS = {"rx": "receive", "tx": "transmit"}
COUNTS = {"bytes": "bytes", "pkts": "packets", "errs": "errors", "drop": "drops"}


def expected(stats: dict[str, str], domain: str) -> dict[Series, tuple[float, float]]:
    """Return what the lane reads as well, with the margin of libvirt's own precision."""
    found: dict[Series, tuple[float, float]] = {}

    def put(name: str, value: float, margin: float, **labels: str) -> None:
        found[name, tuple(sorted({"domain": domain, **labels}.items()))] = value, margin

    for key, text in stats.items():
        match key.split("."):
            case ["vcpu", vcpu, "time"]:
                name = "libvirt_domain_vcpu_time_seconds_total"
                put(name, int(text) * NS, TICKS, vcpu=vcpu)
            case ["vcpu", vcpu, "delay"]:
                name = "libvirt_domain_vcpu_delay_seconds_total"
                put(name, int(text) * NS, NS / 2, vcpu=vcpu)
            case ["cpu", "time" | "user" | "system" as what]:
                put(f"libvirt_domain_info_cpu_{what}_seconds_total", int(text) * NS, NS)
            case ["balloon", "rss"]:
                put("libvirt_domain_memory_stats_rss_bytes", int(text) * 1024, 1 << 20)
            case ["net", index, way, what]:
                name = f"libvirt_domain_interface_stats_{WAYS[way]}_{COUNTS[what]}_total"
                put(name, int(text), 0, target_device=stats[f"net.{index}.name"])
    return found


def local_ticks(agent: Agent) -> float:
    """Return how often the lane has looked."""
    return agent.value("virtstatd_local_ticks_total") or 0


def next_looks(agent: Agent, count: int = 2) -> None:
    """Wait for looks that begin from now on."""
    before = local_ticks(agent)
    agent.wait_for(lambda: local_ticks(agent) >= before + count)


def test_the_lane_and_libvirt_agree(lab: Lab, tmp_path: Path):
    """Of every guest, each number of the lane lies between virsh's before and after it."""
    names = lab.names()
    with running(tmp_path, lab.uri_readonly, local=True, cgroup=2.0) as agent:
        agent.wait_for(lambda: (agent.value("virtstatd_local_domains") or 0) == len(names))
        before = {name: expected(lab.stats(name), name) for name in names}
        next_looks(agent, 3)  # each guest's cgroup is read at every other
        samples = agent.samples()
        after = {name: expected(lab.stats(name), name) for name in names}
        next_looks(agent, 4)  # and while they run side by side
        page = agent.page()
    compared = moved = 0
    for name in names:
        for series, (last, margin) in after[name].items():
            low, high = sorted((before[name][series][0], last))  # memory may shrink as well
            assert low - margin <= samples[series] <= high + margin, (series, low, high)
            compared += 1
            moved += last > before[name][series][0]
    assert compared > 15 * len(names)
    assert moved > 5, "the live guest's numbers move"
    for family in ("pressure_some_seconds", "overhead_seconds", "cgroup_memory_bytes"):
        assert f"libvirt_domain_{family}" in page
    assert "virtstatd_local_disagreements" not in page, page


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.soak)])
def test_the_lane_goes_on_without_libvirt(seconds: int, private_lab: Lab, tmp_path: Path):
    """While libvirtd is frozen no second is missed, and every number stays current."""
    count: Series = ("libvirt_domain_steal_ratio_count", (("domain", "guest-0"),))
    run_time: Series = (
        "libvirt_domain_vcpu_time_seconds_total",
        (("domain", "guest-0"), ("vcpu", "3")),
    )
    with running(tmp_path, private_lab.uri_readonly, local=True) as agent:
        agent.wait_for(lambda: count in agent.samples() and run_time in agent.samples())
        with private_lab.frozen():
            began, before = time.monotonic(), agent.samples()
            # the agent's own numbers are of every second: the count of looks may be a second old
            until = before[LOOKS] + seconds + 2
            agent.wait_for(lambda: local_ticks(agent) >= until, 5 * seconds)
            samples, passed = agent.samples(), time.monotonic() - began
            assert samples[LOOKS] - before[LOOKS] == pytest.approx(passed, abs=2)
            assert samples[SKIPPED] == before[SKIPPED], "not a second was missed"
            # summaries come every 5 s; 4 vCPUs are 4 observations a second
            assert samples[count] - before[count] >= 4 * (seconds - 5)
            assert run_time in samples


def test_a_guest_that_restarts_is_read_anew(private_lab: Lab, tmp_path: Path):
    """The counters of a new run are the new process', from its first second on."""
    faults: Series = ("libvirt_domain_process_minor_faults_total", (("domain", "again"),))
    with running(tmp_path, private_lab.uri_readonly, local=True) as agent:
        agent.wait_for(lambda: agent.value("virtstatd_local_domains") == 4)
        private_lab.rename("guest-3", "again")
        agent.wait_for(lambda: faults in agent.samples())
        assert agent.value("virtstatd_local_domains") == 4
        private_lab.destroy("again")
        agent.wait_for(lambda: agent.value("virtstatd_local_domains") == 3)
        agent.wait_for(lambda: "again" not in agent.page())

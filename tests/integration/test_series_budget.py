"""A guest with more series than it may have, from libvirt's answer to the page."""

from __future__ import annotations

from pathlib import Path

from support.agent import running
from support.simulator import simulated


def test_the_least_important_groups_are_left_out_and_counted(tmp_path: Path):
    """State, steal and memory of each guest are there, KVM's counters are not, and it is said."""
    with (
        simulated(tmp_path, "--domains=3", "--profile=complete", "--libvirt=12") as sim,
        running(tmp_path, sim.uri, series=100) as agent,
    ):
        agent.wait_for(lambda: agent.value("virtstatd_cut_series", group="vm"))
        agent.wait_for(lambda: agent.value("virtstatd_cut_series", group="vcpu_kvm"))
        agent.wait_for(lambda: not any("kvm" in name for name, _ in agent.samples()))
        agent.wait_for(lambda: agent.events("series.cut"))
        shown = agent.samples()
        agent.wait_for(lambda: agent.value("virtstatd_guest_series") is not None)
        passed = agent.value("virtstatd_guest_series")
    names = {name for name, labels in shown if "domain" in dict(labels)}
    assert {
        "libvirt_domain_info_state",
        "libvirt_domain_vcpu_delay_seconds_total",
        "libvirt_domain_vcpu_time_seconds_total",
        "libvirt_domain_memory_stats_rss_bytes",
        "libvirt_domain_info_cpu_time_seconds_total",
    } <= names
    assert passed is not None
    assert passed <= 300
    assert {line["limit"] for line in agent.events("series.cut")} == {"series_per_guest"}

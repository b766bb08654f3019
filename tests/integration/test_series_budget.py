"""A guest with more series than it may have, from libvirt's answer to the page."""

from __future__ import annotations

import json
import urllib.request
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


FLOODED = "22222222-2222-4222-8222-222222222222"
DESCRIPTION = f"<domain type='kvm' id='1'><name>flood</name><uuid>{FLOODED}</uuid></domain>"
DISKS, MADE_UP = 500, 10_000


def flood() -> list[tuple[str, int, int | str]]:
    """Return a record with 500 disks and 10,000 fields that nobody knows, of which vCPUs too."""
    fields: list[tuple[str, int, int | str]] = [("state.state", 1, 1), ("state.reason", 1, 1)]
    fields += [("balloon.current", 4, 1024), ("balloon.rss", 4, 512), ("vcpu.current", 2, 1)]
    fields += [("vcpu.0.time", 4, 7), ("vcpu.0.delay", 4, 3)]
    fields += [(f"vcpu.0.made_up_{number}.sum", 4, number) for number in range(MADE_UP // 2)]
    fields += [(f"state.made_up_{number}", 4, number) for number in range(MADE_UP // 2)]
    fields += [("block.count", 2, DISKS)]
    for number in range(DISKS):
        fields += [(f"block.{number}.name", 7, f"vd{number}")]
        fields += [(f"block.{number}.{key}", 4, number) for key in ("rd.reqs", "rd.bytes")]
    return fields


def test_a_guest_with_a_flood_of_fields_cannot_flood_the_sinks(tmp_path: Path):
    """Of 500 disks and 10,000 made-up fields its state and steal pass, and the file stays small."""
    file, lines = tmp_path / "records.json", tmp_path / "lines"
    record = {"name": "flood", "uuid": FLOODED, "id": 1, "params": flood(), "xml": DESCRIPTION}
    file.write_text(json.dumps([record]))
    with (
        simulated(tmp_path, "--domains=0", f"--replay={file}") as sim,
        running(tmp_path, sim.uri, series=500, lines=lines) as agent,
    ):
        agent.wait_for(lambda: agent.value("virtstatd_cut_series", group="block"))
        agent.wait_for(lambda: agent.value("virtstatd_cut_series", group="unknown"))
        agent.wait_for(lambda: agent.value("virtstatd_cut_series", group="vcpu_kvm"))
        agent.wait_for(lambda: len(agent.events("series.cut")) >= 3)
        shown = [key for key in agent.samples() if "domain" in dict(key[1])]
        cut = agent.value("virtstatd_cut_series", group="unknown")
        with urllib.request.urlopen(f"{agent.address}/api/v1/agent", timeout=100) as answer:
            left_out = json.load(answer)["left_out"]
        logged = len(agent.events("series.cut"))
    names = {name for name, _ in shown}
    assert len(shown) <= 500
    assert {"libvirt_domain_info_state", "libvirt_domain_vcpu_delay_seconds_total"} <= names
    assert cut == MADE_UP // 2
    assert {"block", "unknown", "vcpu_kvm"} <= set(left_out["groups"])
    assert left_out["series"] >= MADE_UP + 2 * DISKS
    assert left_out["guests"] == 0
    assert logged < 10
    last = lines.read_text().splitlines()[-50:]
    assert not any("made_up" in line for line in last)

"""What hurts on a real hypervisor is found, named, and comes with what helps."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from lab.support.hypervisor import Lab
from support.agent import Agent, running


def findings(agent: Agent) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the findings by kind, guest and device."""
    with urllib.request.urlopen(f"{agent.address}/api/v1/findings", timeout=100) as answer:
        several = json.load(answer)["findings"]
    return {
        (each["finding"], (each["guest"] or {}).get("name", ""), each["device"] or ""): each
        for each in several
    }


def test_a_stopped_a_starved_and_a_throttled_guest_are_named(private_lab: Lab, tmp_path: Path):
    """A stopped QEMU, a guest at its CPU quota and a disk at its limit are three findings."""
    lab = private_lab
    lab.live_guest("starved")
    lab.live_guest("slow")
    wanted = {
        ("stuck", "guest-1", ""),
        ("steal", "starved", ""),
        ("disk_limited", "slow", "vda"),
    }
    # a request of the slow disk takes seconds: polls as far apart as by default see several of them
    with running(tmp_path, lab.uri_readonly, local=True, monitor=10.0) as agent:
        agent.wait_for(lambda: agent.value("libvirt_domains") == len(lab.names()))
        lab.virsh("schedinfo", "starved", "--live", "--set", "vcpu_quota=5000")
        lab.virsh("blkdeviotune", "slow", "vda", "--live", "--total-bytes-sec", "16384")
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        with lab.stuck("guest-1"):
            agent.wait_for(lambda: found.update(findings(agent)) or wanted <= found.keys())
        assert lab.uuid("guest-1") in found["stuck", "guest-1", ""]["advice"]
        assert "virsh schedinfo" in found["steal", "starved", ""]["advice"]
        assert "virsh blkdeviotune" in found["disk_limited", "slow", "vda"]["advice"]
        agent.wait_for(lambda: ("stuck", "guest-1", "") not in findings(agent))

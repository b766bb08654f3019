"""Drivers other than QEMU, as far as they answer: refusals as those drivers give them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.agent import Agent, running
from support.simulator import simulated


WITHOUT = {
    "LXC": ["DOMAIN_GET_CONTROL_INFO", "DOMAIN_GET_NUMA_PARAMETERS"],
    "Xen": [
        "DOMAIN_GET_CONTROL_INFO",
        "DOMAIN_GET_MEMORY_PARAMETERS",
        "DOMAIN_GET_BLKIO_PARAMETERS",
        "DOMAIN_GET_CPU_STATS",
    ],
    "Cloud Hypervisor": [
        "DOMAIN_GET_CONTROL_INFO",
        "DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS",
        "DOMAIN_GET_MEMORY_PARAMETERS",
        "DOMAIN_GET_BLKIO_PARAMETERS",
        "DOMAIN_GET_CPU_STATS",
        "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY",
        "CONNECT_REGISTER_CLOSE_CALLBACK",
        "CONNECT_LIST_ALL_STORAGE_POOLS",
        "CONNECT_LIST_ALL_NETWORKS",
    ],
}
"""What each driver has not, besides the bulk statistics."""

MORE = """
[cpu_stats]
enabled = true
interval_seconds = 1.0
[defined]
interval_seconds = 1.0
[pools]
interval_seconds = 1.0
[networks]
interval_seconds = 1.0
"""
STATE = "libvirt_domain_info_state"


def states(agent: Agent) -> dict[str, str]:
    """Return the state of each guest; fails where one has two."""
    found: dict[str, str] = {}
    for family, labels in agent.samples():
        if family == STATE:
            of = dict(labels)
            assert of["domain"] not in found
            found[of["domain"]] = of["state"]
    return found


@pytest.mark.parametrize("driver", WITHOUT)
def test_a_driver_that_lacks_much(tmp_path: Path, driver: str):
    """All guests have states, memory and CPU time; each refusal is reported once; guests change."""
    with simulated(tmp_path, "--domains=3", "--profile=small") as host:
        for name in ["CONNECT_GET_ALL_DOMAIN_STATS", *WITHOUT[driver]]:
            text = f"this function is not supported by the connection driver: {name}"
            host.do("fail", procedure=name, code=3, message=text, times=None)
        with running(tmp_path, host.uri, more=MORE) as agent:
            agent.wait_for(lambda: Counter(states(agent).values()) == {"running": 3})
            name = next(iter(states(agent)))
            assert agent.value("libvirt_domain_info_cpu_time_seconds_total", domain=name)
            assert agent.value("libvirt_domain_info_memory_usage_bytes", domain=name)
            assert agent.value("libvirt_domain_info_virtual_cpus", domain=name)
            assert agent.value("libvirt_up") == 1
            host.do("suspend", domains=[name])
            agent.wait_for(lambda: states(agent)[name] == "paused")
            host.do("start")
            agent.wait_for(lambda: len(states(agent)) == 4)
            host.do("destroy", domains=[name])
            agent.wait_for(lambda: states(agent).get(name) in (None, "shutoff"))
            success = "virtstatd_collector_success"
            agent.wait_for(lambda: agent.value(success, collector="defined") == 1)
            said = Counter(
                str({key: value for key, value in line.items() if key != "timestamp"})
                for line in agent.log
                if line["level"] != "info" or str(line["event"]).endswith("refused")
            )
            assert set(said.values()) == {1}, said

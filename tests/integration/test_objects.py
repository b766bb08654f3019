"""What libvirt's lists cost, and what a driver without them gets from an agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.agent import Agent, running
from support.simulator import Simulated, simulated


LISTS = ("CONNECT_LIST_ALL_STORAGE_POOLS", "CONNECT_LIST_ALL_NETWORKS", "CONNECT_LIST_ALL_DOMAINS")
TABLES = ("pools", "networks", "defined")


def tables(**options: object) -> str:
    """Return the configuration of the collectors that list."""
    rows = [f"{key} = {str(value).lower()}" for key, value in options.items()]
    return "".join("\n".join([f"[{table}]", *rows, ""]) for table in TABLES)


def calls(host: Simulated) -> dict[str, int]:
    """Return how often each list was asked for."""
    counted = host.do("status")["calls"]
    return {name: counted.get(name, 0) for name in LISTS}


def some_polls(agent: Agent) -> None:
    """Wait for polls that begin from now on."""
    polls = agent.value("virtstatd_ticks_total", tier="pulse") or 0
    agent.wait_for(lambda: (agent.value("virtstatd_ticks_total", tier="pulse") or 0) > polls + 5)


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_off_costs_no_call(tmp_path: Path, enabled: bool):
    """With the collectors each interval has its lists; without them no list is asked for again."""
    more = tables(enabled=enabled, interval_seconds=1.0)
    with (
        simulated(tmp_path, "--domains=3", "--profile=small") as host,
        running(tmp_path, host.uri, more=more) as agent,
    ):
        some_polls(agent)
        before = calls(host)
        some_polls(agent)
        after = calls(host)
        assert {name: after[name] > before[name] for name in LISTS} == dict.fromkeys(LISTS, enabled)
        assert (agent.value("libvirt_inactive_domains") is not None) is enabled
        assert (agent.value("libvirt_storage_pools") is not None) is enabled


def test_a_driver_with_guests_only(tmp_path: Path):
    """Lists that are refused, as by a driver without them, are reported once and hurt nothing."""
    with simulated(tmp_path, "--domains=3", "--profile=small") as host:
        text = "this function is not supported by the connection driver: virConnectListAll"
        for name in LISTS[:2]:
            host.do("fail", procedure=name, code=3, message=text, times=None)
        with running(tmp_path, host.uri, more=tables(interval_seconds=1.0)) as agent:
            some_polls(agent)
            some_polls(agent)
            refused = [str(line["of"]) for line in agent.events("objects.refused")]
            assert sorted(refused) == ["network", "storage_pool"]
            assert agent.value("libvirt_domains_in_state", state="running") == 3
            assert agent.value("libvirt_storage_pools") is None
            assert agent.value("virtstatd_collector_success", collector="pools") is None

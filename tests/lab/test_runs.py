"""When the counters of real guests began, across restarts of the agent and of guests."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as families

from lab.support.hypervisor import Lab
from support.agent import Agent, running


CREATED = "\ncreated = true\n"
COUNTER = "libvirt_domain_block_stats_read_requests_created"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
APART_SECONDS = 1.0
"""The kernel's time of the host's start is in seconds, and follows the clock."""


def began(agent: Agent) -> dict[str, set[float]]:
    """Return when the counters of each guest's disks began."""
    found: dict[str, set[float]] = {}
    page = agent.page(OPENMETRICS)
    for family in families(page):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.name == COUNTER:
                found.setdefault(sample.labels["domain"], set()).add(sample.value)
    return found


def all_began(agent: Agent, lab: Lab) -> dict[str, float]:
    """Return when all guests began, once that is known; a guest's counters began together."""
    agent.wait_for(lambda: set(began(agent)) == set(lab.names()))
    found = began(agent)
    assert {len(each) for each in found.values()} == {1}
    return {name: min(each) for name, each in found.items()}


def test_counters_begin_with_the_guest_not_with_the_agent(private_lab: Lab, tmp_path: Path):
    """The start of a guest's process is when its counters began, whoever else starts again."""
    lab = private_lab
    now = time.time()
    with running(tmp_path, lab.uri_readonly, local=True, more=CREATED) as agent:
        first = all_began(agent, lab)
    assert all(now - 300 < each <= now + APART_SECONDS for each in first.values())
    restarted = lab.names()[0]
    definition = lab.definitions[restarted]
    with running(tmp_path, lab.uri_readonly, local=True, more=CREATED) as agent:
        again = all_began(agent, lab)
        assert all(abs(again[name] - first[name]) <= APART_SECONDS for name in first)
        lab.destroy(restarted)
        agent.wait_for(lambda: restarted not in began(agent))
        started = time.time()
        lab.create(definition)
        last = all_began(agent, lab)
    assert last[restarted] >= started - 2 * APART_SECONDS > first[restarted]
    assert {name: last[name] for name in last if name != restarted} == {
        name: again[name] for name in again if name != restarted
    }

"""
The agent in front of a hypervisor that misbehaves, with guests that it cannot see in /proc.

Here a stuck guest is found by asking it, as on a host whose storage library hangs in user space.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from running import Agent, running
from simulating import Simulated, simulated


GUESTS = 120
STATE = "libvirt_domain_info_state"
READ = "libvirt_domain_block_stats_read_bytes_total"

pytestmark = pytest.mark.timeout(240)


def shown(agent: Agent, family: str) -> set[str]:
    """Return the domains of which a family is shown."""
    return {dict(labels)["domain"] for name, labels in agent.samples() if name == family}


def polls(agent: Agent, tier: str = "monitor") -> float:
    """Return how many polls of a tier have begun."""
    return agent.value("virtstatd_ticks_total", tier=tier) or 0


def some_polls(agent: Agent, count: int, tier: str = "pulse") -> None:
    """Let some polls pass."""
    begun = polls(agent, tier)
    agent.wait_for(lambda: polls(agent, tier) >= begun + count)


def hung(sim: Simulated, count: int) -> set[str]:
    """Hang every tenth guest, `count` of them in all, so that each slice has some."""
    names = sorted(f"{name}" for name in sim.do("hang", count=GUESTS)["domains"])
    sim.do("release")
    victims = names[5 : 5 + 10 * count : 10]
    assert len(victims) == count
    sim.do("hang", domains=victims)
    return set(victims)


@pytest.fixture
def sim(tmp_path: Path):
    """Simulate a host."""
    with simulated(tmp_path, f"--domains={GUESTS}", "--profile=small") as sim:
        yield sim


def test_one_hung_monitor_hides_nobody_and_is_named(sim: Simulated, tmp_path: Path):
    """The call that hangs is abandoned, its guests are asked again, the culprit is named."""
    with running(tmp_path, sim.uri, pulse=2, monitor=2, extra=4) as agent:
        agent.wait_for(lambda: len(shown(agent, READ)) == GUESTS)
        everybody = shown(agent, READ)
        victims = hung(sim, 1)
        (victim,) = victims
        agent.wait_for(lambda: agent.value("virtstatd_domain_responsive", domain=victim) == 0, 120)
        for _ in range(5):
            some_polls(agent, 1, "monitor")
            assert shown(agent, READ) >= everybody - victims
            assert shown(agent, STATE) == everybody
        assert [each["domain"] for each in agent.events("domain.unresponsive")] == [victim]
        labels = {"domain": victim, "state": "occupied"}
        assert agent.value("libvirt_domain_control_state", **labels) == 2
        assert (agent.value("virtstatd_calls_outstanding") or 0) <= 4
        agent.wait_for(lambda: victim not in shown(agent, READ))
        sim.do("release")
        agent.wait_for(lambda: shown(agent, READ) == everybody)
        agent.wait_for(lambda: agent.events("domain.responsive"))


def test_ten_hung_monitors_never_take_more_than_their_share(sim: Simulated, tmp_path: Path):
    """Three calls hang at most, states flow, and all come back when the monitors do."""
    with running(tmp_path, sim.uri, pulse=2, monitor=2, extra=4) as agent:
        agent.wait_for(lambda: len(shown(agent, READ)) == GUESTS)
        everybody = shown(agent, READ)
        victims = hung(sim, 10)
        busiest = 0
        begun = polls(agent, "pulse")
        while polls(agent, "pulse") < begun + 12:
            busiest = max(busiest, sim.do("status")["busy"])
            assert shown(agent, STATE) == everybody
        assert busiest <= 4
        assert 2 <= len(sim.do("status")["occupied"]) <= 3
        assert set(sim.do("status")["occupied"]) <= victims
        assert (agent.value("virtstatd_calls_total", tier="monitor", outcome="withheld") or 0) + (
            agent.value("virtstatd_calls_total", tier="extra", outcome="withheld") or 0
        ) > 0
        sim.do("release")
        agent.wait_for(lambda: shown(agent, READ) == everybody, 120)
        assert agent.value("virtstatd_calls_outstanding") == 0 or sim.do("status")["busy"] <= 2


def test_a_reply_cut_off_in_the_middle_costs_no_poll(sim: Simulated, tmp_path: Path):
    """A connection that dies in mid-reply is opened again and asked again at once."""
    with running(tmp_path, sim.uri, pulse=2, monitor=2, extra=4) as agent:
        agent.wait_for(lambda: len(shown(agent, READ)) == GUESTS)
        everybody = shown(agent, READ)
        for _ in range(3):
            sim.do("cut", procedure="CONNECT_GET_ALL_DOMAIN_STATS", after_bytes=3000)
            some_polls(agent, 2)
            assert shown(agent, READ) == everybody
        agent.wait_for(lambda: sim.do("status")["faults"] == 0)
        assert agent.value("libvirt_up") == 1


def test_fifty_guests_a_second_come_and_go(sim: Simulated, tmp_path: Path):
    """No poll fails as a whole, nothing piles up, and in the end exactly the living are shown."""
    with running(tmp_path, sim.uri, pulse=2, monitor=2, extra=4) as agent:
        agent.wait_for(lambda: len(shown(agent, READ)) == GUESTS)
        sim.do("churn", per_second=50)
        begun = polls(agent)
        agent.wait_for(lambda: polls(agent) >= begun + 6)
        sim.do("churn", per_second=0)
        agent.wait_for(lambda: len(shown(agent, STATE)) == sim.do("status")["active"] == GUESTS)
        agent.wait_for(lambda: len(shown(agent, READ)) == GUESTS)
        samples = agent.samples()
        for tier in ("monitor", "extra"):
            assert samples["virtstatd_calls_total", (("outcome", "refused"), ("tier", tier))] == 0
        assert samples["virtstatd_undecodable_records_total", ()] == 0
        assert samples["libvirt_domains", ()] == GUESTS
    assert not any("exception" in line for line in agent.log)

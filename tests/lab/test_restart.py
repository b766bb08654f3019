"""Libvirt comes and goes; the agent stays."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from support.agent import Agent, running
from support.waits import slowness, unstalled


BACK_SECONDS = 5.0


def descriptors(agent: Agent) -> int:
    """Return how many descriptors the agent has open."""
    return len(os.listdir(f"/proc/{agent.pid}/fd"))


def threads(agent: Agent) -> int:
    """Return how many threads the agent has."""
    return len(os.listdir(f"/proc/{agent.pid}/task"))


def numbers_of(agent: Agent, domain: str) -> bool:
    """Tell whether the page shows what only a monitor tells of a domain."""
    return ("libvirt_domain_memory_stats_rss_bytes", (("domain", domain),)) in agent.samples()


@pytest.mark.parametrize("restarts", [8, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
def test_restarts_are_survived_and_nothing_leaks(private_lab: Lab, tmp_path: Path, restarts: int):
    """Down is shown as down, numbers are back in time, and nothing piles up over the restarts."""
    with ExitStack() as stack:
        agent = stack.enter_context(running(tmp_path, private_lab.uri_readonly, extra=1))
        agent.wait_for(lambda: numbers_of(agent, "guest-0"))
        before = None
        late = []
        watching = stack.enter_context(ExitStack())
        watching.enter_context(unstalled(agent))
        for turn in range(restarts):
            connects = agent.value("virtstatd_connects_total") or 0
            private_lab.kill(signal.SIGKILL if turn % 2 else signal.SIGTERM)
            agent.wait_for(lambda: agent.value("libvirt_up") == 0)
            private_lab.start()
            answering = time.monotonic()
            agent.wait_for(lambda: agent.value("libvirt_up") == 1)
            agent.wait_for(
                partial(
                    lambda c: (
                        (agent.value("virtstatd_connects_total") or 0) > c
                        and numbers_of(agent, "guest-0")
                    ),
                    connects,
                )
            )
            late.append(time.monotonic() - answering)
            if turn == 1:  # the first ones warm up what is opened once
                before = descriptors(agent), threads(agent)
        watching.close()
        late.sort()
        after = descriptors(agent), threads(agent)
        print(f"{restarts} restarts; descriptors and threads before {before}, after {after}")
        print(f"numbers are back: median {late[restarts // 2]:.2f} s, last {late[-1]:.2f} s")
        assert before is not None
        agent.wait_for(lambda: abs(descriptors(agent) - before[0]) <= 2)
        agent.wait_for(lambda: abs(threads(agent) - before[1]) <= 2)
        # the promise; a single pause of the machine may break it, the rule may not
        assert late[restarts * 3 // 4] < BACK_SECONDS * slowness()
        assert len(agent.events("libvirt.lost")) == restarts
        assert not agent.events("not_json"), "a traceback reached the log"
        assert agent.stop() == 0
    assert not any("exception" in line for line in agent.log)


def test_without_libvirt_the_agent_waits_for_it(private_lab: Lab, tmp_path: Path):
    """Absent at start it is said once, the page is there, and the numbers come when it comes."""
    private_lab.stop()
    with running(tmp_path, private_lab.uri_readonly) as agent:
        agent.wait_for(lambda: agent.events("agent.started"))
        agent.wait_for(lambda: agent.value("libvirt_up") == 0)
        ticks = agent.value("virtstatd_ticks_total", tier="pulse") or 0
        agent.wait_for(
            lambda: (agent.value("virtstatd_ticks_total", tier="pulse") or 0) > ticks + 3
        )
        assert len(agent.events("libvirt.unreachable")) == 1
        assert not agent.events("libvirt.lost")
        private_lab.start()
        agent.wait_for(lambda: numbers_of(agent, "guest-0"))
        assert agent.value("libvirt_up") == 1
        assert len(agent.events("libvirt.connected")) == 1

"""A real daemon that is stopped, and one that ends while it is needed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.watcher import shown
from support.agent import running
from support.waits import probing, slowness, unstalled


NOTICED_SECONDS = 22.0
BACK_SECONDS = 5.0
PAGE_SECONDS = 0.1
RSS = "libvirt_domain_memory_stats_rss_bytes"


@pytest.mark.parametrize(
    ("keepalive", "seconds"), [(1, 6.0), pytest.param(5, 60.0, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(300)
def test_a_frozen_daemon_is_noticed_and_the_page_answers(
    private_lab: Lab, tmp_path: Path, keepalive: int, seconds: float
):
    """Scrapes are answered all the time, down is shown in time, and fresh numbers when it thaws."""
    names = set(private_lab.names())
    options = f"keepalive_seconds = {keepalive}"
    with running(tmp_path, private_lab.uri_readonly, extra=1, hypervisor=options) as agent:
        agent.wait_for(lambda: shown(agent, RSS) == names)
        with unstalled(agent), probing(f"{agent.address}/metrics") as answered:
            answered()
            begun = time.monotonic()
            agent.wait_for(lambda: time.monotonic() - begun > seconds / 4)
            idle = answered()
            with private_lab.frozen():
                begun = time.monotonic()
                noticed = agent.wait_for(lambda: agent.value("libvirt_up") == 0)
                lost = agent.wait_for(lambda: agent.events("libvirt.lost")) + noticed
                agent.wait_for(lambda: time.monotonic() - begun > seconds, 2 * seconds)
                assert not shown(agent, RSS), "stale numbers under a fresh time"
                frozen = answered()
            back = agent.wait_for(lambda: shown(agent, RSS) == names)
            assert agent.value("libvirt_up") == 1
        print(f"page, idle: {idle}\npage, frozen: {frozen}")
        print(f"down after {noticed:.1f} s, connection given up after {lost:.1f} s of {seconds} s;")
        print(f"fresh numbers {back:.2f} s after the thaw")
        # one poll of a second fails first; the keepalive may be as late as this
        slow = slowness()
        assert noticed < NOTICED_SECONDS * slow
        assert lost < max(NOTICED_SECONDS, 5 * keepalive) * slow
        assert back < BACK_SECONDS * slow
        assert frozen.share(99) < max(PAGE_SECONDS * slow, 3 * idle.share(99))
        assert len(agent.events("libvirt.lost")) == 1
        assert len(agent.events("libvirt.connected")) == 2

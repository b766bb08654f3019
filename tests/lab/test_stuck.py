"""Real QEMUs that stop answering, and a daemon that does."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.hypervisor import Lab
from running import Agent, running


GUESTS = 60
INTERVAL = 2.0
RSS = "libvirt_domain_memory_stats_rss_bytes"
READ = "libvirt_domain_block_stats_read_requests_total"
STATE = "libvirt_domain_info_state"
NIC = "libvirt_domain_interface_stats_receive_packets_total"


@pytest.fixture(scope="module")
def sixty(traces: object) -> Iterator[Lab]:
    """Sixty paused guests for this module, all well at the start and at the end of each test."""
    lab = Lab()
    with lab:
        traces.append(lab.trace)  # type: ignore[attr-defined]
        lab.paused_guests(GUESTS)
        yield lab


def shown(agent: Agent, family: str) -> set[str]:
    """Return the domains of which a family is shown."""
    return {dict(labels)["domain"] for name, labels in agent.samples() if name == family}


def polls(agent: Agent, tier: str = "monitor") -> float:
    """Return how many polls of a tier have begun."""
    return agent.value("virtstatd_ticks_total", tier=tier) or 0


class Watch:
    """Looks at the page all the time, and remembers who was missing when."""

    def __init__(self, agent: Agent, family: str, wanted: set[str]) -> None:
        self.missing: list[tuple[float, set[str]]] = []
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(agent, family, wanted))

    def _look(self, agent: Agent, family: str, wanted: set[str]) -> None:
        while not self._stop.wait(0.2):
            if gone := wanted - shown(agent, family):
                self.missing.append((time.monotonic(), gone))
            self.looks += 1

    def __enter__(self) -> Watch:  # noqa: PYI034 - never subclassed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def outstanding(lab: Lab) -> int:
    """Count the calls that libvirtd's ordinary workers are in, by the daemon's own word."""
    stats = lab.virt_admin("server-threadpool-info", "libvirtd")
    workers = {k: int(v) for k, v in re.findall(r"(\w+)\s*:\s*(\d+)", stats)}
    return workers["nWorkers"] - workers["freeWorkers"]


@pytest.mark.timeout(300)
def test_one_stuck_guest_hides_nobody(sixty: Lab, tmp_path: Path):
    """The other 59 are on the page throughout, the stuck one is named, and comes back complete."""
    names = set(sixty.names())
    lines = tmp_path / "readings.jsonl"
    more = f"[[sink]]\ntype = 'jsonl'\ntarget = '{lines}'\n"
    intervals = {"pulse": INTERVAL, "monitor": INTERVAL, "extra": 8}
    with running(tmp_path, sixty.uri_readonly, **intervals, more=more) as agent:
        agent.wait_for(lambda: shown(agent, READ) == names)
        others = names - {"guest-7"}
        with Watch(agent, READ, others) as watch:
            with sixty.stuck("guest-7"):
                begun = polls(agent)
                agent.wait_for(lambda: responsive(agent, "guest-7") == 0)
                assert polls(agent) - begun <= 3  # one was under way, two are the promise
                assert "guest-7" in shown(agent, STATE)
                agent.wait_for(lambda: "guest-7" not in shown(agent, READ))
                agent.wait_for(lambda: polls(agent) - begun >= 20, 120)
                assert "guest-7" not in shown(agent, READ), "stale numbers under a fresh time"
                assert [e["domain"] for e in agent.events("domain.unresponsive")] == ["guest-7"]
            begun = polls(agent)
            agent.wait_for(lambda: {"guest-7"} <= shown(agent, READ) & shown(agent, RSS))
            assert polls(agent) - begun <= 3
            agent.wait_for(lambda: responsive(agent, "guest-7") == 1)
        assert watch.looks > 5
        assert not watch.missing
        assert agent.stop() == 0
    counts = readings(lines, "block")
    healthy = {counts[name] for name in others}
    assert max(healthy) - min(healthy) <= 1, "somebody missed an interval that others did not"
    assert counts["guest-7"] <= min(healthy) - 19
    safe = readings(lines, "state")
    assert max(safe.values()) - min(safe.values()) <= 1


def readings(lines: Path, group: str) -> Counter[str]:
    """Count how often each domain had numbers of a group, by the time they were taken."""
    taken = set()
    for line in lines.read_text().splitlines():
        each = json.loads(line)
        whole = group != "block" or "read_requests" in each["fields"]
        if each["source"] == "bulk" and each["group"] == group and "domain" in each and whole:
            taken.add((each["domain"], each["time"]))
    return Counter(domain for domain, _ in taken)


def responsive(agent: Agent, domain: str) -> float | None:
    """Return the agent's verdict on a guest."""
    return agent.value("virtstatd_domain_responsive", domain=domain)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [3, 10])
def test_many_stuck_guests_lock_nobody_out(sixty: Lab, tmp_path: Path, count: int):
    """Four calls at most, an administrator is answered, state and NICs of all sixty flow."""
    names = set(sixty.names())
    victims = [f"guest-{5 * each + 1}" for each in range(count)]
    with running(tmp_path, sixty.uri_readonly, pulse=INTERVAL, monitor=INTERVAL, extra=8) as agent:
        agent.wait_for(lambda: shown(agent, READ) == names)
        most, slowest = 0, 0.0
        with contextlib.ExitStack() as stack:
            watches = [stack.enter_context(Watch(agent, family, names)) for family in (STATE, NIC)]
            stack.enter_context(sixty.stuck(*victims))
            begun = polls(agent)
            while polls(agent) - begun < 10:
                most = max(most, outstanding(sixty))
                asked = time.monotonic()
                sixty.virsh("dominfo", "guest-2")
                slowest = max(slowest, time.monotonic() - asked)
            agent.wait_for(lambda: all(responsive(agent, each) == 0 for each in victims))
            healthy = names - set(victims)
            agent.wait_for(lambda: shown(agent, READ) == healthy)
        assert most <= 4
        # without a bound it waits for the stuck guests themselves: it would never end
        assert slowest < 5
        assert not any(watch.missing for watch in watches)
        agent.wait_for(lambda: shown(agent, READ) == names)


@pytest.mark.timeout(300)
def test_a_frozen_daemon_is_noticed_and_the_page_answers(private_lab: Lab, tmp_path: Path):
    """Scrapes are answered all the time, down is shown in time, and up again when it thaws."""
    with running(tmp_path, private_lab.uri_readonly) as agent:
        agent.wait_for(lambda: agent.value("libvirt_up") == 1)
        lags = []
        with private_lab.frozen():
            frozen = time.monotonic()

            def down() -> bool:
                asked = time.monotonic()
                up = agent.value("libvirt_up")
                lags.append(time.monotonic() - asked)
                return up == 0

            agent.wait_for(down, 60)
            noticed = time.monotonic() - frozen
        agent.wait_for(lambda: agent.value("libvirt_up") == 1)
        # keepalive says 20 s; the machine may be busy, the page may not be late by seconds
        assert noticed < 30
        assert sorted(lags)[len(lags) * 99 // 100] < 1
        assert len(agent.events("libvirt.lost")) <= 1

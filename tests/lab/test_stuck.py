"""Real QEMUs that stop answering, and a daemon that does."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.support.hypervisor import Lab
from lab.support.namespaces import Trace
from lab.support.watcher import Watch, newest, polls, settled, shown, times
from support.agent import Agent, running
from support.manager import managing
from support.waits import Waits, probing, slowness, unstalled


GUESTS = 60
RSS = "libvirt_domain_memory_stats_rss_bytes"
READ = "libvirt_domain_block_stats_read_requests_total"
STATE = "libvirt_domain_info_state"
NIC = "libvirt_domain_interface_stats_receive_packets_total"


@pytest.fixture(scope="module")
def sixty(traces: list[Trace]) -> Iterator[Lab]:
    """Sixty paused guests for this module, all well at the start and at the end of each test."""
    lab = Lab()
    with lab:
        traces.append(lab.trace)
        lab.paused_guests(GUESTS)
        yield lab


def pace(lab: Lab) -> dict[str, Any]:
    """
    Return intervals and a deadline that this machine can keep at this time.

    They go by how long libvirtd itself takes for all of the statistics, and by how busy the machine
    is: where a poll cannot be over before the next one, healthy guests answer after the deadline,
    or a look at the page takes longer than polls, nothing is told of the agent.
    """
    begun = time.monotonic()
    for _ in range(3):
        lab.virsh("domstats", "--raw")
    whole = (time.monotonic() - begun) / 3
    interval = max(2.0, 4 * whole, slowness())
    print(f"everything takes {whole:.2f} s here: a poll each {interval:.1f} s")
    deadline = f"deadline_seconds = {max(5.0, 10 * whole):.1f}"
    return {"pulse": interval, "monitor": interval, "extra": 4 * interval, "hypervisor": deadline}


def outstanding(lab: Lab) -> int:
    """Count the calls that libvirtd's ordinary workers are in, by the daemon's own word."""
    stats = lab.virt_admin("server-threadpool-info", "libvirtd")
    workers = {k: int(v) for k, v in re.findall(r"(\w+)\s*:\s*(\d+)", stats)}
    return workers["nWorkers"] - workers["freeWorkers"]


@pytest.mark.timeout(1500)
def test_one_stuck_guest_hides_nobody(sixty: Lab, tmp_path: Path):
    """The other 59 are on the page throughout, the stuck one is named, and comes back complete."""
    names = set(sixty.names())
    lines = tmp_path / "readings.jsonl"
    with (
        managing(tmp_path) as manager,
        running(
            tmp_path,
            sixty.uri_readonly,
            **pace(sixty),
            lines=lines,
            NOTIFY_SOCKET=str(manager.path),
        ) as agent,
    ):
        agent.wait_for(lambda: shown(agent, READ) == names)
        others = names - {"guest-7"}
        with unstalled(agent), Watch(agent, READ, others) as watch:
            since = newest(lines)  # the first poll opens connections, and half of it may be late
            with sixty.stuck("guest-7"):
                begun = polls(agent)
                settled(agent, lambda: responsive(agent, "guest-7") == 0)
                assert "guest-7" in shown(agent, STATE)
                agent.wait_for(lambda: "guest-7" not in shown(agent, READ))
                agent.wait_for(lambda: polls(agent) - begun >= 20, 1000)
                assert "guest-7" not in shown(agent, READ), "stale numbers under a fresh time"
                (event,) = agent.events("domain.unresponsive")
                assert (event["domain"], event["uuid"]) == ("guest-7", sixty.uuid("guest-7"))
                assert event["pid"] == sixty.qemu_pid("guest-7")
                assert f"kill -CONT {event['pid']}" in str(event["fix"])
                assert str(event["since"]) <= str(event["timestamp"])
                assert "1 of them does not answer (guest-7)" in manager.messages[-1]
            settled(agent, lambda: {"guest-7"} <= shown(agent, READ) & shown(agent, RSS))
            agent.wait_for(lambda: responsive(agent, "guest-7") == 1)
            agent.wait_for(
                lambda: manager.messages[-1].endswith("libvirt is up, 60 guests, 2 sinks")
            )
        assert watch.looks > 5
        assert not watch.missing
        assert agent.stop() == 0
    counts = times(lines, "block", "read_requests", since)
    healthy = {counts[name] for name in others}
    assert max(healthy) - min(healthy) <= 1, "somebody missed an interval that others did not"
    assert counts["guest-7"] <= min(healthy) - 19
    safe = times(lines, "state", since=since)
    assert max(safe.values()) - min(safe.values()) <= 1


def responsive(agent: Agent, domain: str) -> float | None:
    """Return the agent's verdict on a guest."""
    return agent.value("virtstatd_domain_responsive", domain=domain)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("count", "seen"),
    [
        (3, True),
        (10, False),
        pytest.param(3, False, marks=pytest.mark.soak),
        pytest.param(10, True, marks=pytest.mark.soak),
    ],
)
def test_many_stuck_guests_lock_nobody_out(sixty: Lab, tmp_path: Path, count: int, seen: bool):
    """
    Four calls at most, an administrator is answered, state and NICs of all sixty flow.

    Those that are seen to stand still are not asked at all. Of the others the agent learns by the
    calls that hang, as on a host whose guests it cannot see in /proc.
    """
    names = set(sixty.names())
    victims = [f"guest-{5 * each + 1}" for each in range(count)]
    healthy = names - set(victims)
    uri = sixty.uri_readonly
    if not seen:  # the pid files are looked for beside the socket
        (tmp_path / "socket").symlink_to(sixty.socket_readonly)
        uri = f"qemu+unix:///system?socket={tmp_path}/socket"
    asking = ("virsh", "--connect", sixty.uri, "dominfo", sixty.uuid("guest-2"))
    with sixty.stuck(*victims), probing(*asking) as answered:
        alone = asked(answered, 20)
    with running(tmp_path, uri, **pace(sixty)) as agent:
        agent.wait_for(lambda: shown(agent, READ) == names)
        most = 0
        with ExitStack() as watching:
            watching.enter_context(unstalled(agent))
            watches = [watching.enter_context(Watch(agent, each, names)) for each in (STATE, NIC)]
            watching.enter_context(sixty.stuck(*victims))
            begun = polls(agent)
            while polls(agent, since=begun) < 6:  # nobody else asks for now
                most = max(most, outstanding(sixty))
            with probing(*asking) as answered:
                agent.wait_for(lambda: polls(agent, since=begun) >= 11, 600)
                beside = asked(answered, 20)
            told = len(shown(agent, READ) & healthy)
            if seen:
                agent.wait_for(lambda: all(responsive(agent, each) == 0 for each in victims))
                agent.wait_for(lambda: shown(agent, READ) == healthy)
        print(f"virsh dominfo, {count} of {GUESTS} guests stuck, without the agent: {alone}")
        print(f"with it: {beside}; {most} calls outstanding at most")
        print(f"monitor statistics of {told} of {len(healthy)} healthy guests meanwhile")
        assert most <= 4
        assert seen or most >= 3, "nothing hung, so nothing was proven"
        # without a bound it waits for the stuck guests themselves: it would never end
        slow = slowness()
        assert beside.share(100) < 30 * slow
        assert beside.share(50) < max(1.0 * slow, 3 * alone.share(50))
        assert beside.share(95) < max(1.0 * slow, 3 * alone.share(95))
        assert not any(watch.missing for watch in watches)
        agent.wait_for(lambda: shown(agent, READ) == names)


def asked(answered: Callable[[], Waits], count: int) -> Waits:
    """Return how long answers took since the last call, of so many at least."""
    waits: list[float] = []
    while len(waits) < count:
        waits += answered().seconds
        time.sleep(0.1)
    return Waits(waits)


def test_a_pid_file_proves_nothing(private_lab: Lab, tmp_path: Path):
    """One that leads to another process, stopped as it is, says nothing of its healthy guest."""
    names = set(private_lab.names())
    stopped = private_lab.spawn("sleep", "1000")
    os.kill(stopped, signal.SIGSTOP)
    files = {
        name: private_lab.directory / f"run/qemu/{name}.pid" for name in ("guest-1", "guest-2")
    }
    kept = {name: file.read_text() for name, file in files.items()}
    try:
        files["guest-1"].write_text(str(stopped))
        files["guest-2"].write_text(str(private_lab.qemu_pid("guest-3")))
        with (
            private_lab.stuck("guest-3"),
            running(tmp_path, private_lab.uri_readonly, local=True) as agent,
        ):
            agent.wait_for(lambda: shown(agent, READ) == names - {"guest-3"})
            begun = polls(agent)
            agent.wait_for(lambda: polls(agent, since=begun) >= 5)
            assert shown(agent, READ) == names - {"guest-3"}
            unresponsive = agent.events("domain.unresponsive")
            assert [line["domain"] for line in unresponsive] == ["guest-3"]
            assert [responsive(agent, each) for each in sorted(names)] == [1, 1, 1, 0]
    finally:
        for name, file in files.items():
            file.write_text(kept[name])

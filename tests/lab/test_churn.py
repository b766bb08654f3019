"""Guests and devices come and go while polls run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.watcher import domains, polls, polls_kept, settled, times
from support.agent import Agent, running


def devices(agent: Agent, domain: str, family: str) -> set[str]:
    """Return the devices of a domain that a family shows."""
    return {
        dict(labels)["target_device"]
        for name, labels in agent.samples()
        if name == family and dict(labels)["domain"] == domain
    }


def infos(agent: Agent, uuid: str) -> int:
    """Count the series that carry a domain's UUID."""
    return sum(dict(labels).get("uuid") == uuid for _, labels in agent.samples())


def test_series_follow_guests(private_lab: Lab, tmp_path: Path):
    """A guest that starts appears, one that stops disappears, and nothing of it stays behind."""
    with running(tmp_path, private_lab.uri_readonly) as agent:
        known = set(private_lab.names())
        agent.wait_for(lambda: domains(agent) == known)
        private_lab.create(private_lab.definition("newcomer"))
        settled(agent, lambda: domains(agent) == known | {"newcomer"})
        agent.wait_for(lambda: devices(agent, "newcomer", READ) == {"vda", "vdb"})
        private_lab.destroy("newcomer")
        settled(agent, lambda: domains(agent) == known)
        private_lab.rename("guest-0", "renamed")
        settled(agent, lambda: domains(agent) == known - {"guest-0"} | {"renamed"}, within=4)
        uuid = private_lab.uuid("renamed")
        agent.wait_for(lambda: infos(agent, uuid) == 1)


READ = "libvirt_domain_block_stats_read_bytes_total"
INFO = "libvirt_domain_block_stats_info"


def test_series_follow_hot_plugged_disks(private_lab: Lab, tmp_path: Path):
    """A disk that is plugged in appears with its description, and goes with it when unplugged."""
    with running(tmp_path, private_lab.uri_readonly) as agent:
        before = {"vda", "vdb"}
        agent.wait_for(lambda: devices(agent, "guest-1", INFO) == before)
        agent.wait_for(lambda: devices(agent, "guest-1", READ) == before)
        target = private_lab.attach_disk("guest-1")
        settled(agent, lambda: devices(agent, "guest-1", READ) == before | {target})
        agent.wait_for(lambda: target in devices(agent, "guest-1", INFO))
        private_lab.detach_disk("guest-1", target)
        settled(agent, lambda: devices(agent, "guest-1", READ) == before)
        agent.wait_for(lambda: target not in devices(agent, "guest-1", INFO))
        others = [name for name in private_lab.names() if name != "guest-1"]
        assert all(devices(agent, name, READ) == {"vda", "vdb"} for name in others)


RECEIVED = "libvirt_domain_interface_stats_receive_bytes_total"


def test_series_follow_hot_plugged_nics(private_lab: Lab, tmp_path: Path):
    """A NIC of a guest with an operating system appears and disappears by its name."""
    private_lab.live_guest("plugging")
    with running(tmp_path, private_lab.uri_readonly) as agent:
        agent.wait_for(lambda: devices(agent, "plugging", RECEIVED))
        before = devices(agent, "plugging", RECEIVED)
        tap, mac = private_lab.attach_nic("plugging")
        settled(agent, lambda: devices(agent, "plugging", RECEIVED) == before | {tap})
        private_lab.detach_nic("plugging", mac)
        settled(agent, lambda: devices(agent, "plugging", RECEIVED) == before)


@pytest.mark.parametrize(
    ("guests", "intervals"), [(24, 10), pytest.param(300, 60, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(1200)
def test_polls_outlive_guests_that_come_and_go(
    private_lab: Lab, tmp_path: Path, guests: int, intervals: int
):
    """Guests come and go in every way: nobody who stays loses a poll, and no end is a warning."""
    lines = tmp_path / "readings.jsonl"
    stay = set(private_lab.names())
    saved = tmp_path / "saved"

    def live_and_die(name: str) -> None:
        private_lab.create(private_lab.definition(name))
        private_lab.destroy(name)

    with (
        ThreadPoolExecutor(4) as side_by_side,
        running(tmp_path, private_lab.uri_readonly, lines=lines) as a,
    ):
        a.wait_for(lambda: domains(a) == stay)
        private_lab.create(private_lab.definition("travels"))
        a.wait_for(lambda: "travels" in domains(a))
        made = 0
        begun, since = polls(a), time.monotonic()
        while made < guests or polls(a, since=begun) < intervals:
            list(side_by_side.map(live_and_die, (f"brief-{made + each}" for each in range(4))))
            made += 4
            if made % 12 == 0:
                private_lab.virsh("save", "travels", str(saved))
                private_lab.virsh("restore", str(saved), "--paused")
        print(f"{made / (time.monotonic() - since):.1f} guests a second came and went")
        unlike: list[set[str]] = []

        def alike() -> bool:
            unlike.append(domains(a) ^ (stay | {"travels"}))
            return not unlike[-1]

        settled(a, alike)
        assert polls_kept(a, begun)
        assert a.value("virtstatd_undecodable_records_total") == 0
        assert a.stop() == 0
    assert [line for line in a.log if "exception" in line] == []
    assert [line for line in a.log if str(line["event"]).startswith("domain.")] == []
    counts = times(lines, "balloon")
    assert max(counts[name] for name in stay) - min(counts[name] for name in stay) <= 1
    assert min(counts[name] for name in stay) >= intervals

"""What guests say of themselves, as documents and findings."""

from __future__ import annotations

import pytest

from support.insight import Item, World, read, state
from virtstatd.insight.findings import FINDINGS
from virtstatd.insight.inside import FULL_MAX
from virtstatd.model import Domain, Labels, Number, Reading
from virtstatd.testing import make_domain


VM = make_domain(0)
LIFETIME = 600.0


def filesystems(domain: Domain, *several: tuple[str, int, int], kind: str = "ext4") -> Reading:
    """Return what a guest says of file systems: mount point, size and use."""
    values: dict[Item, Number] = {}
    for key, at in (("size", 1), ("used", 2)):
        for each in several:
            labels: Labels = (
                ("mountpoint", each[0]),
                ("device", "vda1"),
                ("fstype", kind),
                ("target_device", "vda,vdb"),
            )
            values[key, labels] = int(each[at])
    return read(domain, "guest_filesystem", values)


def period(domain: Domain, seconds: int) -> Reading:
    """Return the period of a guest's balloon driver."""
    return read(domain, "domain", {("balloon_period", ()): seconds})


def found(world: World) -> list[tuple[str, str | None, str]]:
    """Return the findings: kind, device and severity."""
    several = world.insight.judge.documents()
    return [(each["finding"], each["device"], each["severity"]) for each in several]


def test_a_full_file_system_is_found_and_one_that_is_always_full_is_not():
    """From 90 % on it is a warning, from 98 % on critical; nobody writes to a CD-ROM."""
    world = World()
    world.put(
        state(VM),
        filesystems(VM, ("/", 100, 89), ("/var", 100, 91), ("/data", 1000, 985)),
        lifetime_seconds=LIFETIME,
    )
    world.look()
    assert found(world) == [
        ("filesystem_full", "/data", "critical"),
        ("filesystem_full", "/var", "warning"),
    ]
    text = world.insight.judge.documents()[1]["text"]
    assert text == "91 % of the file system /var in vm-0 are used, as the guest reports"
    world = World()
    cd = filesystems(VM, ("/media", 100, 100), kind="ISO9660")
    world.put(state(VM), cd, lifetime_seconds=LIFETIME)
    world.look()
    assert found(world) == []


def test_a_guest_that_lies_is_a_few_findings_at_most():
    """However many full file systems a guest names, the same few of them are findings."""
    world = World()
    several = [(f"/m{number:02}", 100, 100) for number in range(40)]
    for _ in range(3):
        world.put(state(VM), filesystems(VM, *several), lifetime_seconds=LIFETIME)
        world.look()
        world.go(5)
    assert [device for _, device, _ in found(world)] == [f"/m0{n}" for n in range(FULL_MAX)]
    assert len(world.told) == FULL_MAX


def test_guests_that_report_no_memory_are_one_finding_of_the_host():
    """Guests with a balloon without a period are counted; it ends when all of them have one."""
    world = World()
    for seconds in (0, 10):
        for _ in range(20):
            for number in range(3):
                domain = make_domain(number)
                world.put(state(domain), period(domain, seconds if number else 10))
            world.look()
            world.go(5)
        assert found(world) == ([] if seconds else [("memory_unreported", None, "warning")])
    (recent,) = world.insight.judge.recent()
    assert (recent["value"], recent["guest"]) == (2, None)


def test_the_document_has_what_the_agent_says():
    """File systems with their disks, and the rest under `guest_agent`; unknown is null."""
    world = World()
    eth0 = {"interface": "eth0", "mac_address": "52:54", "ip_type": "ipv4", "prefix": "24"}
    facts: dict[Item, Number] = {
        ("os", (("os_id", "debian"),)): 1,
        ("hostname", (("hostname", "web"),)): 1,
        ("interface", (*eth0.items(), ("address", "10.0.0.2"))): 1,
        ("vcpus_online", ()): 2,
    }
    often: dict[Item, Number] = {
        ("responsive", ()): 1,
        ("load_1m", ()): 0.5,
        ("users", ()): 1,
        ("login", (("user", "root"), ("user_domain", ""))): 1_700_000_000_000,
    }
    world.put(
        state(VM),
        filesystems(VM, ("/", 1000, 250)),
        read(VM, "guest_facts", facts),
        read(VM, "guest", often),
        read(VM, "domain", {("agent_connected", ()): 1}),
    )
    document = world.insight.documents.guest(VM.uuid)
    assert document
    (root,) = document["filesystems"]
    assert root == {
        "mountpoint": "/",
        "device": "vda1",
        "type": "ext4",
        "disks": ["vda", "vdb"],
        "size_bytes": 1000,
        "used_bytes": 250,
        "used_ratio": pytest.approx(0.25),
    }
    agent = document["guest_agent"]
    assert agent["addresses"] == [
        {"interface": "eth0", "mac_address": "52:54", "address": "10.0.0.2", "prefix": "24"}
    ]
    assert agent["logins"][0]["user"] == "root"
    assert agent["logins"][0]["since"].startswith("2023-11-14T22:13:20")
    del agent["addresses"], agent["logins"]
    assert agent == {
        "connected": True,
        "responsive": True,
        "os": {"os_id": "debian"},
        "hostname": "web",
        "timezone": None,
        "load": [0.5, None, None],
        "users": 1,
        "vcpus_online": 2,
    }


def test_the_threshold_is_that_of_the_table():
    """A file system is full from the threshold of its finding on."""
    kind = next(each for each in FINDINGS if each.name == "filesystem_full")
    assert (kind.threshold, kind.critical) == (0.9, 0.98)

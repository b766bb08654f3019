"""What guests say is bounded, plausible and counted, whatever they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtstatd.catalog import shipped
from virtstatd.collect.guest_agent import answers, cpus
from virtstatd.collect.guest_agent.answers import TEXT_MAX, Said
from virtstatd.collect.guest_agent.questions import QUESTIONS, flat_interfaces


def filesystem(number: int, mountpoint: str, size: object, used: object) -> dict[str, Any]:
    """Return what libvirt says of a file system."""
    return {
        f"fs.{number}.mountpoint": mountpoint,
        f"fs.{number}.name": f"vda{number}",
        f"fs.{number}.fstype": "ext4",
        f"fs.{number}.total-bytes": size,
        f"fs.{number}.used-bytes": used,
        f"fs.{number}.disk.count": 1,
        f"fs.{number}.disk.0.alias": "vda",
        f"fs.{number}.disk.0.device": "/dev/vda1",
    }


def labels(said: Said, key: str) -> list[dict[str, str]]:
    """Return the labels of the rows of a key."""
    return [dict(of) for name, of, _ in said.rows if name == key]


def test_file_systems_have_size_use_and_their_disks():
    """Each has both numbers, and the names of the disks of the domain that it is on."""
    answer = {"fs.count": 2} | filesystem(0, "/", 1000, 400) | filesystem(1, "/var", 500, 500)
    answer |= {"fs.1.disk.1.alias": "vdb"}
    said = answers.said_filesystems(answer, 50)
    assert [(key, dict(of)["mountpoint"], value) for key, of, value in said.rows] == [
        ("size", "/", 1000),
        ("size", "/var", 500),
        ("used", "/", 400),
        ("used", "/var", 500),
    ]
    assert [each["target_device"] for each in labels(said, "size")] == ["vda", "vda,vdb"]
    assert (said.cut, said.impossible, said.unknown) == (0, 0, 0)


@pytest.mark.parametrize(
    ("size", "used"), [(10, 11), (-1, -2), (10, -1), (1 << 64, 5), ((1 << 64) - 1, 1), (0, 0)]
)
def test_a_size_that_cannot_be_is_left_out_alone(size: int, used: int):
    """More used than there is, less than nothing, more than a disk can have: counted, not shown."""
    said = answers.said_filesystems(filesystem(0, "/a", size, used) | filesystem(1, "/b", 9, 8), 50)
    assert {each["mountpoint"] for each in labels(said, "size")} == {"/b"}
    assert said.impossible == 1


def test_more_than_the_limit_are_cut_the_same_each_time():
    """The first by their mount point are kept in whatever order the guest names them."""
    parts = [filesystem(n, f"/m{9 - n}", 10, 1) for n in range(10)]
    forth: dict[str, Any] = {}
    back: dict[str, Any] = {}
    for each in parts:
        forth |= each
    for each in reversed(parts):
        back |= each
    said = answers.said_filesystems(forth, 3)
    assert [each["mountpoint"] for each in labels(said, "size")] == ["/m0", "/m1", "/m2"]
    assert said.cut == 7
    assert said.rows == answers.said_filesystems(back, 3).rows


def test_a_size_that_the_guest_does_not_know_is_absent():
    """A file system without numbers has no rows, and is no fault."""
    said = answers.said_filesystems({"fs.0.mountpoint": "/proc", "fs.0.fstype": "proc"}, 50)
    assert said == Said()


def test_load_users_and_facts():
    """Each of the other answers becomes rows; what is not known to this version is counted."""
    assert answers.said_load(
        {"load.1m": 0.5, "load.5m": float("nan"), "load.15m": -1.0}, 9
    ) == Said(rows=[("load_1m", (), 0.5)], impossible=2)
    sessions: dict[str, Any] = {"user.count": 3}
    for number, (name, at) in enumerate((("root", 2000), ("root", 1000), ("eve", 0))):
        sessions |= {f"user.{number}.name": name, f"user.{number}.login-time": at}
    said = answers.said_users(sessions, 9)
    assert said.rows == [
        ("users", (), 3),
        ("login", (("user", "root"), ("user_domain", "")), 1000),
    ]
    assert said.impossible == 1
    os = answers.said_system({"os.id": "debian", "os.version": "12", "os.colour": "red"}, 9)
    assert labels(os, "os") == [{"os_id": "debian", "os_version": "12"}]
    assert os.unknown == 1
    zone = answers.said_timezone({"timezone.name": "CET", "timezone.offset": 3600}, 9)
    assert zone.rows == [("timezone", (("timezone", "CET"),), 1), ("timezone_offset", (), 3600)]
    assert answers.said_timezone({"timezone.offset": -(1 << 31)}, 9) == Said(impossible=1)
    assert labels(answers.said_hostname({"hostname": "web-1"}, 9), "hostname") == [
        {"hostname": "web-1"}
    ]
    assert cpus.said_vcpus({"vcpus": "0-3", "online": "0,2-3", "offlinable": ""}, 9).rows == [
        ("vcpus", (), 4),
        ("vcpus_online", (), 3),
    ]


def test_disks_interfaces_and_drivers_are_facts():
    """They are rows of labels, those without a text left out."""
    disk = {"disk.0.name": "/dev/vda1", "disk.0.partition": True, "disk.0.alias": "vda"}
    disk |= {"disk.0.dependency.count": 1, "disk.0.dependency.0.name": "/dev/vda"}
    said = answers.said_disks(disk, 9)
    assert labels(said, "disk") == [
        {"device": "/dev/vda1", "partition": "yes", "target_device": "vda"}
    ]
    assert said.unknown == 0
    of = {"eth0": {"hwaddr": "52:54", "addrs": [{"addr": "10.0.0.2", "prefix": 24, "type": 0}]}}
    said = answers.said_interfaces(flat_interfaces(of | {"lo": {"addrs": None, "hwaddr": None}}), 9)
    assert labels(said, "interface") == [
        {
            "interface": "eth0",
            "mac_address": "52:54",
            "ip_type": "ipv4",
            "address": "10.0.0.2",
            "prefix": "24",
        },
        {"interface": "lo"},
    ]
    said = answers.said_drivers({"device.0.driverName": "VirtIO", "device.0.driverVersion": "1"}, 9)
    assert labels(said, "driver") == [{"driver": "VirtIO", "driver_version": "1"}]


def test_cpu_times_are_rows_by_cpu_and_mode():
    """Times that cannot be are left out, a CPU twice is counted once, and CPUs have a limit."""
    cpu = {"cpu": 0, "type": "linux", "user": 5, "idle": -1, "guestnice": 1 << 60, "new": 1}
    said = cpus.said_cpu({"cpus": [cpu, {"cpu": "x"}, {"cpu": 1, "user": 7}]}, 50)
    assert said.rows == [
        ("cpu", (("cpu", "0"), ("mode", "user")), 5),
        ("cpu", (("cpu", "1"), ("mode", "user")), 7),
    ]
    assert (said.impossible, said.unknown, said.cut) == (2, 1, 1)
    same = [{"cpu": 0, "user": 1}, {"cpu": 0, "user": 2}]
    assert len(cpus.said_cpu({"cpus": same}, 50).rows) == 1


NAMES = st.sampled_from(["fs", "user", "os", "timezone", "disk", "if", "device", "load"])
LEAVES = st.sampled_from(
    ["name", "mountpoint", "total-bytes", "used-bytes", "login-time", "addr", "1m", "id", "new"]
)
VALUES = st.one_of(
    st.text(max_size=400), st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans()
)
KEYS = st.builds(
    lambda name, number, leaf, nested: f"{name}.{number}.{leaf}{nested}",
    NAMES,
    st.integers(0, 30),
    LEAVES,
    st.sampled_from(["", ".0.addr", ".1.alias"]),
)


@given(st.dictionaries(KEYS, VALUES, max_size=60), st.integers(1, 5))
def test_whatever_libvirt_passes_on_is_rows_of_the_catalog(answer: dict[str, Any], most: int):
    """An answer gives a valid shape with short labels and few rows, or an error of one question."""
    for question in QUESTIONS:
        try:
            said = question.said(answer, most)
        except (TypeError, ValueError, AttributeError):  # of a type that libvirt never sends
            continue
        shape = shipped().shape(question.group, [(key, of) for key, of, _ in said.rows])
        assert len(shape.series) <= 2 * most + 2
        for _, of, value in said.rows:
            assert abs(value) < 1 << 63
            assert all(len(each.encode()) <= 4 * TEXT_MAX for _, each in of)

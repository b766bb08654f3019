"""The simulator before real clients: libvirt-python and virsh, unmodified."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.servers import needs
from support.simulator import (
    LibvirtError,
    Python,
    Simulated,
    python,
    records,
    simulated,
    virsh,
    wire,
)
from virtstatd.errors import StartError
from virtstatd_simulator import Simulator
from virtstatd_simulator.wire.rpc import MAX_PAYLOAD
from virtstatd_simulator.wire.xdr import pack_uint


GOLDEN = Path(__file__).parent.parent / "golden" / "simulator"
ALL = "{d.name(): p for d, p in c.getAllDomainStats(%d, %d)}"
ENFORCE = 1 << 31

needs_virsh = needs("virsh")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """Run a host of 40 guests, a few of them paused or shut off."""
    with simulated(tmp_path_factory.mktemp("host"), "--domains=40", "--cpus=300") as host:
        yield host


@pytest.fixture
def ask(host: Simulated) -> Iterator[Python]:
    """libvirt-python with a read-only connection `c`."""
    with python(host.uri) as client:
        yield client


def test_a_client_finds_every_guest(ask: Python) -> None:
    """Lists, lookups and the bulk call name the same 40 guests, with the same ids."""
    listed = ask("{d.name(): [d.UUIDString(), d.ID()] for d in c.listAllDomains()}")
    assert len(listed) == 40
    assert ask("{d.name(): [d.UUIDString(), d.ID()] for d, _ in c.getAllDomainStats()}") == listed
    name = next(iter(listed))
    identity, number = listed[name]
    assert ask(f"c.lookupByName({name!r}).UUIDString()") == identity
    assert ask(f"c.lookupByUUIDString({identity!r}).name()") == name
    assert ask(f"c.lookupByID({number}).name()") == name
    running = {name for name, (_, id_) in listed.items() if id_ > 0}
    assert set(ask("[d.name() for d in c.listAllDomains(1)]")) == running
    assert set(ask("[d.name() for d in c.listAllDomains(2)]")) == listed.keys() - running != set()
    assert ask("[c.listAllNetworks(), c.listAllStoragePools()]") == [[], []]


@pytest.mark.parametrize("flags", [0, 1, 2, 4, 8, 16, 32, 64, 128, 1 | 4, 1 | 32, 2 | 16, 16 | 32])
def test_filters_of_list_and_statistics_agree(ask: Python, flags: int) -> None:
    """A filter admits the same guests to a list and to the bulk call: OR inside a set, else AND."""
    facts = "{d.name(): [d.isActive(), d.isPersistent(), d.state()[0]] for d in c.listAllDomains()}"
    expected = [
        name
        for name, (active, persistent, state) in ask(facts).items()
        if (not flags & 3 or flags & (1 if active else 2))
        and (not flags & 12 or flags & (4 if persistent else 8))
        and (not flags & 240 or flags & {1: 16, 3: 32, 5: 64}[state])
    ]
    assert ask(f"[d.name() for d in c.listAllDomains({flags})]") == expected
    assert list(ask(ALL % (1, flags))) == expected
    assert ask(f"[d.name() for d, _ in c.domainListGetStats(c.listAllDomains(), 1, {flags})]") == (
        expected
    )


def test_groups_are_bits(ask: Python) -> None:
    """A group brings its own fields; 0 brings every group, an unknown bit nothing."""
    every = ask(ALL % (0, 1))
    apart: dict[str, dict[str, object]] = {name: {} for name in every}
    for bit in range(11):
        for name, params in ask(ALL % (1 << bit, 1)).items():
            apart[name] |= params
    assert {name: set(params) for name, params in apart.items()} == {
        name: set(params) for name, params in every.items()
    }
    assert set(map(len, ask(ALL % (1 << 20, 0)).values())) == {0}
    with pytest.raises(LibvirtError) as refused:
        ask(ALL % (1 << 20, ENFORCE))
    assert refused.value.args == (
        74,
        10,
        "argument unsupported: Stats types bits 0x100000 are not supported by this daemon or QEMU",
    )


def test_a_chain_is_reported_when_asked(ask: Python) -> None:
    """BACKING adds a row for every image below a disk."""
    plain, chain = ask(ALL % (32, 1)), ask(ALL % (32, 1 | 1 << 30))
    more = [name for name in plain if chain[name]["block.count"] > plain[name]["block.count"]]
    assert more
    for name in more:
        assert chain[name]["block.1.name"] == chain[name]["block.0.name"]
        assert chain[name]["block.1.path"] != chain[name]["block.0.path"]


ERRORS = {
    "c.lookupByName('no')": (42, 10, "Domain not found: no domain with matching name 'no'"),
    "c.lookupByID(999)": (42, 10, "Domain not found: no domain with matching id 999"),
    "c.lookupByUUID(bytes(16))": (
        42,
        10,
        "Domain not found: no domain with matching uuid '00000000-0000-0000-0000-000000000000'",
    ),
    "c.getAllDomainStats(0, 1 << 12)": (
        8,
        10,
        "unsupported flags (0x1000) in function qemuConnectGetAllDomainStats",
    ),
    "c.listAllDomains(1 << 25)": (
        8,
        10,
        "unsupported flags (0x2000000) in function qemuConnectListAllDomains",
    ),
    "d.XMLDesc(1 << 20)": (
        8,
        10,
        "unsupported flags (0x100000) in function qemuDomainGetXMLDesc",
    ),
    "d.metadata(2, 'http://no', 0)": (
        80,
        20,
        "metadata not found: Requested metadata element is not present",
    ),
    "d.interfaceStats('vnet0')": (
        3,
        20,
        "this function is not supported by the connection driver: procedure 65",
    ),
    "off.controlInfo()": (55, 10, "Requested operation is not valid: domain is not running"),
    "d.guestInfo()": (
        29,
        20,
        "operation forbidden: read only access prevents virDomainGetGuestInfo",
    ),
}


@pytest.mark.parametrize("code", ERRORS)
def test_errors_are_libvirts_own(ask: Python, code: str) -> None:
    """Code, domain and words of an error are those that libvirtd 9.0 gave to the same call."""
    ask("d = c.listAllDomains(1)[0]")
    ask("off = c.listAllDomains(2)[0]")
    with pytest.raises(LibvirtError) as refused:
        ask(code)
    assert refused.value.args == ERRORS[code]


def test_one_guest_is_told_the_same_everywhere(ask: Python) -> None:
    """State, info, XML, metadata and statistics of a guest agree."""
    ask("d = c.listAllDomains(1)[0]")
    stats = ask("c.domainListGetStats([d], 0, 0)[0][1]")
    assert ask("d.state()") == [stats["state.state"], stats["state.reason"]]
    state, most, now, vcpus, time = ask("d.info()")
    assert [state, most, now, vcpus] == [
        stats["state.state"],
        stats["balloon.maximum"],
        stats["balloon.current"],
        stats["vcpu.current"],
    ]
    later = ask("c.domainListGetStats([d], 0, 0)[0][1]")
    assert stats["cpu.time"] <= time <= later["cpu.time"]
    assert ask("d.getCPUStats(True)[0]['cpu_time']") >= time
    xml = ask("d.XMLDesc(0)")
    for text in (stats["net.0.name"], stats["block.0.path"], f">{vcpus}</vcpu>"):
        assert text in xml
    assert "<target dev='vnet" not in ask("d.XMLDesc(2)")
    uri = "http://openstack.org/xmlns/libvirt/nova/1.1"
    element = ask(f"d.metadata(2, {uri!r}, 0)")
    assert element.startswith("<instance>\n  <package version=")
    assert re.findall("<vcpus>(.*)</vcpus>", element) == [str(vcpus)]
    assert ask("d.controlInfo()") == [0, 0, 0]
    assert ask("d.OSType()") == "hvm"
    assert ask("[d.jobInfo()[0], d.blockJobInfo('vda')]") == [0, {}]


def test_cpu_time_per_host_cpu(ask: Python) -> None:
    """300 host CPUs come in slices of 128; they add up to the guest's total and never fall."""
    ask("d = c.listAllDomains(1)[0]")
    first = ask("d.getCPUStats(False)")
    total = ask("d.getCPUStats(True)[0]['cpu_time']")
    again = ask("d.getCPUStats(False)")
    assert len(first) == len(again) == 300
    assert sum(cpu["cpu_time"] for cpu in first) <= total
    assert sum(cpu["cpu_time"] for cpu in again) >= total - 300
    assert all(b["cpu_time"] >= a["cpu_time"] for a, b in zip(first, again, strict=True))
    assert all(cpu["vcpu_time"] <= cpu["cpu_time"] for cpu in first)


def test_the_host_describes_itself(ask: Python) -> None:
    """Version, name and CPUs of the host are those that were asked for."""
    assert ask("[c.getLibVersion(), c.getHostname()]") == [9000000, "simulated"]
    assert ask("c.getCPUMap()") == [300, [True] * 300, 300]


def test_a_host_without_cpu_time_per_cpu(tmp_path: Path) -> None:
    """As under cgroup v2, CPU time per host CPU is refused and the total is not."""
    options = ("--domains=1", "--no-percpu", "--profile=small")
    with simulated(tmp_path, *options) as host, python(host.uri) as ask:
        ask("d = c.listAllDomains()[0]")
        assert ask("len(d.getCPUStats(True))") == 1
        with pytest.raises(LibvirtError, match="not supported for backend") as refused:
            ask("d.getCPUStats(False)")
    assert refused.value.args[:2] == (84, 54)


@pytest.mark.parametrize(("release", "version"), [(9, 9000000), (11, 11010000), (12, 12008000)])
def test_every_release_is_decoded(tmp_path: Path, release: int, version: int) -> None:
    """libvirt-python takes the records of every simulated libvirt, doubles and all."""
    options = ("--domains=30", f"--libvirt={release}")
    with simulated(tmp_path, *options) as host, python(host.uri) as ask:
        assert ask("c.getLibVersion()") == version
        found = ask(ALL % (0, 1))
        kinds = {type(value) for params in found.values() for value in params.values()}
        assert kinds >= ({int, bool, str, float} if release > 9 else {int, bool, str})


# replay


async def test_captured_records_come_back_byte_by_byte(tmp_path: Path) -> None:
    """What a real libvirtd answered is what the simulator answers when it replays it."""
    captured = (GOLDEN / "libvirt-9.0-all.bin").read_bytes()
    listed = records(captured)
    replay = tmp_path / "records.json"
    replay.write_text(json.dumps(listed))
    with simulated(tmp_path, "--domains=0", f"--replay={replay}") as host:
        client = await wire(host.socket)
        assert await client.call(344, pack_uint(0) * 3) == captured
        client.close()
        with python(host.uri) as ask:
            found = ask(
                "{d.name(): [[k, type(v).__name__, v] for k, v in p.items()]"
                " for d, p in c.getAllDomainStats()}"
            )
            ids = ask("{d.name(): d.ID() for d in c.listAllDomains()}")
    names = {1: "int", 2: "int", 3: "int", 4: "int", 5: "float", 6: "bool", 7: "str"}
    assert found == {
        record["name"]: [[k, names[t], bool(v) if t == 6 else v] for k, t, v in record["params"]]
        for record in listed
    }
    assert ids == {record["name"]: record["id"] for record in listed}


def test_a_captured_description_comes_back_as_it_is(tmp_path: Path) -> None:
    """A guest that was captured with its XML is described by it, one without by what it has."""
    xml = "<domain type='kvm'><name>odd</name><x:y xmlns:x='urn:x'><![CDATA[<&]]></x:y></domain>\n"
    entries = [
        {"name": name, "uuid": number * 32, "id": int(number), "params": []} | more
        for number, name, more in (("1", "odd", {"xml": xml}), ("2", "plain", {}))
    ]
    replay = tmp_path / "records.json"
    replay.write_text(json.dumps(entries))
    with simulated(tmp_path, "--domains=0", f"--replay={replay}") as host, python(host.uri) as ask:
        assert ask("c.lookupByName('odd').XMLDesc()") == xml
        assert "<name>plain</name>" in ask("c.lookupByName('plain').XMLDesc()")


async def test_a_captured_description_is_a_text(tmp_path: Path) -> None:
    """What is none is refused with the guest's name."""
    replay = tmp_path / "records.json"
    entry = {"name": "odd", "uuid": "1" * 32, "id": 1, "params": [], "xml": 7}
    replay.write_text(json.dumps([entry]))
    with pytest.raises(StartError, match="the xml of odd is no text"):
        async with Simulator(socket=tmp_path / "socket", domains=0, replay=replay):
            pass


@pytest.mark.parametrize(("extra", "fits"), [(0, True), (1, False)])
def test_the_largest_message_is_libvirts(tmp_path: Path, extra: int, fits: bool) -> None:
    """33,554,408 bytes of payload are delivered, one word more is refused with libvirt's error."""
    # a record: its count, a guest's name, UUID and id, and a count of fields; a field: name, type
    # and a string with its length
    room = MAX_PAYLOAD - 4 - (4 + 4 + 16 + 4) - 4
    params: list[list[Any]] = []
    while room:
        name = f"block.{len(params)}.path"
        head = 4 + len(name) + -len(name) % 4 + 4 + 4
        size = min(4 * 1024 * 1024, room - head)
        if 0 < room - head - size < 64:
            size -= 1024
        params.append([name, 7, "x" * size])
        room -= head + size
    params[-1][2] += "x" * (4 * extra)
    entry = {"name": "wide", "uuid": "1" * 32, "id": 1, "params": params}
    replay = tmp_path / "records.json"
    replay.write_text(json.dumps([entry]))
    with simulated(tmp_path, "--domains=0", f"--replay={replay}") as host, python(host.uri) as ask:
        code = "[len(p) for _, p in c.getAllDomainStats()]"
        if fits:
            assert ask(code) == [len(params)]
        else:
            with pytest.raises(LibvirtError) as refused:
                ask(code)
            assert refused.value.args == (39, 7, "Unable to encode message payload")
        assert ask("c.getAllDomainStats(1)")[0][1] == {}


# virsh


@needs_virsh
def test_virsh_shows_what_the_binding_does(host: Simulated, ask: Python) -> None:
    """`virsh domstats --raw` prints every guest and every field that libvirt-python returns."""
    printed: dict[str, set[str]] = {}
    for line in virsh(host.uri, "domstats", "--raw").splitlines():
        if found := re.fullmatch("Domain: '(.*)'", line):
            fields = printed[found[1]] = set()
        elif line:
            fields.add(line.strip().partition("=")[0])
    assert printed == {name: set(params) for name, params in ask(ALL % (0, 0)).items()}


@needs_virsh
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "--all"], r"(?s).* running\n.*-   .* shut off\n"),
        (["dominfo", "instance-00000001"], r"(?s)Id: +1\n.*OS Type: +hvm\n.*Managed save: +no\n"),
        (["domcontrol", "instance-00000001"], r"ok\n"),
        (["domstate", "--reason", "instance-00000001"], r"running \(booted\)\n"),
        (["dumpxml", "instance-00000001"], r"(?s)<domain type='\w+' id='1'>\n.*</domain>\n"),
        (["domstats", "--nowait", "--list-active", "--state"], r"(?s)Domain: .*state.state=1\n.*"),
        (["domstats", "--enforce", "--vcpu", "instance-00000001"], r"(?s).*vcpu.0.delay=\d+\n.*"),
        (["cpu-stats", "instance-00000001", "--total"], r"(?s)Total:\n\tcpu_time .*"),
        (["event", "--all", "--timeout", "1"], r"event loop timed out\nevents received: 0\n"),
        (["domstats", "no"], r"error: failed to get domain 'no'\n.*"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_virsh_is_content(host: Simulated, arguments: list[str], expected: str) -> None:
    """A command of the real virsh prints what it prints before a real daemon."""
    output = virsh(host.uri, *arguments)
    assert re.fullmatch(expected, output.strip("\n") + "\n"), output


def test_4096_host_cpus(tmp_path: Path) -> None:
    """CPU time of a guest on the largest host comes in 32 slices of 128 CPUs."""
    options = ("--domains=1", "--cpus=4096", "--profile=small")
    with simulated(tmp_path, *options) as host, python(host.uri) as ask:
        assert len(ask("c.listAllDomains()[0].getCPUStats(False)")) == 4096
        calls = host.do("status")["calls"]
        assert calls["DOMAIN_GET_CPU_STATS"] == 2 + 4096 // 128
        assert ask("c.getCPUMap()[0]") == 4096


def test_more_guests_than_a_list_may_hold(tmp_path: Path) -> None:
    """The 16,385th guest fails lists and bulk calls with libvirt's errors; slices still work."""
    options = ("--domains=16385", "--profile=small")
    with simulated(tmp_path, *options) as host, python(host.uri) as ask:
        with pytest.raises(LibvirtError) as refused:
            ask("c.listAllDomains()")
        assert refused.value.args[2] == (
            "internal error: Too many domains '16385' for limit '16384'"
        )
        with pytest.raises(LibvirtError) as refused:
            ask("c.getAllDomainStats(1)")
        assert refused.value.args[2].endswith("records is 16385, which exceeds max limit: 16384")
        host.do("destroy")
        assert ask("len(c.listAllDomains())") == 16384
        assert ask("len(c.getAllDomainStats(1))") == 16384

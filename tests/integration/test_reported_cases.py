"""
Guests and hosts that other collectors stumbled over, by the reports of their users.

One agent looks at one simulated host with a guest for each of them; what it shows is what these
tests look at. Hosts that are odd as a whole have an agent of their own.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import pytest

from support.agent import Agent, Series, running
from support.http_stub import Received, answering
from support.servers import needs
from support.simulator import Simulated, simulated
from support.wire.remote_write import STALE, Labels, read
from virtstatd.collect.bulk.answer import POLLED
from virtstatd_simulator import Simulator
from virtstatd_simulator.guests.events import Event
from virtstatd_simulator.guests.guests import Guest


INT, UINT, LLONG, ULLONG, DOUBLE, TEXT = 1, 2, 3, 4, 5, 7
LARGEST: Final = 2**64 - 1
BLOCK, NET = "libvirt_domain_block_stats_", "libvirt_domain_interface_stats_"
NOVA: Final = "http://openstack.org/xmlns/libvirt/nova/"

Parameter = list[Any]


def uuid_of(name: str) -> str:
    """Return the UUID of a guest."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def described(name: str, devices: str = "", metadata: str = "", prologue: str = "") -> str:
    """Return the description of a guest."""
    return (
        f"{prologue}<domain type='kvm'><name>{name}</name><uuid>{uuid_of(name)}</uuid>"
        f"<metadata>{metadata}</metadata><memory unit='KiB'>1048576</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{devices}</devices>"
        "</domain>"
    )


WHOLE: Final[list[Parameter]] = [
    ["state.state", INT, 1],
    ["state.reason", INT, 1],
    ["cpu.time", ULLONG, 7_000_000_000],
    ["cpu.user", ULLONG, 1],
    ["cpu.system", ULLONG, 1],
    ["balloon.current", ULLONG, 1048576],
    ["balloon.maximum", ULLONG, 1048576],
    ["balloon.rss", ULLONG, 50000],
    ["vcpu.current", UINT, 1],
    ["vcpu.maximum", UINT, 1],
    ["vcpu.0.state", INT, 1],
    ["vcpu.0.time", ULLONG, 5_000_000_000],
]
"""What a guest without any oddity tells."""


def disk(at: int, name: str, *more: Parameter) -> list[Parameter]:
    """Return what a disk tells: its name and, where there are any, its counters."""
    rows = [["name", TEXT, name], ["backingIndex", UINT, at + 1], *more]
    return [[f"block.{at}.{key}", kind, value] for key, kind, value in rows]


COUNTERS: Final[list[Parameter]] = [["rd.reqs", ULLONG, 10], ["rd.bytes", ULLONG, 4096]]


def nic(at: int, name: str | None, *ways: str) -> list[Parameter]:
    """Return what a NIC tells, in these ways, without a name where it has none."""
    named = [] if name is None else [[f"net.{at}.name", TEXT, name]]
    return named + [
        [f"net.{at}.{way}", ULLONG, 100 * at + number] for number, way in enumerate(ways, 1)
    ]


def monitors(activity: Parameter) -> list[Parameter]:
    """Return two packages' energy, as libvirt 12 tells it; the activity of the second is given."""
    head = "cpu.energy.monitor"
    return [
        [f"{head}.count", UINT, 1],
        [f"{head}.0.name", TEXT, "vcpus_0-1"],
        [f"{head}.0.vcpus", TEXT, "0-1"],
        [f"{head}.0.pkg.count", UINT, 2],
        *(
            [f"{head}.0.pkg.{at}.{key}", kind, value]
            for at in (0, 1)
            for key, kind, value in (
                ["id", UINT, at],
                ["core_energy", DOUBLE, 2345.5 + at],
                activity if at else ["activity", DOUBLE, 1234.5],
            )
        ),
    ]


DISKS: Final = [
    ("vda", "disk", "network", "<source protocol='rbd' name='vms/a_disk'/>", "vms/a_disk"),
    ("sda", "cdrom", "file", "", None),
    (
        "vdb",
        "disk",
        "nvme",
        (
            "<source type='pci' managed='yes' namespace='1'>"
            "<address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>"
        ),
        "0000:01:00.0",
    ),
    (
        "vdc",
        "disk",
        "vhostuser",
        "<source type='unix' path='/var/tmp/vhost.0'><reconnect enabled='yes'/></source>",
        "/var/tmp/vhost.0",
    ),
    ("vdd", "disk", "vhostvdpa", "<source dev='/dev/vhost-vdpa-0'/>", "/dev/vhost-vdpa-0"),
    ("vde", "disk", "volume", "<source pool='ssd' volume='a.img'/>", "ssd/a.img"),
    ("vdf", "disk", "volume", "<source pool='hdd' volume='a.img'/>", "hdd/a.img"),
    ("sdb", "lun", "block", "<source dev='/dev/mapper/wwn-1'/>", "/dev/mapper/wwn-1"),
    (
        "vdg",
        "disk",
        "network",
        "<source protocol='nbd'><host transport='unix' socket='/run/nbd.sock'/></source>",
        "/run/nbd.sock",
    ),
    (
        "vdh",
        "disk",
        "network",
        (
            "<source protocol='iscsi' name='iqn.2020-01.example:store/1'>"
            "<host name='192.0.2.7' port='3260'/></source>"
        ),
        "iqn.2020-01.example:store/1",
    ),
    (
        "vdi",
        "disk",
        "file",
        (
            "<source file='/images/i.qcow2'><dataStore type='network'><format type='raw'/>"
            "<source protocol='rbd' name='vms/i-data'/></dataStore></source>"
        ),
        "/images/i.qcow2",
    ),
    ("fda", "floppy", "dir", "<source dir='/floppies/a'/>", "/floppies/a"),
    (
        "vdj",
        "disk",
        "file",
        "<source file='/img/a b,c=d&quot;e\\'/>",
        '/img/a b,c=d"e\\',
    ),
]
"""Disks of every kind: device, what it is, type, source, and what tells it from the others."""

DEVICES: Final = "".join(
    f"<disk type='{kind}' device='{what}'>{source}<target dev='{name}'/></disk>"
    for name, what, kind, source, _ in DISKS
)

NICS: Final = [
    ("hostdev", "", None),
    ("hostdev", "", None),
    ("vdpa", "<source dev='/dev/vhost-vdpa-1'/>", None),
    ("bridge", "<source bridge='br0'/><target dev='tap0'/>", "tap0"),
    ("hostdev", "<target dev=''/>", None),
    ("hostdev", "<target/>", None),
]
"""NICs by their type, the rest of their description, and the host's device where there is one."""

RECEIVED: Final = ["rx.bytes", "rx.pkts"]
NAMES: Final = [None, "", "tap0", "tap0", "1"]
"""What libvirt calls a guest's NICs: nothing, an empty text, twice the same, another's index."""


def nova(version: str, inside: str) -> str:
    """Return metadata as an orchestrator writes it."""
    return f"<n:instance xmlns:n='{NOVA}{version}'>{inside}</n:instance>"


OWNER: Final = "<n:owner><n:user uuid='u1'>ada</n:user>{}</n:owner>"
PROJECT: Final = "<n:project uuid='p1'>shop</n:project>"
FLAVOR: Final = (
    "<n:flavor name='m1.tiny' id='7'><n:memory>64</n:memory>"
    "<n:extraSpecs><n:extraSpec name='a:b'>c</n:extraSpec></n:extraSpecs></n:flavor>"
)
FULL: Final = {
    "instance_name": "web",
    "flavor_name": "m1.tiny",
    "user_name": "ada",
    "user_id": "u1",
    "project_name": "shop",
    "project_id": "p1",
}
WEB: Final = f"<n:name>web</n:name>{FLAVOR}{OWNER.format(PROJECT)}"
OWNED: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "nova-full": (nova("1.1", WEB), FULL),
    "nova-empty": (nova("1.1", ""), {}),
    "nova-ownerless": (
        nova("1.1", f"<n:name>web</n:name>{FLAVOR}"),
        {"instance_name": "web", "flavor_name": "m1.tiny"},
    ),
    "nova-no-project": (
        nova("1.1", f"<n:name/>{OWNER.format('')}"),
        {"user_name": "ada", "user_id": "u1"},
    ),
    "nova-future": (nova("1.2", WEB), FULL),
    "nova-far-future": (nova("2.0", f"<n:new/>{WEB}"), FULL),
    "nova-old": (nova("1.0", WEB), FULL),
}
"""Metadata of an orchestrator with holes, and of its versions; and what is said of the guest."""

HTML: Final = "<!DOCTYPE html><p>hello</p>"
HARMLESS: Final = {
    "text-cdata": f"<x:note xmlns:x='urn:x'><![CDATA[{HTML}]]></x:note>",
    "text-comment": f"<x:note xmlns:x='urn:x'><!-- {HTML} -->a</x:note>",
    "text-escaped": f"<x:note xmlns:x='urn:x'>{escape(HTML)}</x:note>",
}
"""What the owner of a guest may write into its metadata."""

THREADS: Final[list[Parameter]] = [
    ["iothread.count", UINT, 1],
    ["iothread.1.poll-max-ns", ULLONG, 32768],
    ["iothread.1.poll-grow", UINT, 0],
    ["iothread.1.poll-shrink", UINT, 0],
]

WITHOUT_RSS: Final = [each for each in WHOLE if each[0] != "balloon.rss"]
RECORDS: Final[dict[str, list[Parameter]]] = {
    "spdk": [
        *WHOLE,
        ["net.count", UINT, 1],
        *nic(0, "vhu1", "rx.bytes", "rx.pkts", "rx.drop", "tx.bytes", "tx.pkts", "tx.drop"),
        ["block.count", UINT, 2],
        *disk(0, "vda"),
        *disk(1, "vdb", *COUNTERS),
    ],
    "rbd": [
        *WHOLE,
        ["block.count", UINT, 1],
        *disk(
            0,
            "vda",
            *COUNTERS,
            ["capacity", ULLONG, 21474836480],
            ["allocation", ULLONG, 21474836480],
            ["physical", ULLONG, 21474836480],
        ),
    ],
    "no-rss": WITHOUT_RSS,
    "sriov": [
        *WHOLE,
        ["net.count", UINT, len(NAMES)],
        *(row for at, name in enumerate(NAMES) for row in nic(at, name, *RECEIVED)),
    ],
    "disks": [
        *WHOLE,
        ["block.count", UINT, len(DISKS)],
        *(row for at, each in enumerate(DISKS) for row in disk(at, each[0], *COUNTERS)),
    ],
    "energy": [*WHOLE, *monitors(["activity", ULLONG, 2])],
    "energy-nan": [*WHOLE, *monitors(["activity", DOUBLE, math.nan])],
    "energy-infinite": [
        *(row for row in WHOLE if row[0] not in ("cpu.time", "vcpu.0.time")),
        ["cpu.time", DOUBLE, math.inf],
        *monitors(["activity", DOUBLE, -math.inf]),
        ["vcpu.0.time", DOUBLE, math.nan],
    ],
    "wrapped": [
        *(row for row in WHOLE if row[0] not in ("balloon.current", "vcpu.maximum")),
        ["balloon.current", ULLONG, LARGEST],
        ["vcpu.maximum", UINT, 2**32 - 1],
        ["block.count", UINT, 1],
        *disk(
            0,
            "vda",
            ["rd.reqs", ULLONG, 1],
            ["rd.bytes", ULLONG, LARGEST],
            ["capacity", 4, LARGEST],
        ),
    ],
    "refuser": [*WHOLE, *THREADS],
    "threads": [*WHOLE, *THREADS],
    "doctype": WHOLE,
    **dict.fromkeys(HARMLESS, WHOLE),
    **dict.fromkeys(OWNED, WHOLE),
}
"""What libvirt tells of each guest."""

DESCRIPTIONS: Final = {name: described(name) for name in RECORDS} | {
    "disks": described("disks", DEVICES),
    "rbd": described(
        "rbd",
        (
            "<disk type='network' device='disk'><source protocol='rbd' name='vms/rbd'/>"
            "<target dev='vda'/></disk>"
        ),
    ),
    "sriov": described(
        "sriov",
        "".join(
            f"<interface type='{kind}'><mac address='52:54:00:00:00:0{at}'/>{rest}</interface>"
            for at, (kind, rest, _) in enumerate(NICS)
        ),
    ),
    "doctype": described("doctype", prologue="<!DOCTYPE domain [<!ENTITY a 'b'>]>"),
    **{name: described(name, metadata=text) for name, text in HARMLESS.items()},
    **{name: described(name, metadata=text) for name, (text, _) in OWNED.items()},
}

SINKS: Final = """
[[sink]]
type = "influx_udp"
address = "127.0.0.1:{port}"
"""


@dataclass(frozen=True)
class Shown:
    """The host, the agent, and what it has shown of the host after some polls."""

    sim: Simulated
    agent: Agent
    page: str
    samples: dict[Series, float]
    lines: Path
    udp: socket.socket

    def series(self, prefix: str, guest: str) -> dict[Series, float]:
        """Return the series of a guest, without its name and labels that say nothing."""
        return {
            (name, tuple(pair for pair in labels if pair[1] and pair[0] != "domain")): value
            for (name, labels), value in self.samples.items()
            if name.startswith(prefix) and ("domain", guest) in labels
        }

    def rows(self, name: str, guest: str) -> list[dict[str, str]]:
        """Return the labels of a guest's series of one name."""
        return [dict(labels) for (each, labels) in self.series(name, guest) if each == name]

    def number(self, name: str, guest: str, **labels: str) -> float | None:
        """Return a number of a guest."""
        return self.series(name, guest).get((name, tuple(sorted(labels.items()))))


def replayed(folder: Path, records: dict[str, list[Parameter]]) -> str:
    """Write guests to a file and return the option for it."""
    file = folder / "records.json"
    file.write_text(
        json.dumps(
            [
                {
                    "name": name,
                    "uuid": uuid_of(name),
                    "id": number,
                    "params": params,
                    "xml": DESCRIPTIONS[name],
                }
                for number, (name, params) in enumerate(records.items(), 1)
            ]
        )
    )
    return f"--replay={file}"


def once(
    folder: Path, uri: str, *more: str, inside: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Ask a hypervisor once, as a script does."""
    file = folder / "once.toml"
    file.write_text(f"[hypervisor]\nuri = {json.dumps(uri)}\n[local]\nenabled = false\n")
    return subprocess.run(
        [*inside, sys.executable, "-m", "virtstatd", "once", "--config", str(file), *more],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def polls(agent: Agent, tier: str = "monitor") -> float:
    """Return how many polls have begun."""
    return agent.value("virtstatd_ticks_total", tier=tier) or 0


def some_polls(agent: Agent, count: int) -> None:
    """Let some polls pass."""
    begun = polls(agent)
    agent.wait_for(lambda: polls(agent) >= begun + count)


def warnings(agent: Agent) -> list[tuple[object, object]]:
    """Return every line of the log that is more than news, by event and guest."""
    return sorted(
        (line["event"], line.get("domain", ""))
        for line in list(agent.log)
        if line.get("level") not in ("info", "debug")
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Let an agent look at a host with all these guests until it has shown each of them."""
    folder = tmp_path_factory.mktemp("reported")
    lines = folder / "lines"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        simulated(folder, "--domains=0", replayed(folder, RECORDS)) as sim,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(100)
        sim.do("refuse", domains=["refuser"], groups=["iothread"], times=None)
        sim.do("fail", procedure="DOMAIN_GET_BLKIO_PARAMETERS", times=None)
        more = SINKS.format(port=udp.getsockname()[1])
        with running(folder, sim.uri, extra=1.0, lines=lines, more=more) as agent:

            def seen() -> bool:
                page = agent.page()
                return all(
                    f'libvirt_domain_info{{domain="{name}"' in page
                    for name in RECORDS
                    if name != "doctype"
                )

            agent.wait_for(seen)
            some_polls(agent, 3)
            page = agent.page()
            yield Shown(sim, agent, page, agent.samples(), lines, udp)


def test_the_log_names_whom_it_must_and_nobody_else(shown: Shown):
    """Of all these guests four have something that a person could look at, each told once."""
    assert warnings(shown.agent) == [
        ("domain.refused", "refuser"),
        ("domain.undecodable", "energy-infinite"),
        ("domain.undecodable", "energy-nan"),
        ("domain.undescribed", "doctype"),
    ]


def test_every_guest_is_there(shown: Shown):
    """Whatever is odd about a guest, who runs and in which state is shown."""
    state = "libvirt_domain_info_state"
    states = {dict(labels)["domain"] for name, labels in shown.samples if name == state}
    assert states >= RECORDS.keys()
    assert shown.samples["libvirt_domains", ()] == len(RECORDS)


@needs("promtool")
def test_the_page_of_all_of_them_is_sound(shown: Shown):
    """Prometheus' own tool has nothing to say of the page, and no series occurs twice."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=shown.page,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_guest_that_refuses_a_question_lacks_that_answer_alone(shown: Shown):
    """It has all else, others have the refused group, and libvirt is up in every reading."""
    name = "libvirt_domain_iothread_poll_maximum_seconds"
    assert shown.number(name, "threads", iothread="1") == 32768e-9
    assert shown.number(name, "refuser", iothread="1") is None
    assert shown.number("libvirt_domain_info_cpu_time_seconds_total", "refuser") == 7
    assert shown.samples["virtstatd_refused_domains", ()] == 1
    ups = [
        line["fields"]["up"]
        for line in map(json.loads, shown.lines.read_text().splitlines())
        if line["group"] == "agent" and "up" in line["fields"]
    ]
    first = ups.index(1)
    assert len(ups) > first + 2
    assert set(ups[first:]) == {1}


@pytest.mark.parametrize("name", HARMLESS)
def test_text_that_looks_like_a_document_type_is_text(shown: Shown, name: str):
    """Whatever its owner writes into the metadata, the guest is described."""
    (row,) = shown.rows("libvirt_domain_info", name)
    assert row == {
        "uuid": uuid_of(name),
        "type": "kvm",
        "os_type": "hvm",
        "os_type_arch": "x86_64",
        "os_type_machine": "q35",
    }


def test_a_real_document_type_costs_a_guest_its_description_alone(shown: Shown):
    """It is refused, since it may name other files; the guest's numbers are there."""
    assert not shown.rows("libvirt_domain_info", "doctype")
    assert shown.number("libvirt_domain_info_cpu_time_seconds_total", "doctype") == 7
    (line,) = shown.agent.events("domain.undescribed")
    assert "document type" in str(line["reason"])


def test_disks_of_every_kind_are_told_apart(shown: Shown):
    """What a disk is, its type and its source are on the series that its counters join with."""
    rows = shown.rows(f"{BLOCK}info", "disks")
    found = [
        (row["target_device"], row["device"], row["disk_type"], row.get("source_file"))
        for row in rows
    ]
    assert sorted(found, key=str) == sorted(
        ((name, what, kind, place) for name, what, kind, _, place in DISKS), key=str
    )
    places = [row["source_file"] for row in rows if "source_file" in row]
    assert len(set(places)) == len(places)
    (store,) = [row["data_store"] for row in rows if "data_store" in row]
    assert store == "vms/i-data"
    counted = shown.rows(f"{BLOCK}read_bytes_total", "disks")
    assert {row["target_device"] for row in counted} == {row["target_device"] for row in rows}


def test_a_disk_of_ceph_has_its_sizes(shown: Shown):
    """Allocation, capacity and physical size are there where the disk is no local file."""
    for what in ("allocation", "capacity", "physical"):
        size = shown.number(f"{BLOCK}{what}_bytes", "rbd", target_device="vda")
        assert size == 21474836480, what
    assert not shown.rows(f"{BLOCK}path_info", "rbd")
    (row,) = shown.rows(f"{BLOCK}info", "rbd")
    assert (row["source_protocol"], row["source_file"]) == ("rbd", "vms/rbd")


def test_a_nic_without_error_counters_lacks_those_alone(shown: Shown):
    """Bytes, packets and drops are there; what nobody counts is absent and not 0."""
    series = shown.series(NET, "spdk")
    ways = [
        f"{NET}{way}_{what}_total"
        for way in ("receive", "transmit")
        for what in ("bytes", "packets", "drops")
    ]
    assert {key: value for key, value in series.items() if key[1]} == {
        (name, (("target_device", "vhu1"),)): at for at, name in enumerate(ways, 1)
    }


def test_nics_without_a_name_are_told_apart(shown: Shown):
    """By their index, also where two have the same name or one is called as another's index."""
    found = {
        (row["target_device"], row.get("index", "")): shown.number(
            f"{NET}receive_bytes_total", "sriov", **row
        )
        for row in shown.rows(f"{NET}receive_bytes_total", "sriov")
    }
    assert found == {
        ("0", ""): 1,
        ("1", ""): 101,
        ("tap0", ""): 201,
        ("tap0", "3"): 301,
        ("1", "4"): 401,
    }


def test_nics_of_hardware_are_described_by_their_address(shown: Shown):
    """Without a device of the host's the address is what one joins by; no label is empty."""
    rows = shown.rows(f"{NET}info", "sriov")
    found = sorted(
        (row["mac_address"], row["interface_type"], row.get("target_device")) for row in rows
    )
    assert found == [
        (f"52:54:00:00:00:0{at}", kind, device) for at, (kind, _, device) in enumerate(NICS)
    ]


def test_a_limit_that_cannot_be_read_costs_itself(shown: Shown, tmp_path: Path):
    """Block I/O is refused for every guest: their shares of the CPU are there, and nobody fails."""
    done = once(tmp_path, shown.sim.uri)
    assert done.returncode == 0
    assert sorted(json.loads(line)["event"] for line in done.stderr.splitlines()) == [
        event for event, _ in warnings(shown.agent)
    ]
    shares = [
        line
        for line in done.stdout.splitlines()
        if line.startswith("libvirt_domain_") and "_cpu_shares{" in line
    ]
    assert len(shares) == len(RECORDS)
    assert "blkio" not in done.stdout


def test_energy_is_counted_by_monitor_and_package(shown: Shown):
    """Names and packages are labels, a fraction stays one, and a whole number may follow it."""
    assert {
        tuple(dict(labels).values()): value
        for (name, labels), value in shown.series(
            "libvirt_domain_cpu_energy_event", "energy"
        ).items()
    } == {
        ("core_energy", "vcpus_0-1", "0"): 2345.5,
        ("activity", "vcpus_0-1", "0"): 1234.5,
        ("core_energy", "vcpus_0-1", "1"): 2346.5,
        ("activity", "vcpus_0-1", "1"): 2,
    }


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("energy-nan", {("libvirt_domain_cpu_energy_event_total", "activity")}),
        (
            "energy-infinite",
            {
                ("libvirt_domain_cpu_energy_event_total", "activity"),
                ("libvirt_domain_info_cpu_time_seconds_total", None),
                ("libvirt_domain_vcpu_time_seconds_total", None),
            },
        ),
    ],
)
def test_a_number_that_is_none_costs_itself(
    shown: Shown, name: str, missing: set[tuple[str, str | None]]
):
    """NaN or infinity, once or in three places: these are absent, all others there, and counted."""
    sound = shown.series("libvirt_domain_", "energy").keys()
    has = shown.series("libvirt_domain_", name)
    lacks = sound - has.keys() - {key for key in sound if key[0] == "libvirt_domain_info"}
    assert {(each, dict(labels).get("event")) for each, labels in lacks} == missing
    assert len(lacks) == len(missing)
    assert all(map(math.isfinite, has.values()))
    assert shown.samples["virtstatd_undecodable_records_total", ()] > 0


@pytest.mark.parametrize("name", OWNED)
def test_metadata_of_an_orchestrator_may_have_holes(shown: Shown, name: str):
    """What is missing is an absent label, and a later version of the name space is read as well."""
    (row,) = shown.rows("libvirt_domain_openstack_info", name)
    assert row == {"instance_id": uuid_of(name), **OWNED[name][1]}


def test_a_disk_without_counters_hides_no_other(shown: Shown):
    """What the second disk counts is there where the first one, of another process, counts none."""
    name = f"{BLOCK}read_bytes_total"
    assert shown.rows(name, "spdk") == [{"target_device": "vdb"}]
    assert shown.number("virtstatd_domain_responsive", "spdk") == 1


def test_the_largest_numbers_are_exact_everywhere(shown: Shown):
    """What wrapped or is unknown goes out as libvirt has it: on the page, in lines, as floats."""
    told = {
        f'{BLOCK}read_bytes_total{{domain="wrapped",target_device="vda"}}': LARGEST,
        f'{BLOCK}capacity_bytes{{domain="wrapped",target_device="vda"}}': LARGEST,
        'libvirt_domain_memory_stats_current_balloon_bytes{domain="wrapped"}': LARGEST * 1024,
        'libvirt_domain_vcpu_maximum{domain="wrapped"}': 2**32 - 1,
    }
    page = dict(line.rsplit(" ", 1) for line in shown.page.splitlines() if line[0] != "#")
    assert {key: page.get(key) for key in told} == {key: str(n) for key, n in told.items()}
    fields: dict[str, Any] = {}
    for line in map(json.loads, shown.lines.read_text().splitlines()):
        if line.get("domain") == "wrapped":
            fields |= line["fields"]
    assert fields["read_bytes"] == fields["capacity_bytes"] == LARGEST
    assert fields["current_balloon_bytes"] == LARGEST * 1024
    values: dict[str, str] = {}
    while "block_stats_read_bytes_total" not in values:
        for line in shown.udp.recv(65535).decode().splitlines():
            if line.startswith("libvirt_block,") and ",domain=wrapped," in line:
                values |= dict(each.split("=") for each in line.split(" ")[1].split(","))
    for key in ("read_bytes_total", "capacity_bytes"):
        assert float(values[f"block_stats_{key}"]) == float(LARGEST)


def described_since(calls: int, status: dict[str, Any]) -> bool:
    """Tell by a simulator's status whether a guest has been described since so many calls."""
    return bool(status["calls"].get("DOMAIN_GET_XML_DESC", 0) > calls)


def test_an_ordinary_end_is_no_warning(shown: Shown):
    """Hundreds of guests that live for a moment, some shorter than a look at them: not one line."""
    before = len(shown.agent.log)
    shown.sim.do("slow", procedure="DOMAIN_GET_XML_DESC", seconds=0.02, times=None)
    for _ in range(30):
        names = shown.sim.do("start", count=10)["domains"]
        calls = shown.sim.do("status")["calls"].get("DOMAIN_GET_XML_DESC", 0)
        shown.sim.until(partial(described_since, calls))
        shown.sim.do("destroy", domains=names)
    shown.sim.do("vanish", count=3)
    shown.sim.do("start", count=3)
    some_polls(shown.agent, 3)
    assert shown.agent.log[before:] == []
    assert shown.agent.value("libvirt_up") == 1


@pytest.mark.parametrize(("transport", "reason"), [("tcp", "127.0.0.1:1"), ("ssh", "ssh")])
def test_a_remote_host_that_is_not_there_is_one_line(tmp_path: Path, transport: str, reason: str):
    """A script sees why, and that it failed."""
    done = once(tmp_path, f"qemu+{transport}://127.0.0.1:1/system")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert reason in line
    assert "\nlibvirt_up 0\n" in done.stdout
    assert "libvirt_domain_" not in done.stdout


def test_any_driver_has_what_it_has(tmp_path: Path):
    """Libvirt's own test driver: states and descriptions, and nobody asks for what it lacks."""
    file = tmp_path / "node.xml"
    guests = [
        described(name, metadata=text).replace("type='kvm'", "type='test'")
        for name, text in HARMLESS.items()
    ]
    file.write_text(f"<node>{''.join(guests)}</node>")
    done = once(tmp_path, f"test://{file}")
    assert (done.returncode, done.stderr) == (0, "")
    for name in HARMLESS:
        assert f'libvirt_domain_info_state{{domain="{name}",state="running"' in done.stdout
        assert f'libvirt_domain_info{{domain="{name}",uuid="{uuid_of(name)}"' in done.stdout


def test_a_driver_without_the_bulk_call(tmp_path: Path):
    """Who runs and in which state is shown, libvirt is up, it is said once, and a script fails."""
    with simulated(tmp_path, "--domains=3", "--profile=small") as sim:
        sim.do("fail", procedure="CONNECT_GET_ALL_DOMAIN_STATS", code=3, times=None)
        done = once(tmp_path, sim.uri)
        assert done.returncode == 1
        assert len([line for line in done.stderr.splitlines() if "bulk" in line]) == 1
        with running(tmp_path, sim.uri, extra=1.0) as agent:
            agent.wait_for(lambda: polls(agent) >= 4)
            page = agent.page()
            assert page.count('libvirt_domain_info_state{domain="') == 3
            assert page.count('libvirt_domain_info{domain="') == 3
            assert agent.value("libvirt_up") == 1
            assert {event for event, _ in warnings(agent)} == {"group.refused"}
            lines = agent.events("group.refused")
            assert len(lines) <= 2  # those that ask monitors are polled apart from the others
            assert sum(len(str(line["groups"]).split(",")) for line in lines) == len(POLLED)
            assert not agent.events("domain.answered")


ODD: Final = ("spdk", "no-rss")


@pytest.mark.parametrize(("group", "seconds"), [("block", 1.0), ("balloon", 3.0)])
def test_who_lacks_something_by_nature_is_not_taken_for_busy(
    tmp_path: Path, group: str, seconds: float
):
    """Nobody is partial for long, and no guest is asked a second time in each poll for it."""
    asked = {"pulse": ["state"], "monitor": [group], "extra": []}
    option = replayed(tmp_path, {name: RECORDS[name] for name in (*ODD, "threads")})
    with (
        simulated(tmp_path, "--domains=0", option) as sim,
        running(tmp_path, sim.uri, pulse=30.0, monitor=seconds, groups=asked) as agent,
    ):
        some_polls(agent, 2)
        agent.wait_for(lambda: agent.value("virtstatd_partial_domains", tier="monitor") == 0)
        name = "CONNECT_GET_ALL_DOMAIN_STATS"
        calls, begun = sim.do("status")["calls"][name], polls(agent)
        some_polls(agent, 2)
        assert sim.do("status")["calls"][name] - calls <= polls(agent) - begun + 2
        assert agent.value("virtstatd_partial_domains", tier="monitor") == 0
        for name in ODD:
            assert agent.value("virtstatd_domain_responsive", domain=name) == 1
        assert warnings(agent) == []


def test_who_is_held_for_a_moment_is_asked_again_at_once(tmp_path: Path):
    """Others ask a guest while it is polled: it misses no reading that the others have."""
    lines, name = tmp_path / "lines", "DOMAIN_GET_CONTROL_INFO"
    names = [f"instance-0000000{at}" for at in (1, 2, 3)]

    def counts() -> list[int]:
        found = [json.loads(line) for line in lines.read_text().rpartition("\n")[0].splitlines()]
        read = [line["domain"] for line in found if "read_bytes" in line["fields"]]
        return [read.count(each) for each in names]

    def looks() -> int:
        return int(sim.do("status")["calls"].get(name, 0))

    with (
        simulated(tmp_path, "--domains=3", "--profile=small") as sim,
        running(tmp_path, sim.uri, monitor=3.0, extra=3.0, lines=lines) as agent,
    ):
        agent.wait_for(lambda: lines.exists() and min(counts()) > 0)
        sim.do("stop_time")  # so that the job is never held for long
        for _ in range(2):
            before, begun = looks(), min(counts())
            sim.do("hold", domains=[names[1]], seconds=3600.0)
            agent.wait_for(partial(lambda at: looks() > at, before))
            sim.do("release")
            agent.wait_for(
                partial(lambda at: min(counts()) > at and len(set(counts())) == 1, begun)
            )
        assert agent.value("virtstatd_partial_domains", tier="monitor") == 0
        assert agent.value("libvirt_up") == 1
        assert warnings(agent) == []


INSIDE: Final = (
    *("unshare", "--mount", "--propagation", "private"),
    *("sh", "-c", 'mount --bind "$0" /run && exec "$@"'),
)


@needs("root")
@pytest.mark.parametrize(
    ("dead", "alive"),
    [
        ("virtqemud-sock-ro", "libvirt-sock-ro"),
        ("libvirt-sock-ro", "virtqemud-sock-ro"),
    ],
)
def test_of_several_sockets_the_one_that_answers_is_used(tmp_path: Path, dead: str, alive: str):
    """Where one daemon has left its socket behind, the guests of the other one are found."""
    run = tmp_path / "run"
    (run / "libvirt").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(run / "libvirt" / dead))
    with simulated(tmp_path, "--domains=2", "--profile=small") as sim:
        (run / "libvirt" / alive).hardlink_to(sim.socket)
        done = once(tmp_path, "", inside=(*INSIDE, str(run)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nlibvirt_domains 2\n" in done.stdout


@dataclass
class Receiver:
    """What a receiver of remote write has; like Prometheus it refuses what is not in order."""

    latest: dict[Labels, int]
    marked: set[Labels]
    faults: list[str]

    def take(self, request: Received) -> int:
        """Take a request, or refuse all of it."""
        found = read(request.body)
        for labels, bits, at in found:
            if at <= self.latest.get(labels, 0):
                was = "a mark" if labels in self.marked else "a sample"
                kind = "mark" if bits == STALE else "sample"
                self.faults.append(
                    f"{kind} {at} is not after {was} {self.latest[labels]}: {labels}"
                )
                return 400
            self.latest[labels] = at
            (self.marked.add if bits == STALE else self.marked.discard)(labels)
        return 204

    def of(self, guest: str) -> set[Labels]:
        """Return the series of a guest."""
        return {labels for labels in self.latest if ("domain", guest) in labels}


WRITE: Final = """
[[sink]]
type = "remote_write"
protocol = "1.0"
url = "{url}"
"""


def rebuilt(simulator: Simulator, name: str, number: int) -> None:
    """Replace a guest by another one of its name, as an orchestrator does that builds it anew."""
    host = simulator.host
    old = host.by_name[name]
    host.destroy(old)
    host.guests.pop(old.uuid, None)
    new = Guest(name=name, uuid=uuid.UUID(int=number).bytes, flavor=old.flavor, load=old.load)
    host.adopt(new)
    host.start(new)


APART = {
    "libvirt_domain_block_stats_storage_info",
    "libvirt_domain_event_details_last_timestamp_seconds",
    "libvirt_domain_event_details_total",
    "libvirt_domain_event_last_timestamp_seconds",
    "libvirt_domain_events_total",
}


@pytest.mark.parametrize("events", ["told", "lost", "late"])
async def test_a_guest_built_anew_under_its_name_goes_on(tmp_path: Path, events: str):
    """Receivers know series by labels: nothing is out of order, nobody's numbers are refused."""
    name = "instance-00000002"
    receiver = Receiver({}, set(), [])
    simulator = Simulator(socket=tmp_path / "socket", domains=3, profile="small")
    async with answering() as stub, simulator:
        stub.decide = receiver.take
        more = WRITE.format(url=stub.url)
        with running(tmp_path, simulator.uri, extra=1.0, more=more) as agent:

            async def until(condition: Callable[[], object]) -> None:
                async with asyncio.timeout(100):
                    while not condition():
                        await asyncio.sleep(0.02)

            def passed(count: int) -> Callable[[], object]:
                begun = len(stub.requests)
                return lambda: receiver.faults or len(stub.requests) > begun + count

            await until(lambda: receiver.of(name))
            await until(passed(6))
            emit = simulator.host.emit
            kept: list[Event] = []
            for number in range(1, 4):
                if events != "told":
                    simulator.host.emit = kept.append if events == "late" else lambda _: None
                rebuilt(simulator, name, number)
                simulator.host.emit = emit
                await until(passed(4))
                for event in kept:
                    emit(event)
                kept.clear()
                await until(passed(4))
            assert receiver.faults == []
            assert agent.events("sink.failing") == []
            live = {labels for labels in receiver.of(name) if labels not in receiver.marked}
            # events are a guest's past, and the storages of disks are sent rarely
            both = [
                Counter(each for labels in several if (each := labels[0][1]) not in APART)
                for several in (live, receiver.of("instance-00000001"))
            ]
            assert both[0] == both[1]
            await asyncio.to_thread(agent.stop)

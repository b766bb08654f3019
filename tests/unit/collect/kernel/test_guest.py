"""What the kernel tells about the guests: found, read, and never taken from somebody else."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.processes import Tree
from virtstatd.catalog import Catalog, load
from virtstatd.collect.kernel.cgroup import Hierarchies
from virtstatd.collect.kernel.controllers import WANTED
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.survey import Second, Survey
from virtstatd.hypervisor.place import Elsewhere, pid_files
from virtstatd.hypervisor.processes import Processes
from virtstatd.model import Domain, Reading
from virtstatd.runtime.kernel_files import Descriptors, descriptors_allowed


ONE = "11111111-1111-4111-8111-111111111111"
TWO = "22222222-2222-4222-8222-222222222222"
SECOND = 1_000_000_000
ROW = "{}:  1 2 3 4 0 0 0 0  5 6 7 8 0 0 0 0\n"

Values = Mapping[tuple[str, ...], int | float]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Load the package's catalog."""
    return load()


class Host:
    """A tree, who is believed to run, and a survey of both."""

    def __init__(
        self, folder: Path, catalog: Catalog, descriptors: int = 1000, cgroup_looks: int = 1
    ) -> None:
        self.tree = Tree(folder)
        self.sys = folder / "sys"
        self.catalog = catalog
        self.running: dict[str, tuple[Domain, tuple[Reading, ...]]] = {}
        self.now = 0
        self.descriptors = Descriptors(descriptors)
        self.processes = Processes(self.tree.pids, self.tree.proc)
        self.survey = Survey(
            self.processes,
            lambda: list(self.running.values()),
            Shapes(catalog),
            self.descriptors,
            peak_seconds=10,
            cgroup_looks=cgroup_looks,
            proc=self.tree.proc,
            cgroups=folder / "cgroup",
            devices=self.sys,
            clock=lambda: self.now,
        )

    def start(self, pid: int, uuid: str, name: str, number: int, vcpus: int = 2, **parts: str):
        """Start a guest, known to libvirt."""
        self.tree.start(pid, uuid, name, number, vcpus=vcpus, **parts)
        self.know(uuid, name, number)

    def know(
        self, uuid: str, name: str, number: int, *nics: tuple[str, str], partition: str = ""
    ) -> None:
        """Let libvirt know a domain, with devices and the addresses of its NICs."""
        rows = [("nic", {"target_device": nic, "mac_address": mac}) for nic, mac in nics]
        rows += [("domain", {"partition": partition})] if partition else []
        domain = Domain(uuid, name, number, (("domain", name),))
        shape = self.catalog.shape("domain", rows)
        self.running[uuid] = domain, (Reading(domain, shape, (1,) * len(rows)),)

    def devices(self, pid: int, **kinds: str) -> None:
        """Let sysfs show these devices, and the guest be in the agent's network namespace."""
        for name, entry in kinds.items():
            self.device(self.sys, name, entry)
        (self.tree.proc / "self/net").mkdir(parents=True, exist_ok=True)
        os.link(self.tree.proc / str(pid) / "net/dev", self.tree.proc / "self/net/dev")

    @staticmethod
    def device(sys: Path, name: str, entry: str, address: str = "") -> None:
        """Make a device's directory in a sysfs."""
        folder = sys / "class/net" / name
        (folder / entry).mkdir(parents=True)
        (folder / "address").write_text(f"{address}\n")

    def close(self) -> None:
        """Close everything."""
        self.survey.close()
        self.processes.close()

    def look(self, seconds: float = 1.0) -> Second:
        """Let time pass and look."""
        self.now += int(seconds * SECOND)
        return self.survey.look()


@pytest.fixture
def host(tmp_path: Path, catalog: Catalog):
    """Make a host without guests; in the end no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    host = Host(tmp_path, catalog)
    yield host
    host.close()
    assert len(os.listdir("/proc/self/fd")) == before


def values(second: Second, name: str) -> Values:
    """Return a domain's numbers by family and labels."""
    return {
        (series.field.family, series.part, *(text for _, text in series.labels)): number
        for reading in (*second.readings, *second.summaries)
        if reading.domain and reading.domain.name == name
        for series, number in zip(reading.shape.series, reading.values, strict=True)
    }


def names(second: Second) -> list[str]:
    """Return whose readings there are, in order."""
    return [reading.domain.name for reading in second.readings if reading.domain]


def test_a_guest_is_read_from_its_own_files(host: Host):
    """Run time, delay, memory and faults are the kernel's, in the kernel's precision."""
    host.start(100, ONE, "vm", 7)
    host.tree.thread(100, 120, "IO iothread3", 31, 32)
    host.tree.times(100, 110, 1_000_000_001, 17)
    host.tree.stat(100, threads=4, pages=250, minor=9)

    seen = values(host.look(), "vm")

    assert seen["libvirt_domain_vcpu_time_seconds", "", "0"] == 1_000_000_001
    assert seen["libvirt_domain_vcpu_delay_seconds", "", "0"] == 17
    assert seen["libvirt_domain_vcpu_wait_seconds", "", "0"] == 17
    assert seen["libvirt_domain_vcpu_time_seconds", "", "1"] == 0
    assert seen["libvirt_domain_iothread_time_seconds", "", "3"] == 31
    assert seen["libvirt_domain_iothread_delay_seconds", "", "3"] == 32
    assert seen["libvirt_domain_emulator_time_seconds", ""] == 5_000_000
    assert seen["libvirt_domain_memory_stats_rss_bytes", ""] == 250 * os.sysconf("SC_PAGE_SIZE")
    assert seen["libvirt_domain_process_minor_faults", ""] == 9
    assert seen["libvirt_domain_process_major_faults", ""] == 1


def test_a_guest_is_who_its_command_line_says(host: Host):
    """The pid file's name means nothing: a UUID and libvirt's number do."""
    host.start(100, ONE, "vm", 7)
    (host.tree.pids / "vm.pid").rename(host.tree.pids / "&quot;other.pid")

    assert names(host.look()) == ["vm"]


def test_another_run_is_not_taken_for_this_one(host: Host):
    """A process of libvirt's next number waits until libvirt has told of it."""
    host.start(100, ONE, "vm", 7)
    host.tree.end(100, "vm")
    host.tree.start(200, ONE, "vm", 8)

    assert names(host.look()) == []
    host.know(ONE, "vm", 8)
    assert names(host.look()) == ["vm"]


def test_a_recycled_pid_is_never_read(host: Host):
    """A new process under the number of one that ended is somebody else, whatever it shows."""
    host.start(100, ONE, "vm", 7)
    assert names(host.look()) == ["vm"]
    host.tree.end(100)
    host.tree.start(100, TWO, "stranger", 1)

    assert names(host.look()) == []
    assert names(host.look()) == []


def test_a_guest_that_starts_late_is_found(host: Host):
    """Libvirt writes the pid first; the process becomes QEMU, and known, later."""
    host.start(100, ONE, "vm", 7)
    (host.tree.proc / "100" / "cmdline").write_bytes(b"/usr/sbin/libvirtd\0--timeout\x00120\0")
    assert names(host.look()) == []

    host.tree.command(100, ONE, 7, "vm")
    assert names(host.look()) == ["vm"]


def test_a_guest_that_ends_is_forgotten(host: Host):
    """Ended or a zombie: no number of it is shown, and those of others are."""
    host.start(100, ONE, "vm", 7)
    host.start(200, TWO, "other", 8)
    assert sorted(names(host.look())) == ["other", "vm"]

    host.tree.stat(100, threads=1, state="Z")
    (host.tree.proc / "100" / "cmdline").write_bytes(b"")
    assert names(host.look()) == ["other"]
    host.tree.end(200, "other")
    assert names(host.look()) == []


def test_plugged_vcpus_come_and_go(host: Host):
    """A vCPU is shown from the second in which its thread is there to the last of it."""
    host.start(100, ONE, "vm", 7, vcpus=1)
    host.look()
    host.tree.thread(100, 300, "CPU 1/KVM", 55, 5)
    host.tree.stat(100, threads=3)
    assert values(host.look(), "vm")["libvirt_domain_vcpu_time_seconds", "", "1"] == 55

    host.tree.unplug(100, 300)
    seen = values(host.look(), "vm")
    assert ("libvirt_domain_vcpu_time_seconds", "", "1") not in seen
    assert ("libvirt_domain_vcpu_time_seconds", "", "0") in seen


MAC = "52:54:00:00:00:0{}"
NICS = ("tap0", "macvtap0", "ipvtap0", "gone0", "eth0")
STEM = "libvirt_domain_interface_stats_"


def with_nics(host: Host) -> None:
    """Start a guest whose XML names all kinds of devices, most of which its kernel has."""
    rows = "".join(map(ROW.format, ("tap0", "macvtap0", "ipvtap0", "eth0", "other0")))
    host.start(100, ONE, "vm", 7, links=rows)
    host.know(ONE, "vm", 7, *((name, MAC.format(at)) for at, name in enumerate(NICS)))


def nics(host: Host) -> dict[str, tuple[int | float, ...]]:
    """Return what each NIC has received and sent, and its lost packets."""
    seen = values(host.look(), "vm")
    names = {key[2] for key in seen if key[0].startswith(STEM)}
    counts = ("receive_bytes", "receive_errors", "transmit_packets", "transmit_drops")
    return {name: tuple(seen[STEM + each, "", name] for each in counts) for name in sorted(names)}


def test_interfaces_are_seen_from_the_guest(host: Host):
    """What a tap receives its guest has sent; a macvtap is the guest's own, whatever made it."""
    with_nics(host)
    host.devices(100, tap0="tun_flags", macvtap0="macvtap", ipvtap0="ipvtap", eth0="device")

    assert nics(host) == {
        "ipvtap0": (1, 3, 6, 8),
        "macvtap0": (1, 3, 6, 8),
        "tap0": (5, 7, 2, 4),
    }, "a device of the host that only has the name of a guest's is none of its"


def test_in_another_network_namespace_the_guests_own_sysfs_is_asked(host: Host):
    """The agent's sysfs has devices of the same names, which are others; it may not look at all."""
    with_nics(host)
    host.devices(100, tap0="macvtap", macvtap0="tun_flags")
    (host.tree.proc / "self/net/dev").unlink()
    (host.tree.proc / "self/net/dev").write_text("")
    assert nics(host) == {}, "what cannot be seen is left to libvirt"

    root = host.tree.proc / "100/root/sys"
    for name, entry in (("tap0", "tun_flags"), ("macvtap0", "macvtap"), ("eth0", "device")):
        host.device(root, name, entry)
    host.now += 60 * SECOND
    assert nics(host) == {}, "this is the sysfs of yet another namespace"
    host.device(root, "ipvtap0", "ipvtap")
    host.device(root, "other0", "tun_flags")
    (root / "class/net/bonding_masters").write_text("\n")
    host.now += 60 * SECOND
    assert list(nics(host)) == ["ipvtap0", "macvtap0", "tap0"]
    assert nics(host)["tap0"] == (5, 7, 2, 4)


def test_a_device_that_is_plugged_is_looked_at(host: Host):
    """A NIC that comes is counted from the look that sees it on, and one that goes no longer."""
    host.start(100, ONE, "vm", 7, links=ROW.format("tap0"))
    host.know(ONE, "vm", 7, ("tap0", MAC.format(0)))
    host.devices(100, tap0="tun_flags", plug1="macvtap")
    assert list(nics(host)) == ["tap0"]
    host.tree.table(100, ROW.format("tap0") + ROW.format("plug1"))
    host.know(ONE, "vm", 7, ("tap0", MAC.format(0)), ("plug1", MAC.format(1)))
    assert nics(host)["plug1"] == (1, 3, 6, 8)
    host.tree.table(100, ROW.format("plug1"))
    host.know(ONE, "vm", 7, ("plug1", MAC.format(1)))
    assert list(nics(host)) == ["plug1"]


def test_one_bad_second_stays_visible(host: Host):
    """A storm of one second is in the histogram for ever and in the peak for its time."""
    host.start(100, ONE, "vm", 7)
    delay = 0
    for second in range(20):
        delay += 800_000_000 if second == 3 else 0
        host.tree.times(100, 110, 0, delay)
        looked = host.look()
        if looked.summaries:
            seen = values(looked, "vm")

    def bucket(le: str) -> int | float:
        return seen["libvirt_domain_steal_ratio", "bucket", le]

    assert bucket("+Inf") == seen["libvirt_domain_steal_ratio", "count"]
    assert bucket("0.7") == bucket("0.9") - 1 == bucket("+Inf") - 1
    assert seen["libvirt_domain_steal_ratio", "sum"] == pytest.approx(0.8)


def test_the_peak_is_the_highest_of_its_time(host: Host):
    """The peak is the highest share of the seconds kept, and gone after them."""
    host.start(100, ONE, "vm", 7)
    peaks = []
    for run in (0, 300, 900, 1000, 1000, 1000, *[1000] * 12):
        host.tree.times(100, 111, run * 1_000_000, 0)
        seen = values(host.look(), "vm")
        if ("libvirt_domain_saturation_peak_ratio", "") in seen:
            peaks.append(seen["libvirt_domain_saturation_peak_ratio", ""])

    assert peaks == [0, pytest.approx(0.6), pytest.approx(0.6), 0]


def test_threads_that_come_and_go_cost_no_second(host: Host):
    """QEMU's worker threads change their number all the time; every vCPU's second counts."""
    host.start(100, ONE, "vm", 7)
    for second in range(6):
        host.tree.thread(100, 400 + second, "worker")
        host.tree.stat(100, threads=4 + second)
        looked = host.look()
    seen = values(looked, "vm")

    assert seen["libvirt_domain_steal_ratio", "count"] == 2 * 5


@pytest.mark.parametrize(("soft", "most", "allowed"), [(512, 700, 700), (512, 400, 400)])
def test_a_shells_limit_is_raised(soft: int, most: int, allowed: int):
    """What a login shell gives is not what the agent has to live with, within reason."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        assert descriptors_allowed(most) == allowed
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (max(soft, most), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_descriptors_the_numbers_are_the_same(tmp_path: Path, catalog: Catalog):
    """Where no more descriptors may be kept, the files are opened each time."""
    host = Host(tmp_path, catalog, descriptors=1)
    host.start(100, ONE, "vm", 7)
    host.tree.times(100, 111, 77, 8)
    before = len(os.listdir("/proc/self/fd"))
    first = values(host.look(), "vm")
    assert len(os.listdir("/proc/self/fd")) == before + 2, "the process' folder and one file"
    host.tree.times(100, 111, 78, 8)

    assert first["libvirt_domain_vcpu_time_seconds", "", "1"] == 77
    assert values(host.look(), "vm")["libvirt_domain_vcpu_time_seconds", "", "1"] == 78
    host.close()


def test_cgroups_are_read_in_turn(tmp_path: Path, catalog: Catalog):
    """Each guest's cgroup once in so many looks, evenly, a new guest's at once; all when asked."""
    group = tmp_path / "cgroup" / "machine"
    group.mkdir(parents=True)
    (group.parent / "cgroup.controllers").write_text("cpu\n")
    host = Host(tmp_path, catalog, cgroup_looks=3)
    for number in range(1, 7):
        name = f"vm{number}"
        host.start(100 * number, f"{number}{ONE[1:]}", name, number)
        folder = group / f"qemu-{number}-{name}.libvirt-qemu"
        folder.mkdir()
        (folder / "cpu.stat").write_text("usage_usec 3\nuser_usec 2\nsystem_usec 1\n")
        member = f"0::/machine/{folder.name}\n"
        (host.tree.proc / str(100 * number) / "cgroup").write_text(member)

    def read(**how: bool) -> list[int]:
        host.now += SECOND
        second = host.survey.look(**how)
        assert len(names(second)) == 6, "what is not of the cgroup is of every look"
        return sorted(reading.domain.id for reading in second.cgroups if reading.domain)

    assert read() == [1, 2, 3, 4, 5, 6]
    turns = [read() for _ in range(6)]
    assert sorted(number for turn in turns[:3] for number in turn) == [1, 2, 3, 4, 5, 6]
    assert [len(turn) for turn in turns] == [2] * 6
    assert turns[3:] == turns[:3]
    assert read(whole=True) == [1, 2, 3, 4, 5, 6]
    host.close()


def partitions(host: Host) -> dict[str, dict[str, int]]:
    """Return the sums of each partition a summary later."""
    host.look(5)
    tree = host.survey.partitions()
    return {path: dict(level.sums) for path, level in tree.items()}


def test_a_guest_counts_nowhere_until_it_is_described(host: Host, tmp_path: Path):
    """It is not taken for one of the default partition, nor its group for that of it."""
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/cgroup.controllers").write_text("cpu\n")
    group = tmp_path / "cgroup/prod.partition/qemu-7-vm.libvirt-qemu"
    group.mkdir(parents=True)
    usage = "usage_usec {}\nuser_usec 2\nsystem_usec 1\n"
    (group / "cpu.stat").write_text(usage.format(3000))
    (group.parent / "cpu.stat").write_text(usage.format(9999))
    host.start(100, ONE, "vm", 7)
    host.tree.stat(100, threads=3, started=1 << 40)
    (host.tree.proc / "100/cgroup").write_text("0::/prod.partition/qemu-7-vm.libvirt-qemu\n")
    host.survey._hierarchies = Hierarchies(tmp_path / "cgroup")
    assert partitions(host) == {}

    host.know(ONE, "vm", 7, partition="/prod")
    (level,) = partitions(host).items()
    assert level[0] == "/prod"
    assert (level[1]["domains"], level[1]["domains_unseen"]) == (1, 0)
    assert level[1]["domains_cpu"] == 3_000_000
    (tree,) = host.survey.partitions().values()
    assert ("cpu", "time", ()) in [fact for fact, _ in tree.rows]


def test_a_guest_that_cannot_be_read_is_unseen_and_counted_once(host: Host):
    """What is not seen is said, and when it is seen again nothing is counted twice."""
    host.start(100, ONE, "vm", 7)
    host.tree.stat(100, threads=3, started=1 << 40)
    host.know(ONE, "vm", 7, partition="/prod")
    host.tree.times(100, 110, 1000, 0)
    seen = partitions(host)["/prod"]
    assert (seen["domains_unseen"], seen["vcpu_time"], seen["vcpus"]) == (0, 1000, 2)

    (host.tree.pids / "vm.pid").rename(host.tree.pids / "hidden")
    unseen = partitions(host)["/prod"]
    assert unseen == {"domains": 1, "domains_unseen": 1, "vcpu_time": 1000, "vcpu_delay": 0}
    (host.tree.pids / "hidden").rename(host.tree.pids / "vm.pid")
    host.tree.times(100, 110, 1001, 0)
    seen = partitions(host)["/prod"]
    assert (seen["domains_unseen"], seen["vcpu_time"], seen["vcpus"]) == (0, 1001, 2)

    host.tree.times(100, 110, 1005, 0)
    host.look()
    host.tree.end(100, "vm")
    host.look()
    host.start(200, TWO, "other", 8)
    host.know(TWO, "other", 8, partition="/prod")
    del host.running[ONE]
    assert partitions(host)["/prod"]["vcpu_time"] == 1005, "it is counted up to its last second"


def test_what_cannot_be_seen_is_named(host: Host):
    """Hidden processes, missing statistics, a missing directory: named, and the rest is given."""

    def blind() -> set[str]:
        return {what for what in host.look().blind if not what.startswith("host ")}

    host.start(100, ONE, "vm", 7)
    host.tree.proc.rename(host.tree.proc.with_name("hidden"))
    assert [blind() for _ in range(5)] == [set()] * 4 + [{"processes"}]
    (host.tree.pids / "vm.pid").rename(host.tree.pids / "other")
    assert blind() == {"pid files"}
    (host.tree.pids / "other").rename(host.tree.pids / "vm.pid")
    host.tree.proc.with_name("hidden").rename(host.tree.proc)

    host.tree.times(100, 100, 0, 0)
    assert blind() == {"run times"}
    host.tree.times(100, 100, 1, 0)
    (host.tree.proc / "100" / "net" / "dev").unlink()
    assert blind() == {"interfaces", "cgroups"}
    assert names(host.look()) == ["vm"]

    host.tree.pids.rename(host.tree.pids.with_name("moved"))
    assert "pid files" in blind()
    assert names(host.look()) == ["vm"]


def test_a_renamed_interface_is_named_once_it_is_sure(host: Host):
    """What the host had and lacks for seconds is told of; what never had a device is not."""
    host.start(100, ONE, "vm", 7, links=ROW.format("tap0"))
    host.know(ONE, "vm", 7, ("tap0", MAC.format(0)), ("mcast0", MAC.format(1)))

    def lost() -> dict[str, str]:
        return {device: reason for (_, device), reason in host.look().lost.items()}

    assert not any(lost() for _ in range(12))
    host.tree.table(100, ROW.format("other0"))
    told = [lost() for _ in range(12)]
    assert told[:9] == [{}] * 9
    assert told[9] == {"tap0": "the host has no tap0"}
    host.tree.table(100, ROW.format("tap0"))
    assert not any(lost() for _ in range(12))


@pytest.mark.parametrize("address", [MAC.format(1), "fe" + MAC.format(1)[2:]])
def test_an_interface_that_was_renamed_before_is_found_by_its_address(host: Host, address: str):
    """The agent starts after the renaming: the address, or the one of its tap, tells of it."""
    host.start(100, ONE, "vm", 7, links=ROW.format("new0"))
    host.know(ONE, "vm", 7, ("tap0", MAC.format(1).upper()), ("mcast0", MAC.format(2)))
    host.devices(100)
    host.device(host.sys, "new0", "tun_flags", address)
    told = [host.look().lost for _ in range(12)]
    (domain, _) = host.running[ONE]
    assert told[9] == {(domain, "tap0"): "the host has no tap0; new0 has its address"}


def test_whatever_is_not_seen_can_be_mended(host: Host):
    """There is advice, or knowingly none, for everything that a look can miss."""
    host.start(100, ONE, "vm", 7)
    (host.tree.proc / "100" / "net" / "dev").unlink()
    known = set(host.look().blind)
    assert {"host CPUs", "host pressure", "cgroups", "interfaces"} <= known
    nothing = {"host CPUs", "host memory", "host load", "host NUMA nodes", "host huge pages"}
    fixes = {what: host.survey.bars.explained(what, "")[1] for what in known | WANTED}
    assert {what for what, fix in fixes.items() if not fix} == nothing
    assert host.survey.bars.explained("what is new", "so") == ("so", "")


@pytest.mark.parametrize(
    ("uri", "directory"),
    [
        ("qemu:///system?socket=/tmp/x/libvirt-sock-ro", "/tmp/x/qemu"),
        ("qemu+unix:///system?socket=/run/libvirt/virtqemud-sock-ro", "/run/libvirt/qemu"),
        ("qemu:///system", "/run/libvirt/qemu"),
    ],
)
def test_pid_files_are_beside_the_socket(uri: str, directory: str):
    """A libvirt elsewhere on this host keeps its pid files elsewhere too."""
    assert pid_files(uri, (Path("/run/libvirt"),)) == Path(directory)


@pytest.mark.parametrize(
    "uri",
    ["qemu+ssh://host/system", "qemu+tcp://host/system", "test:///default", "qemu:///session"],
)
def test_a_hypervisor_elsewhere_has_no_lane(uri: str):
    """Where the guests are not this host's, the reason is told."""
    with pytest.raises(Elsewhere):
        pid_files(uri)

"""What the kernel tells about the guests: found, read, and never taken from somebody else."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.processes import Tree
from virtstatd.catalog import Catalog, load
from virtstatd.collect.kernel.blind import MENDS
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
            devices=folder / "sys",
            clock=lambda: self.now,
        )

    def start(self, pid: int, uuid: str, name: str, number: int, vcpus: int = 2, **parts: str):
        """Start a guest, known to libvirt."""
        self.tree.start(pid, uuid, name, number, vcpus=vcpus, **parts)
        self.know(uuid, name, number)

    def know(self, uuid: str, name: str, number: int, *nics: tuple[str, str]) -> None:
        """Let libvirt know a domain."""
        rows = [("nic", {"target_device": nic, "interface_type": kind}) for nic, kind in nics]
        domain = Domain(uuid, name, number, (("domain", name),))
        shape = self.catalog.shape("domain", rows)
        self.running[uuid] = domain, (Reading(domain, shape, (1,) * len(rows)),)

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


def test_interfaces_are_seen_from_the_guest(host: Host):
    """What a tap receives its guest has sent; a macvtap is the guest's own device."""
    host.start(100, ONE, "vm", 7, links=ROW.format("  tap0") + ROW.format("macvtap0"))
    host.know(ONE, "vm", 7, ("tap0", "bridge"), ("macvtap0", "direct"), ("gone0", "bridge"))

    seen = values(host.look(), "vm")

    stem = "libvirt_domain_interface_stats_"
    assert seen[f"{stem}transmit_bytes", "", "tap0"] == 1
    assert seen[f"{stem}receive_packets", "", "tap0"] == 6
    assert seen[f"{stem}receive_errors", "", "macvtap0"] == 3
    assert seen[f"{stem}transmit_drops", "", "macvtap0"] == 8
    assert not [key for key in seen if "gone0" in key]


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
    """An interface that the host lacks for seconds is told of, one without a device is not."""
    host.start(100, ONE, "vm", 7, links=ROW.format("tap0"))
    host.know(ONE, "vm", 7, ("tap0", "bridge"), ("vhost0", "vhostuser"))

    def blind() -> str | None:
        return host.look().blind.get("renamed interfaces")

    assert not any(blind() for _ in range(12))
    host.tree.table(100, ROW.format("other0"))
    told = [blind() for _ in range(12)]
    assert told[:9] == [None] * 9
    assert set(told[10:]) == {"the host has no tap0 of vm"}
    host.tree.table(100, ROW.format("tap0"))
    assert blind() is None


def test_whatever_is_not_seen_can_be_mended(host: Host):
    """There is advice, or knowingly none, for everything that a look can miss."""
    host.start(100, ONE, "vm", 7)
    (host.tree.proc / "100" / "net" / "dev").unlink()
    known = set(host.look().blind)
    assert {"host CPUs", "host pressure", "cgroups", "interfaces"} <= known
    assert known | WANTED <= MENDS.keys()


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

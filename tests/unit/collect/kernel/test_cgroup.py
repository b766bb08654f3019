"""What a guest's cgroup counts, on every kind of host."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.processes import Tree
from virtstatd.catalog import Catalog, load
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.survey import Second, Survey
from virtstatd.hypervisor.processes import Processes
from virtstatd.model import Domain
from virtstatd.runtime.kernel_files import Descriptors


VM = Domain("11111111-1111-4111-8111-111111111111", "vm", 7, (("domain", "vm"),))
SCOPE = "machine.slice/machine-qemu\\x2d7\\x2dvm.scope"
PLAIN = "machine/prod.partition/qemu-7-vm.libvirt-qemu"
LATER = 1 << 40
"""A start after that of the agent, in ticks."""

PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 total={}\n"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Load the package's catalog."""
    return load()


class Host:
    """One guest, and the cgroups of its host as files."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.tree = Tree(folder)
        self.tree.start(100, VM.uuid, VM.name, VM.id)
        self.tree.stat(100, threads=3, started=LATER)
        self.root = folder / "cgroup"
        self.root.mkdir()
        self.now = 0
        self.shapes = Shapes(catalog)
        self.descriptors = Descriptors(100)
        self._survey: Survey | None = None

    def unified(self, path: str, **files: str) -> None:
        """Make this a host of version 2, with the guest's files under `path`."""
        self.root.joinpath("cgroup.controllers").write_text("cpu memory io\n")
        self.write(self.root / path, **files)

    def mounted(self, root: str) -> None:
        """Have the mount begin at this group, as the agent's namespace names it."""
        own = self.tree.proc / "self"
        own.mkdir(exist_ok=True)
        (own / "mountinfo").write_text(f"1 2 0:3 {root} {self.root} rw - cgroup2 cgroup2 rw\n")

    def write(self, folder: Path, **files: str) -> None:
        """Write files, whose names have underscores for dots."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("_", ".", 1)).write_text(text)

    def member(self, *lines: str) -> None:
        """Say in which cgroups the process is."""
        self.tree.proc.joinpath("100", "cgroup").write_text("".join(f"{x}\n" for x in lines))

    def look(self, seconds: int = 1) -> Second:
        """Let time pass and look."""
        self.now += seconds * 1_000_000_000
        if self._survey is None:
            self._survey = Survey(
                Processes(self.tree.pids, self.tree.proc),
                lambda: [(VM, ())],
                self.shapes,
                self.descriptors,
                60,
                proc=self.tree.proc,
                cgroups=self.root,
                devices=self.root / "sys",
                clock=lambda: self.now,
            )
        return self._survey.look()

    def seen(self, seconds: int = 1) -> dict[str, int | float]:
        """Return what the cgroup counts, by family and labels."""
        return {
            " ".join((series.field.family, *(text for _, text in series.labels))): number
            for reading in self.look(seconds).cgroups
            for series, number in zip(reading.shape.series, reading.values, strict=True)
        }

    def close(self) -> None:
        """Let go of the files."""
        if self._survey:
            self._survey.close()


@pytest.fixture
def host(tmp_path: Path, catalog: Catalog):
    """Make a host."""
    host = Host(tmp_path, catalog)
    yield host
    host.close()
    assert host.descriptors._left == 100


def cpu(usage: int, throttled: int = 0) -> str:
    """Return a `cpu.stat` of version 2."""
    return (
        f"usage_usec {usage}\nuser_usec 2\nsystem_usec 1\nnr_periods 10\nnr_throttled 4\n"
        f"throttled_usec {throttled}\n"
    )


@pytest.mark.parametrize("within", ["", "/libvirt/emulator", "/emulator"])
def test_version_2_under_systemd_and_without(host: Host, within: str):
    """All that a group of version 2 has, wherever in it libvirt put the emulator."""
    host.member(f"0::/{SCOPE}{within}")
    host.unified(
        SCOPE,
        cpu_stat=cpu(3, 99),
        cpu_pressure=PRESSURE.format(11, 12),
        memory_pressure=PRESSURE.format(13, 14),
        io_pressure=PRESSURE.format(15, 16),
        memory_current="4096\n",
        memory_events="low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n",
        io_stat="8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=6 "
        "rios=7 wios=8\n253:0 \n",
    )

    assert host.seen() == {
        "libvirt_domain_info_cpu_time_seconds": 3000,
        "libvirt_domain_info_cpu_user_seconds": 2000,
        "libvirt_domain_info_cpu_system_seconds": 1000,
        "libvirt_domain_throttle_periods": 10,
        "libvirt_domain_throttled_periods": 4,
        "libvirt_domain_throttled_seconds": 99_000,
        "libvirt_domain_overhead_seconds": 3000,
        "libvirt_domain_pressure_some_seconds cpu": 11,
        "libvirt_domain_pressure_full_seconds cpu": 12,
        "libvirt_domain_pressure_some_seconds memory": 13,
        "libvirt_domain_pressure_full_seconds memory": 14,
        "libvirt_domain_pressure_some_seconds io": 15,
        "libvirt_domain_pressure_full_seconds io": 16,
        "libvirt_domain_cgroup_memory_bytes": 4096,
        "libvirt_domain_cgroup_oom": 2,
        "libvirt_domain_cgroup_oom_kills": 1,
        "libvirt_domain_cgroup_read_bytes 8:0": 1,
        "libvirt_domain_cgroup_read_bytes 8:16": 5,
        "libvirt_domain_cgroup_write_bytes 8:0": 2,
        "libvirt_domain_cgroup_write_bytes 8:16": 6,
        "libvirt_domain_cgroup_read_requests 8:0": 3,
        "libvirt_domain_cgroup_read_requests 8:16": 7,
        "libvirt_domain_cgroup_write_requests 8:0": 4,
        "libvirt_domain_cgroup_write_requests 8:16": 8,
    }


def test_version_1(host: Host):
    """Each controller's own files, some of which are mounted together."""
    host.member(
        f"5:cpu,cpuacct:/{PLAIN}/emulator", f"4:memory:/{PLAIN}", f"3:blkio:/{PLAIN}", "2:pids:/"
    )
    host.write(
        host.root / "cpu,cpuacct" / PLAIN,
        cpuacct_usage="3000\n",
        cpuacct_stat="user 2\nsystem 1\n",
        cpu_stat="nr_periods 10\nnr_throttled 4\nthrottled_time 99\n",
    )
    host.write(
        host.root / "memory" / PLAIN,
        memory_usage_in_bytes="4096\n",
        memory_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    )
    folder = host.root / "blkio" / PLAIN
    folder.mkdir(parents=True)
    (folder / "blkio.throttle.io_service_bytes_recursive").write_text(
        "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n"
    )

    assert host.seen() == {
        "libvirt_domain_info_cpu_time_seconds": 3000,
        "libvirt_domain_info_cpu_user_seconds": 20_000_000,
        "libvirt_domain_info_cpu_system_seconds": 10_000_000,
        "libvirt_domain_throttle_periods": 10,
        "libvirt_domain_throttled_periods": 4,
        "libvirt_domain_throttled_seconds": 99,
        "libvirt_domain_overhead_seconds": 3000,
        "libvirt_domain_cgroup_memory_bytes": 4096,
        "libvirt_domain_cgroup_oom_kills": 1,
        "libvirt_domain_cgroup_read_bytes 8:0": 1,
        "libvirt_domain_cgroup_write_bytes 8:0": 2,
    }


def test_a_host_that_has_both_versions(host: Host):
    """CPU time comes from version 2 as libvirt's does, and no fact comes twice."""
    host.member(f"1:cpuacct:/{PLAIN}", f"2:memory:/{PLAIN}", f"0::/{PLAIN}/emulator")
    unified = host.root / "unified"
    host.write(unified / PLAIN, cpu_stat="usage_usec 8\nuser_usec 5\nsystem_usec 3\n")
    (unified / "cgroup.controllers").write_text("\n")
    host.write(
        host.root / "cpuacct" / PLAIN, cpuacct_usage="1\n", cpuacct_stat="user 1\nsystem 1\n"
    )
    host.write(host.root / "memory" / PLAIN, memory_usage_in_bytes="4096\n")

    assert host.seen() == {
        "libvirt_domain_info_cpu_time_seconds": 8000,
        "libvirt_domain_info_cpu_user_seconds": 5000,
        "libvirt_domain_info_cpu_system_seconds": 3000,
        "libvirt_domain_overhead_seconds": 8000,
        "libvirt_domain_cgroup_memory_bytes": 4096,
    }
    assert {"io", "cpu pressure"} <= set(host.look().blind)


@pytest.mark.parametrize("path", ["", "user.slice", PLAIN.replace("-7-", "-70-")])
def test_a_group_that_is_not_the_guests_own_is_not_read(host: Host, path: str):
    """Neither the group of everybody nor that of another number is this guest's."""
    host.member(f"0::/{path}")
    host.unified(path, cpu_stat=cpu(3))

    assert host.seen() == {}


def test_overhead_is_the_whole_less_the_vcpus(host: Host):
    """What vCPUs ran is not overhead, also of those that are gone; and it never shrinks."""
    host.member(f"0::/{PLAIN}")
    host.unified(PLAIN, cpu_stat=cpu(1000))
    host.tree.times(100, 110, 300_000, 0)
    host.tree.times(100, 111, 100_000, 0)
    overhead = "libvirt_domain_overhead_seconds"
    assert host.seen()[overhead] == 600_000

    host.tree.times(100, 110, 400_000, 0)
    assert host.seen()[overhead] == 600_000, "the vCPU's file was a little newer"
    host.unified(PLAIN, cpu_stat=cpu(1200))
    host.tree.unplug(100, 111)
    assert host.seen()[overhead] == 1_200_000 - 400_000 - 100_000


def test_overhead_of_an_earlier_guest_begins_at_zero(host: Host):
    """An agent that starts anew counts growth: nothing that it remembered can be missed."""
    host.tree.stat(100, threads=3, started=1)
    host.member(f"0::/{PLAIN}")
    host.unified(PLAIN, cpu_stat=cpu(1000))
    host.tree.times(100, 110, 300_000, 0)
    overhead = "libvirt_domain_overhead_seconds"
    assert host.seen()[overhead] == 0
    host.unified(PLAIN, cpu_stat=cpu(1500))
    assert host.seen()[overhead] == 500_000
    host.tree.times(100, 110, 300_007, 0)
    assert host.seen()[overhead] == 500_000


@pytest.mark.parametrize(
    ("limit", "throttled"), [("50000 100000\n", 49_000), ("max 100000\n", 9000)]
)
def test_limits_on_single_vcpus_count(host: Host, limit: str, throttled: int):
    """Libvirt's quota is one of each vCPU's own group, whose throttling the whole does not show."""
    host.member(f"0::/{SCOPE}/libvirt/emulator")
    host.unified(SCOPE, cpu_stat=cpu(3, 9))
    host.write(host.root / SCOPE / "libvirt" / "vcpu0", cpu_stat=cpu(3, 40), cpu_max=limit)

    assert host.seen()["libvirt_domain_throttled_seconds"] == throttled


def test_what_has_not_changed_is_the_same_reading(host: Host):
    """A second in which no file moved makes nothing anew, and one file's change is seen."""
    host.member(f"0::/{PLAIN}")
    host.unified(PLAIN, cpu_stat=cpu(3), memory_current="4096\n")
    first, second = host.look(), host.look()
    assert second.cgroups[0] is first.cgroups[0]
    assert second.readings[0] is first.readings[0]

    host.unified(PLAIN, memory_current="8192\n")
    assert host.seen()["libvirt_domain_cgroup_memory_bytes"] == 8192
    assert host.seen()["libvirt_domain_info_cpu_time_seconds"] == 3000


def test_a_group_that_changes_is_found_again(host: Host):
    """A group that is removed costs its own numbers, and comes back with the next one."""
    host.member(f"0::/{PLAIN}")
    host.unified(PLAIN, cpu_stat=cpu(3))
    assert host.seen()
    host.unified(PLAIN, cpu_stat="")
    second = host.look()
    assert "cgroups" in second.blind
    assert [reading.shape.group for reading in second.readings] == ["local"]

    host.unified(PLAIN, cpu_stat=cpu(4))
    assert host.seen()["libvirt_domain_info_cpu_time_seconds"] == 4000


@pytest.mark.parametrize(
    ("root", "group", "there"),
    [
        ("/", "/machine/{}", "machine/{}"),
        ("/../..", "/../../machine/{}", "machine/{}"),
        ("/..", "/../{}", "{}"),
        ("/", "/inner/{}", "inner/{}"),
        ("/machine", "/machine/{}", "{}"),
        ("/../../machine", "/../../machine/{}", "{}"),
        ("/../..", "/../{}", "beside/{}"),
        ("/../..", "/{}", "beside/the agent/{}"),
    ],
)
def test_a_group_is_found_where_its_mount_shows_it(host: Host, root: str, group: str, there: str):
    """The agent may be in a cgroup namespace of its own, and its mount may show more, or less."""
    name = "qemu-7-vm.libvirt-qemu"
    host.mounted(root)
    host.unified(there.format(name), cpu_stat=cpu(3))
    host.member(f"0::{group.format(name)}/emulator")
    assert host.seen()["libvirt_domain_info_cpu_time_seconds"] == 3000


@pytest.mark.parametrize(
    ("root", "group"),
    [
        ("/", "/../../machine/{}"),
        ("/../../system.slice/agent.scope", "/../../machine/{}"),
        ("/system.slice/agent.scope", "/machine/{}"),
        ("/", "/machine/{}"),
        ("/../..", "/../{}"),
    ],
)
def test_a_group_that_no_mount_shows_is_named(host: Host, root: str, group: str):
    """No other group is taken for it, whatever the mount shows under the same name."""
    name = "qemu-7-vm.libvirt-qemu"
    path = group.format(name)
    host.mounted(root)
    host.unified("machine/qemu-8-other.libvirt-qemu", cpu_stat=cpu(3))
    host.member(f"0::{path}")
    second = host.look()
    assert second.cgroups == []
    assert second.blind["hidden cgroups"] == f"{path} is in no mount of {host.root}"
    assert "cgroups" not in second.blind

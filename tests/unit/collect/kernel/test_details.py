"""What is read rarely of a guest: each part alone, at its turn, whatever the files say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import Tree
from virtstatd.catalog import Catalog, load
from virtstatd.collect.kernel.details import Details
from virtstatd.collect.kernel.guest import Guest
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.hypervisor.processes import Processes
from virtstatd.model import Domain, Reading
from virtstatd.runtime.kernel_files import Descriptors


UUID = "11111111-1111-4111-8111-111111111111"
VM = Domain(UUID, "vm", 7, (("domain", "vm"),))
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
BOOTED = 1_700_000_000.0
STARTED = ("libvirt_domain_start_time_seconds",)
NUMA = "libvirt_domain_numa_memory_bytes"

V2 = """\
anon N0=4096 N1=8192
file N0=100 N1=0
kernel_stack N0=16384 N1=0
anon_thp N0=2097152 N1=4194304
"""
V1 = """\
total=9 N0=9
hierarchical_total=30 N0=10 N1=20
hierarchical_file=5 N0=2 N1=3
hierarchical_anon=21 N0=6 N1=15
hierarchical_unevictable=4 N0=2 N1=2
"""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Load the package's catalog."""
    return load()


class Scene:
    """One guest of two vCPUs in a tree of files, and its details."""

    def __init__(self, folder: Path, catalog: Catalog, looks: int = 3) -> None:
        self.tree = Tree(folder)
        self.tree.start(100, UUID, "vm", 7, vcpus=2)
        self.catalog = catalog
        self.processes = Processes(self.tree.pids, self.tree.proc)
        self.processes.look()
        self.booted = BOOTED
        self.details = Details(Shapes(catalog), looks, lambda: self.booted)
        self.guests: list[Guest] = []
        self.guest = self.next_guest()

    def next_guest(self) -> Guest:
        """Read the process as another guest would be."""
        (process,) = self.processes.found.values()
        guest = Guest(process, 0, Shapes(self.catalog), Descriptors(100), 10)
        self.guests.append(guest)
        guest.read(VM, 1)
        return guest

    def thread(self, vcpu: int, cpu: str, allowed: str) -> None:
        """Write where a vCPU ran, and where it may run."""
        folder = self.tree.proc / f"100/task/{110 + vcpu}"
        fields = ["S", *["0"] * 35, cpu, "0"]
        (folder / "stat").write_text(f"{110 + vcpu} (CPU {vcpu}/KVM) S 1) {' '.join(fields)}\n")
        (folder / "status").write_text(
            f"Name:\tCPU\nCpus_allowed:\tf\nCpus_allowed_list:\t{allowed}\n"
        )

    def read(self, look: int = 1, *, whole: bool = True) -> Reading | None:
        """Return the details of the guest."""
        return self.details.read(self.guest, VM, look, whole=whole)

    def values(self) -> dict[tuple[str, ...], int | float]:
        """Return the details by metric and labels' values."""
        reading = self.read()
        assert reading
        return {
            (series.field.family, *(text for _, text in series.labels)): number
            for series, number in zip(reading.shape.series, reading.values, strict=True)
        }

    def close(self) -> None:
        """Close everything."""
        for guest in self.guests:
            guest.close()
        self.processes.close()


@pytest.fixture
def scene(tmp_path: Path, catalog: Catalog) -> Iterator[Scene]:
    """Make a guest; in the end no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    scene = Scene(tmp_path, catalog)
    yield scene
    scene.close()
    del scene.guest, scene.guests, scene.processes
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_guest_tells_when_it_started(scene: Scene):
    """It is the start of its process, and a clock that is set later does not move it."""
    assert scene.values() == {STARTED: pytest.approx(BOOTED + 4711 / TICKS, abs=0.01)}
    before = scene.values()
    scene.booted += 3600
    assert scene.values() == before


def test_vcpus_tell_where_they_ran_and_may_run(scene: Scene):
    """The last CPU of each, how many it may run on, and which."""
    scene.thread(0, "5", "0-3,8")
    scene.thread(1, "0", "6")
    seen = scene.values()
    del seen[STARTED]
    assert seen == {
        ("libvirt_domain_vcpu_current_cpu", "0"): 5,
        ("libvirt_domain_vcpu_current_cpu", "1"): 0,
        ("libvirt_domain_vcpu_affinity_cpus", "0"): 5,
        ("libvirt_domain_vcpu_affinity_cpus", "1"): 1,
        ("libvirt_domain_vcpu_affinity_info", "0", "0-3,8"): 1,
        ("libvirt_domain_vcpu_affinity_info", "1", "6"): 1,
    }


@pytest.mark.parametrize(
    ("cpu", "allowed", "kept"),
    [
        ("x", "0-1", set[str]()),
        ("3", "", {"current_cpu"}),
        ("3", "5-1", {"current_cpu"}),
        ("3", "0-", {"current_cpu"}),
        ("3", "0-99999999999", {"current_cpu"}),
        ("3", "0-1,,2", {"current_cpu"}),
        ("3", "9" * 5000, {"current_cpu"}),
    ],
)
def test_a_file_that_cannot_be_read_costs_itself(
    scene: Scene, cpu: str, allowed: str, kept: set[str]
):
    """Of one vCPU what can be read is shown, and of the other one everything."""
    scene.thread(0, cpu, allowed)
    scene.thread(1, "1", "1")
    seen = {(key[0].removeprefix("libvirt_domain_vcpu_"), *key[1:2]) for key in scene.values()}
    assert {name for name, *vcpu in seen if vcpu == ["0"]} == kept
    assert {name for name, *vcpu in seen if vcpu == ["1"]} == {
        *("current_cpu", "affinity_cpus", "affinity_info")
    }


def test_an_unplugged_vcpu_hides_nothing(scene: Scene):
    """A thread that has ended since the last look is left out."""
    scene.thread(0, "5", "0")
    scene.thread(1, "5", "0")
    shutil.rmtree(scene.tree.proc / "100/task/110")
    assert [key[1] for key in scene.values() if "current" in key[0]] == ["1"]


def test_memory_by_node_of_both_versions(scene: Scene, tmp_path: Path):
    """Version 2 counts bytes, version 1 pages of the whole group; 2 is taken where both are."""
    unified, memory = tmp_path / "unified", tmp_path / "memory"
    for folder, text in ((unified, V2), (memory, V1)):
        folder.mkdir()
        (folder / "memory.numa_stat").write_text(text)
    (memory / "memory.stat").write_text("rss_huge 1\ntotal_rss_huge 6291456\n")
    huge = ("libvirt_domain_transparent_huge_pages_bytes",)

    scene.guest.folders.update({"memory": memory})
    seen = scene.values()
    assert {key[1:]: number for key, number in seen.items() if key[0] == NUMA} == {
        ("0", "anon"): 6 * PAGE,
        ("1", "anon"): 15 * PAGE,
        ("0", "file"): 2 * PAGE,
        ("1", "file"): 3 * PAGE,
        ("0", "unevictable"): 2 * PAGE,
        ("1", "unevictable"): 2 * PAGE,
    }
    assert seen[huge] == 6291456

    scene.guest.folders.update({"": unified})
    seen = scene.values()
    assert {key[1:]: number for key, number in seen.items() if key[0] == NUMA} == {
        ("0", "anon"): 4096,
        ("1", "anon"): 8192,
        ("0", "file"): 100,
        ("1", "file"): 0,
    }
    assert seen[huge] == 6291456


@pytest.mark.parametrize("text", ["", "\n\n", "anon\n", "anon N0\nfile N=1 Nx=2 N1=-3\n", "\0\xff"])
def test_strange_memory_is_left_out(scene: Scene, tmp_path: Path, text: str):
    """Nothing is shown of a file that does not say what it should, and all the rest is."""
    (tmp_path / "memory.numa_stat").write_text(text, encoding="latin-1")
    scene.guest.folders.update({"": tmp_path, "memory": tmp_path})
    assert list(scene.values()) == [STARTED]


def test_huge_pages_are_those_of_the_process(scene: Scene):
    """The kernel counts in KiB what a process has of the host's pool."""
    (scene.tree.proc / "100/status").write_text("VmSwap:\t 0 kB\nHugetlbPages:\t   2048 kB\n")
    assert scene.values()["libvirt_domain_huge_pages_bytes",] == 2 << 20


def test_guests_take_turns(scene: Scene):
    """Each is read when it is new and then once in three looks, not all at one."""
    guests = [scene.guest, scene.next_guest(), scene.next_guest(), scene.next_guest()]

    def read(look: int, *, whole: bool = False) -> list[bool]:
        return [bool(scene.details.read(each, VM, look, whole=whole)) for each in guests]

    assert read(9) == [True] * 4
    assert [read(look) for look in (10, 11, 12, 13)] == [
        [False, True, False, False],
        [False, False, True, False],
        [True, False, False, True],
        [False, True, False, False],
    ]
    assert read(14, whole=True) == [True] * 4


def test_details_that_are_off_are_never_read(tmp_path: Path, catalog: Catalog):
    """Without looks nothing is opened, also when everything is to be read."""
    scene = Scene(tmp_path, catalog, looks=0)
    assert scene.read() is None
    scene.close()

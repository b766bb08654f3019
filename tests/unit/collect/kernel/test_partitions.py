"""Partitions: their levels, their own numbers and limits, and the sums of their guests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from virtstatd.catalog import load
from virtstatd.collect.kernel.partitions import (
    UNSEEN,
    Partition,
    Partitions,
    Use,
    fill,
    levels,
    rows_of,
)
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.tree import as_text
from virtstatd.hypervisor.processes import Process
from virtstatd.runtime.kernel_files import Folder


CPU = "usage_usec {}\nuser_usec 2\nsystem_usec 1\n"
BEGAN = 1000


def guest(folder: Path, *totals: int) -> Use:
    """Return what a guest used, of whose group this is the directory."""
    usage, run, delay, resident = totals
    counters = {("vcpu_time", 0): run, ("vcpu_delay", 0): delay, ("domains_cpu", 0): usage}
    return Use({"": folder}, counters, {"vcpus": 2, "rss": resident})


class Host:
    """Guests' processes, and the partitions that they are in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partitions = Partitions(BEGAN)

    def process(self, pid: int, started: int = BEGAN - 1) -> Process:
        """Return a process that is there; of those from before the agent, unless said otherwise."""
        folder = self.folder / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} (qemu) S 1\n")
        return Process(pid, f"u{pid}", 1, started, Folder(folder))

    def end(self, pid: int) -> None:
        """End a process."""
        (self.folder / str(pid) / "stat").unlink()

    def look(
        self, guests: dict[Process, tuple[str, Use]], unseen: str = ""
    ) -> dict[str, Partition]:
        """Count what guests used, and return the tree, with a guest that is not seen."""
        for process, (partition, use) in guests.items():
            self.partitions.count(process, partition, use.counters)
        self.partitions.forget(list(guests))
        return self.partitions.tree([*guests.values(), *([(unseen, UNSEEN)] if unseen else [])])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Make a host without guests."""
    return Host(tmp_path)


def known(partition: Partition) -> dict[str, int | float]:
    """Return what is known of a partition, by key and labels."""
    return {
        " ".join((key, *(text for name, text in labels if name != "partition"))): number
        for (_, key, labels), number in rows_of(partition)
    }


def sums(tree: dict[str, Partition], path: str) -> tuple[int | None, ...]:
    """Return the sums of a level, None for what is absent."""
    keys = ("domains", "domains_unseen", "vcpus", "domains_cpu", "vcpu_time", "vcpu_delay", "rss")
    assert tree[path].sums.keys() <= set(keys)
    return tuple(dict(tree[path].sums).get(key) for key in keys)


def test_every_level_has_the_sum_of_its_guests(host: Host):
    """The sums of a level are those of its own guests and of all levels below, exactly."""
    prod, db = Path("/prod.partition"), Path("/prod.partition/db.partition")
    tree = host.look(
        {
            host.process(1, BEGAN): ("/prod", guest(prod / "qemu-1-a", 1, 10, 100, 1000)),
            host.process(2, BEGAN): ("/prod/db", guest(db / "qemu-2-b", 2, 20, 200, 2000)),
            host.process(3, BEGAN): ("/prod/db", guest(db / "qemu-3-c", 4, 40, 400, 4000)),
            host.process(4, BEGAN): ("/machine", guest(Path("/machine/d"), 8, 80, 800, 8000)),
        }
    )

    assert list(tree) == ["/machine", "/prod", "/prod/db"]
    assert sums(tree, "/machine") == (1, 0, 2, 8, 80, 800, 8000)
    assert sums(tree, "/prod") == (3, 0, 6, 7, 70, 700, 7000)
    assert sums(tree, "/prod/db") == (2, 0, 4, 6, 60, 600, 6000)
    assert tree["/prod"].folders[""] == prod
    assert tree["/prod/db"].folders[""] == db


def test_slices_of_systemd_are_levels_too(tmp_path: Path):
    """What the directories are called does not matter: the levels are counted from the guest."""
    inner = tmp_path / "machine.slice" / "machine-production.slice"
    partition = "/machine/production"
    use = guest(inner / "machine-qemu.scope", 1, 1, 1, 1)
    tree = Partitions(BEGAN).tree([(partition, use)])

    assert levels(partition) == ["/machine", "/machine/production"]
    assert tree["/machine"].folders[""] == tmp_path / "machine.slice"
    assert tree["/machine/production"].folders[""] == inner


def test_counters_begin_with_the_agent(host: Host):
    """A restart of the agent is a reset to zero: all of later guests is counted, else growth."""
    folder = Path("/a/b/c")
    early, late = host.process(1), host.process(2, BEGAN + 5)
    host.look({early: ("/prod", guest(folder, 1000, 1000, 1000, 1))})
    two = {
        early: ("/prod", guest(folder, 1005, 1050, 1500, 1)),
        late: ("/prod", guest(folder, 7, 70, 700, 1)),
    }
    assert sums(host.look(two), "/prod") == (2, 0, 4, 12, 120, 1200, 2)
    assert sums(host.look(two), "/prod") == (2, 0, 4, 12, 120, 1200, 2)

    host.partitions = Partitions(BEGAN + 10)
    assert sums(host.look(two), "/prod") == (2, 0, 4, 0, 0, 0, 2)


def test_sums_of_time_never_go_back(host: Host):
    """A guest that ends, or moves to another partition, leaves its time and takes its memory."""
    folder = Path("/a/b/c")
    one, two, three = (host.process(pid, BEGAN) for pid in (1, 2, 3))
    host.look(
        {
            one: ("/prod/db", guest(folder, 5, 50, 500, 5000)),
            two: ("/prod", guest(folder, 1, 1, 1, 1)),
        }
    )
    tree = host.look({two: ("/prod", guest(folder, 2, 2, 2, 2))})
    assert list(tree) == ["/prod"]
    assert sums(tree, "/prod") == (1, 0, 2, 7, 52, 502, 2)

    tree = host.look({three: ("/prod/db", guest(folder, 1, 1, 1, 1))})
    assert sums(tree, "/prod") == (1, 0, 2, 8, 53, 503, 1)
    assert sums(tree, "/prod/db") == (1, 0, 2, 6, 51, 501, 1)


def test_a_guest_that_one_look_misses_is_not_counted_twice(host: Host):
    """It is known again by its process, for as long as that lives, and by no other's number."""
    folder = Path("/a/b/c")
    process = host.process(1, BEGAN)
    host.look({process: ("/prod", guest(folder, 1000, 1000, 1000, 1))})
    host.look({})
    again = host.process(1, BEGAN)
    tree = host.look({again: ("/prod", guest(folder, 1001, 1001, 1001, 1))})
    assert sums(tree, "/prod") == (1, 0, 2, 1001, 1001, 1001, 1)

    host.end(1)
    host.look({})
    assert not host.partitions._before
    tree = host.look({host.process(1, BEGAN + 9): ("/prod", guest(folder, 2, 2, 2, 1))})
    assert sums(tree, "/prod") == (1, 0, 2, 1003, 1003, 1003, 1)


def test_a_vcpu_that_is_not_seen_for_a_while_is_not_counted_twice(host: Host):
    """Each has its own growth: one that is plugged out and in again takes nothing back."""
    process = host.process(1)

    def used(**vcpus: int) -> int | None:
        counters = {("vcpu_time", int(name[1:])): time for name, time in vcpus.items()}
        return sums(host.look({process: ("/a", Use(counters=counters))}), "/a")[4]

    assert used(v0=100, v1=500) == 0
    assert used(v0=110) == 10
    assert used(v0=120, v1=505) == 25
    assert used(v0=120, v1=1) == 25
    assert used(v0=120, v1=3) == 27


def test_what_is_not_known_is_absent_and_whose_it_is_is_counted(host: Host):
    """Without a visible cgroup there is no CPU time, not one of zero; a part of a sum says so."""
    process, other = host.process(1, BEGAN), host.process(2, BEGAN)
    bare = Use({}, {("vcpu_time", 0): 3, ("vcpu_delay", 0): 4}, {"vcpus": 1, "rss": 5})

    assert sums(host.look({process: ("/a", bare)}), "/a") == (1, 0, 1, None, 3, 4, 5)
    assert sums(host.look({}, unseen="/b"), "/b") == (1, 1, None, None, None, None, None)
    whole = guest(Path("/x/y/z"), 1, 1, 1, 1)
    tree = host.look({process: ("/a", bare), other: ("/a", whole)}, unseen="/a/b")
    assert sums(tree, "/a") == (3, 2, 3, 1, 4, 5, 6)
    assert sums(tree, "/a/b") == (1, 1, None, None, None, None, None)


@pytest.fixture
def prod(tmp_path: Path) -> Path:
    """Make a partition of version 2 with limits."""
    folder = tmp_path / "prod.partition"
    folder.mkdir()
    for name, text in {
        "cpu.stat": CPU.format(3),
        "memory.current": "4096\n",
        "cpu.max": "150000 100000\n",
        "cpu.weight": "200\n",
        "memory.high": "max\n",
        "memory.max": "8192\n",
        "io.weight": "default 50\n8:0 70\n",
        "io.max": "8:0 rbps=1000 wbps=max riops=max wiops=5\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def test_version_2_has_limits_and_numbers_of_its_own(prod: Path):
    """Limits that are set are shown in base units, those that are not are absent."""
    partition = Partition("/prod", {"": prod})
    fill(partition)
    seen = known(partition)

    assert seen["time"] == 3000
    assert seen["group_memory"] == 4096
    assert seen["cpu_limit"] == 1.5
    assert seen["cpu_weight"] == 200
    assert seen["memory_limit"] == 8192
    assert seen["io_weight"] == 50
    assert seen["io_read_limit 8:0"] == 1000
    assert "memory_high" not in seen
    assert "io_write_limit 8:0" not in seen
    Shapes(load()).facts(tuple(fact for fact, _ in rows_of(partition)), "partition")


def test_version_1_has_limits_too(tmp_path: Path):
    """No quota and the highest page of all are no limits."""
    cpu, memory, blkio = (tmp_path / name for name in ("cpu", "memory", "blkio"))
    for folder, name, text in (
        (cpu, "cpu.cfs_quota_us", "-1\n"),
        (cpu, "cpu.cfs_period_us", "100000\n"),
        (cpu, "cpu.shares", "2048\n"),
        (memory, "memory.limit_in_bytes", "1048576\n"),
        (memory, "memory.soft_limit_in_bytes", "9223372036854771712\n"),
        (blkio, "blkio.throttle.write_bps_device", "8:16 77\n"),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    partition = Partition("/prod", {"cpu": cpu, "memory": memory, "blkio": blkio})
    fill(partition)

    assert {key: n for (_, key, _), n in partition.limits} == {
        "cpu_shares": 2048,
        "memory_limit": 1 << 20,
        "io_write_limit": 77,
    }


def test_the_table_shows_usage_against_limits(prod: Path):
    """CPUs used between two looks, memory, and a dash where there is no limit or no number."""
    counted = {"domains": 1, "vcpus": 2, "vcpu_delay": 0}
    before = Partition("/prod", {"": prod}, Counter(counted))
    fill(before)
    (prod / "cpu.stat").write_text(CPU.format(1_000_003))
    now = Partition("/prod", {"": prod}, Counter(counted | {"vcpu_delay": 500_000_000}))
    fill(now)
    inner = Partition("/prod/db", sums=Counter({"domains": 1, "vcpus": 1, "rss": 3 << 30}))

    lines = as_text({"/prod": before}, [now, inner], 2.0).splitlines()
    cells = [" ".join(line.split()) for line in lines]
    assert cells == [
        "PARTITION GUESTS VCPUS CPU CPU LIMIT WEIGHT MEMORY MEMORY LIMIT STEAL",
        "/prod 1 2 0.50 1.50 200 4.0 KiB 8.0 KiB 0.25",
        "/db 1 1 - - - 3.0 GiB - -",
    ]
    assert lines[2].startswith("  /db")

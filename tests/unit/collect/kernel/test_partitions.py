"""Partitions: their levels, their own numbers and limits, and the sums of their guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtstatd.catalog import load
from virtstatd.collect.kernel.partitions import Partition, Partitions, Totals, fill, levels, rows_of
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.tree import as_text


CPU = "usage_usec {}\nuser_usec 2\nsystem_usec 1\n"


def guest(folder: Path, *totals: int) -> tuple[dict[str, Path], Totals]:
    """Return a guest's own group and what it used."""
    usage, run, delay, resident = totals
    return {"": folder}, (1, 2, usage, run, delay, resident)


def known(partition: Partition) -> dict[str, int | float]:
    """Return what is known of a partition, by key and labels."""
    return {
        " ".join((key, *(text for name, text in labels if name != "partition"))): number
        for (_, key, labels), number in rows_of(partition)
    }


def test_every_level_has_the_sum_of_its_guests(tmp_path: Path):
    """The sums of a level are those of its own guests and of all levels below, exactly."""
    prod, db = tmp_path / "prod.partition", tmp_path / "prod.partition" / "db.partition"
    tree = Partitions().tree(
        {
            1: ("/prod", *guest(prod / "qemu-1-a", 1, 10, 100, 1000)),
            2: ("/prod/db", *guest(db / "qemu-2-b", 2, 20, 200, 2000)),
            3: ("/prod/db", *guest(db / "qemu-3-c", 4, 40, 400, 4000)),
            4: ("/machine", *guest(tmp_path / "machine" / "qemu-4-d", 8, 80, 800, 8000)),
        }
    )

    assert {path: each.totals for path, each in tree.items()} == {
        "/machine": (1, 2, 8, 80, 800, 8000),
        "/prod": (3, 6, 7, 70, 700, 7000),
        "/prod/db": (2, 4, 6, 60, 600, 6000),
    }
    assert tree["/prod"].folders[""] == prod
    assert tree["/prod/db"].folders[""] == db


def test_slices_of_systemd_are_levels_too(tmp_path: Path):
    """What the directories are called does not matter: the levels are counted from the guest."""
    inner = tmp_path / "machine.slice" / "machine-production.slice"
    partition = "/machine/production"
    tree = Partitions().tree({1: (partition, *guest(inner / "machine-qemu.scope", 1, 1, 1, 1))})

    assert levels(partition) == ["/machine", "/machine/production"]
    assert tree["/machine"].folders[""] == tmp_path / "machine.slice"
    assert tree["/machine/production"].folders[""] == inner


def test_sums_of_time_never_go_back():
    """A guest that ends, or moves to another partition, leaves its time and takes its memory."""
    partitions = Partitions()
    folder = Path("/a/b/c")
    one = ("/prod/db", *guest(folder, 5, 50, 500, 5000))
    partitions.tree({1: one, 2: ("/prod", *guest(folder, 1, 1, 1, 1))})
    tree = partitions.tree({2: ("/prod", *guest(folder, 2, 2, 2, 2))})
    assert list(tree) == ["/prod"]
    assert tree["/prod"].totals == (1, 2, 7, 52, 502, 2)

    tree = partitions.tree({3: ("/prod/db", *guest(folder, 1, 1, 1, 1))})
    assert tree["/prod"].totals == (1, 2, 8, 53, 503, 1)
    assert tree["/prod/db"].totals == (1, 2, 6, 51, 501, 1)


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
    """CPUs used between two looks, memory, and a dash where there is no limit."""
    before = Partition("/prod", {"": prod}, totals=(1, 2, 0, 0, 0, 0))
    fill(before)
    (prod / "cpu.stat").write_text(CPU.format(1_000_003))
    now = Partition("/prod", {"": prod}, totals=(1, 2, 0, 0, 500_000_000, 0))
    fill(now)
    inner = Partition("/prod/db", totals=(1, 1, 0, 0, 0, 3 << 30))

    lines = as_text({"/prod": before}, [now, inner], 2.0).splitlines()
    cells = [" ".join(line.split()) for line in lines]
    assert cells == [
        "PARTITION GUESTS VCPUS CPU OF WEIGHT MEMORY OF STEAL",
        "/prod 1 2 0.50 1.50 200 4.0 KiB 8.0 KiB 0.25",
        "/db 1 1 0.00 - - 3.0 GiB - 0.00",
    ]
    assert lines[2].startswith("  /db")

"""The host's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtstatd.catalog import load
from virtstatd.collect.kernel.node import Node
from virtstatd.collect.kernel.shapes import Shapes


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Make a host with two CPUs, one NUMA node and one size of huge pages."""
    files = {
        "proc/stat": "cpu  9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 11 12 13 14 15 16 17\nintr 5 1\n",
        "proc/meminfo": "MemTotal:        4 kB\nMemAvailable:    3 kB\nHugePages_Total:  0\n",
        "proc/loadavg": "0.25 0.50 1.75 1/200 4711\n",
        "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=21\n",
        "proc/pressure/memory": "some avg10=0.00 total=22\nfull avg10=0.00 total=23\n",
        "proc/pressure/io": "some avg10=0.00 total=24\nfull avg10=0.00 total=25\n",
        "sys/devices/system/node/node3/meminfo": "Node 3 MemTotal:  8 kB\nNode 3 MemFree: 6 kB\n",
        "sys/devices/system/node/online": "3\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "7\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "6\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Node(tmp_path / "proc", tmp_path / "sys")


def test_the_host_is_read(node: Node):
    """Every number is the kernel's in base units, under labels that say of what."""
    rows, blind = node.read()
    seen = {" ".join((key, *(text for _, text in labels))): n for (_, key, labels), n in rows}

    assert not blind
    assert seen["cpu 0 steal"] == 80_000_000
    assert seen["cpu 0 guest_nice"] == 100_000_000
    assert seen["cpu 1 softirq"] == 170_000_000
    assert "cpu 1 steal" not in seen, "a column that this kernel does not have"
    assert seen["memory_total"] == 4096
    assert seen["memory_available"] == 3072
    assert (seen["load1"], seen["load5"], seen["load15"]) == (0.25, 0.5, 1.75)
    assert seen["pressure_some cpu"] == 21
    assert seen["pressure_full io"] == 25
    assert seen["numa_memory_free 3"] == 6144
    assert seen["huge_pages 2097152"] == 7
    assert seen["huge_pages_free 2097152"] == 6
    Shapes(load()).facts(tuple(fact for fact, _ in rows), "node")


def test_idle_time_does_not_go_back(node: Node, tmp_path: Path):
    """The kernel lets it fall a little, which would be read as a restart; a new CPU begins anew."""

    def seen(idle: int, iowait: int, user: int = 1) -> tuple[float, ...]:
        (tmp_path / "proc/stat").write_text(f"cpu0 {user} 2 3 {idle} {iowait} 6 7\n")
        rows, _ = node.read()
        cpu = {dict(labels)["mode"]: n / 1e9 for (_, key, labels), n in rows if key == "cpu"}
        return cpu["idle"], cpu["iowait"], cpu["user"]

    assert seen(100_000, 500) == (1000, 5, 0.01)
    assert seen(99_999, 499) == (1000, 5, 0.01)
    assert seen(99_701, 400) == (1000, 5, 0.01)
    assert seen(100_001, 501) == (1000.01, 5.01, 0.01)
    assert seen(99_701, 202) == (997.01, 5.01, 0.01), "a fall of 3 s is no matter of rounding"
    assert seen(3, 502) == (0.03, 5.02, 0.01)
    assert seen(4, 503, user=0) == (0.04, 5.03, 0), "what the kernel keeps steady is as it says"


def test_what_is_missing_costs_only_itself(node: Node, tmp_path: Path):
    """Without pressure, as with psi=0, all the rest is given and the lack is named."""
    (tmp_path / "proc/pressure/cpu").unlink()
    rows, blind = node.read()

    assert set(blind) == {"host pressure"}
    keys = {key for (_, key, _), _ in rows}
    assert {"cpu", "memory_total", "load1", "numa_memory_total", "huge_pages"} <= keys


def test_this_host_has_numbers():
    """The kernel that the tests run under is read without a fault, and its CPUs have run."""
    rows, blind = Node(Path("/proc")).read()

    assert set(blind) <= {"host pressure", "host NUMA nodes", "host huge pages"}
    assert sum(number for (_, key, _), number in rows if key == "cpu") > 0

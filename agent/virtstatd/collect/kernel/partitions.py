"""
Partitions: libvirt's resource groups, each with its own cgroup and the sums of its guests.

A guest in `/prod/db` is in the second group below the root, whatever libvirt or systemd call the
directories: `prod.partition/db.partition`, or `prod.slice/prod-db.slice`. So the levels are found
from the guest upwards, and nothing is guessed from names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from virtstatd.collect.kernel.cgroup import Cgroup
from virtstatd.collect.kernel.controllers import Fact, FactRow
from virtstatd.model import Number, Reading
from virtstatd.runtime.kernel_files import Descriptors


DEFAULT: Final = "/machine"
UNLIMITED_V1: Final = 1 << 62
"""What version 1 says where there is no limit on memory: the highest page of 63 bits."""

_INFO: Final = "libvirt_domain_info"
_ZERO: Final = (0, 0, 0, 0, 0, 0)

Totals = tuple[int, int, int, int, int, int]
"""Of guests: how many, their vCPUs, CPU time, vCPUs' run time and delay, resident memory."""


def partition_of(described: Sequence[Reading]) -> str:
    """Return the partition that a domain's description names, libvirt's default without one."""
    for reading in described:
        for series in reading.shape.series:
            if series.field.family == _INFO:
                return dict(series.labels).get("partition", DEFAULT)
    return DEFAULT


def levels(partition: str) -> list[str]:
    """Return a partition and those that it is in, the outermost first."""
    parts = [part for part in partition.split("/") if part]
    return ["/" + "/".join(parts[: at + 1]) for at in range(len(parts))]


@dataclass(slots=True)
class Partition:
    """One level of the tree."""

    path: str
    folders: dict[str, Path] = field(default_factory=dict)
    totals: Totals = _ZERO
    rows: list[FactRow] = field(default_factory=list)
    limits: list[FactRow] = field(default_factory=list)


class Partitions:
    """
    The tree of the partitions that guests are in.

    ThreadTimes are sums over all guests that were seen in a partition, those that ended included: a
    counter must not go back when a guest leaves.
    """

    def __init__(self) -> None:
        self._before: dict[int, tuple[str, Totals]] = {}
        self._ended: dict[str, Totals] = {}

    def tree(
        self, guests: Mapping[int, tuple[str, dict[str, Path], Totals]]
    ) -> dict[str, Partition]:
        """
        Return the partitions of these guests by path, sorted.

        Guests are given by process: their partition, their cgroup's directories by controller, and
        what they have used.
        """
        for pid, (partition, totals) in self._before.items():
            if guests.get(pid, ("",))[0] != partition:
                for path in levels(partition):
                    times = (0, 0, *totals[2:5], 0)
                    self._ended[path] = _sum(self._ended.get(path, _ZERO), times)
        self._before = {pid: (guest[0], guest[2]) for pid, guest in guests.items()}
        found: dict[str, Partition] = {}
        for partition, folders, totals in guests.values():
            paths = levels(partition)
            for up, path in enumerate(reversed(paths)):  # the guest's own group is below all
                level = found.get(path)
                if level is None:
                    level = found[path] = Partition(path, totals=self._ended.get(path, _ZERO))
                level.totals = _sum(level.totals, totals)
                for controller, folder in folders.items():
                    level.folders.setdefault(controller, folder.parents[up])
        return dict(sorted(found.items()))


def fill(partition: Partition) -> None:
    """Read a partition's own cgroup: what it used, and the limits that it has."""
    cgroup = Cgroup(partition.folders, Descriptors(1 << 10))
    try:
        with suppress(OSError, ValueError, LookupError):
            partition.rows = list(cgroup.read().items())
    finally:
        cgroup.close()
    with suppress(ValueError, LookupError):
        partition.limits = list(limits(partition.folders))


def rows_of(partition: Partition) -> Iterator[FactRow]:
    """Return all that is known of a partition, under the catalog's keys for partitions."""
    named = (("partition", partition.path),)
    keys = ("domains", "vcpus", "domains_cpu", "vcpu_time", "vcpu_delay", "rss")
    for key, total in zip(keys, partition.totals, strict=True):
        yield ("partition", key, named), total
    for (_, key, labels), number in (*partition.rows, *partition.limits):
        yield ("partition", key, (*named, *labels)), number


def limits(folders: Mapping[str, Path]) -> Iterator[FactRow]:
    """Return the limits of a group; one that is not set is absent."""
    found: dict[Fact, Number] = {}
    if unified := folders.get(""):
        found.update(_limits_v2(unified))
    for fact, number in _limits_v1(folders):
        found.setdefault(fact, number)
    yield from found.items()


def _limits_v2(folder: Path) -> Iterator[FactRow]:
    words = _words(folder / "cpu.max")
    if words and words[0] != "max":
        yield _fact("cpu_limit"), int(words[0]) / int(words[1])
    for key, file in (
        ("cpu_weight", "cpu.weight"),
        ("memory_high", "memory.high"),
        ("memory_limit", "memory.max"),
    ):
        words = _words(folder / file)
        if words and words[0] != "max":
            yield _fact(key), int(words[0])
    if (words := _words(folder / "io.weight"))[:1] == ["default"]:
        yield _fact("io_weight"), int(words[1])
    for line in _lines(folder / "io.max"):
        device, *pairs = line.split()
        for pair in pairs:
            name, _, limit = pair.partition("=")
            if name in ("rbps", "wbps") and limit != "max":
                key = "io_read_limit" if name == "rbps" else "io_write_limit"
                yield _fact(key, device), int(limit)


def _limits_v1(folders: Mapping[str, Path]) -> Iterator[FactRow]:
    if cpu := folders.get("cpu"):
        quota, period = _words(cpu / "cpu.cfs_quota_us"), _words(cpu / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            yield _fact("cpu_limit"), int(quota[0]) / int(period[0])
        if words := _words(cpu / "cpu.shares"):
            yield _fact("cpu_shares"), int(words[0])
    if memory := folders.get("memory"):
        for key, file in (
            ("memory_high", "memory.soft_limit_in_bytes"),
            ("memory_limit", "memory.limit_in_bytes"),
        ):
            words = _words(memory / file)
            if words and int(words[0]) < UNLIMITED_V1:
                yield _fact(key), int(words[0])
    if blkio := folders.get("blkio"):
        yield from _limits_blkio(blkio)


def _limits_blkio(folder: Path) -> Iterator[FactRow]:
    if words := _words(folder / "blkio.bfq.weight"):
        yield _fact("io_weight"), int(words[0])
    for key, name in (("io_read_limit", "read"), ("io_write_limit", "write")):
        for line in _lines(folder / f"blkio.throttle.{name}_bps_device"):
            device, limit = line.split()
            yield _fact(key, device), int(limit)


def _fact(key: str, device: str = "") -> Fact:
    return "partition", key, (("device", device),) if device else ()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _sum(one: Totals, other: Totals) -> Totals:
    a, b, c, d, e, f = (x + y for x, y in zip(one, other, strict=True))
    return a, b, c, d, e, f

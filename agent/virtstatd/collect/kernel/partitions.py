"""
Partitions: libvirt's resource groups, each with its own cgroup and the sums of its guests.

A guest in `/prod/db` is in the second group below the root, under any names of the directories:
`prod.partition/db.partition` by libvirt, or `prod.slice/prod-db.slice` by systemd. So the levels
are found from the guest upwards, and not from names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from virtstatd.collect.kernel.cgroup import Cgroup
from virtstatd.collect.kernel.controllers import Fact, FactRow
from virtstatd.hypervisor.processes import Process
from virtstatd.model import Number, Reading
from virtstatd.runtime.kernel_files import Descriptors


DEFAULT: Final = "/machine"
UNLIMITED_V1: Final = 1 << 62
"""The value of version 1 without a memory limit: the highest page of 63 bits."""

_INFO: Final = "libvirt_domain_info"


def partition_of(described: Sequence[Reading]) -> str | None:
    """
    Return the partition in a domain's description, libvirt's default if it has none.

    Returns None for a domain that is not described yet, which may be in any.
    """
    for reading in described:
        for series in reading.shape.series:
            if series.field.family == _INFO:
                return dict(series.labels).get("partition", DEFAULT)
    return None


def levels(partition: str) -> list[str]:
    """Return a partition and those that contain it, the outermost first."""
    parts = [part for part in partition.split("/") if part]
    return ["/" + "/".join(parts[: at + 1]) for at in range(len(parts))]


Counted = tuple[str, int]
"""A counter of a guest: the catalog's key, and the vCPU if there are several."""


@dataclass(frozen=True, slots=True)
class Use:
    """
    What one guest used: its cgroup's directories by controller, counters and gauges.

    Counters are by the catalog's key and by vCPU, whose thread may be unplugged and plugged again.
    Unknown values are left out.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    counters: Mapping[Counted, int] = field(default_factory=dict)
    gauges: Mapping[str, int] = field(default_factory=dict)


UNSEEN: Final = Use()
"""The usage of a guest that cannot be seen."""


@dataclass(slots=True)
class Partition:
    """
    One level of the tree.

    `sums` are those of its guests and of all below, by the catalog's key; a key without a number
    from any guest is absent. `rows` and `limits` are its own cgroup's.
    """

    path: str
    folders: dict[str, Path] = field(default_factory=dict)
    sums: Counter[str] = field(default_factory=Counter)
    rows: list[FactRow] = field(default_factory=list)
    limits: list[FactRow] = field(default_factory=list)


class Partitions:
    """
    The tree of the partitions that guests are in.

    Its counters are growth since `began`, in ticks since the host's start as in proc_pid_stat(5);
    for a process that started earlier, since its first numbers. So they begin at zero with the
    agent, as a counter does, and no event of a guest makes one fall.
    """

    def __init__(self, began: int) -> None:
        self._began = began
        self._before: dict[tuple[int, int], tuple[Process, dict[Counted, int]]] = {}
        self._grown: dict[str, Counter[str]] = {}

    def began_before(self, process: Process) -> bool:
        """Return whether a process started before the agent's first reading."""
        return process.started < self._began

    def count(self, process: Process, partition: str, counters: Mapping[Counted, int]) -> None:
        """Add the usage of a guest since the last call to a partition and those that contain it."""
        _, before = self._before.setdefault((process.pid, process.started), (process, {}))
        grown: Counter[str] = Counter()
        for counted, number in counters.items():
            first = number if self.began_before(process) else 0
            grown[counted[0]] += max(0, number - before.get(counted, first))
        before.update(counters)
        for path in levels(partition):
            self._grown.setdefault(path, Counter()).update(grown)

    def forget(self, seen: Collection[Process]) -> None:
        """Forget processes that have ended; one that is only hidden now is counted again later."""
        there = {(process.pid, process.started) for process in seen}
        for key in self._before.keys() - there:
            try:
                self._before[key][0].stat()
            except OSError:
                del self._before[key]

    def clear(self) -> None:
        """Forget all processes."""
        self._before.clear()

    def tree(self, guests: Iterable[tuple[str, Use]]) -> dict[str, Partition]:
        """Return the partitions of these guests by path, sorted."""
        found: dict[str, Partition] = {}
        known: dict[str, Counter[str]] = {}
        for partition, use in guests:
            for up, path in enumerate(reversed(levels(partition))):  # the guest's own is below all
                level = found.setdefault(path, Partition(path))
                level.sums["domains"] += 1
                level.sums.update(use.gauges)
                known.setdefault(path, Counter()).update(
                    use.gauges.keys() | {key for key, _ in use.counters}
                )
                for controller, folder in use.folders.items():
                    if up < len(folder.parents):
                        level.folders.setdefault(controller, folder.parents[up])
        for path, level in found.items():
            whole = min(known[path].values(), default=0)
            level.sums["domains_unseen"] = level.sums["domains"] - whole
            level.sums.update(self._grown.get(path, ()))
        return dict(sorted(found.items()))


def fill(partition: Partition) -> None:
    """Read a partition's own cgroup: its usage, and its limits."""
    cgroup = Cgroup(partition.folders, Descriptors(1 << 10))
    try:
        with suppress(OSError, ValueError, LookupError):
            partition.rows = list(cgroup.read().items())
    finally:
        cgroup.close()
    with suppress(ValueError, LookupError):
        partition.limits = list(limits(partition.folders))


def rows_of(partition: Partition) -> Iterator[FactRow]:
    """Return all known numbers of a partition, under the catalog's keys for partitions."""
    named = (("partition", partition.path),)
    for key, total in partition.sums.items():
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

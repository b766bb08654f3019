"""
What changes slowly about a guest: where its vCPUs may run, and on which nodes its memory is.

Read rarely, by opening each file again: a descriptor that stays open for a read a minute is dearer.
A part that the kernel does not have here costs its own numbers alone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from virtstatd.collect.kernel.controllers import FactRow
from virtstatd.collect.kernel.guest import PAGE_BYTES, Guest
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.hypervisor.processes import Process
from virtstatd.model import Domain, Reading
from virtstatd.runtime.kernel_files import Folder, Place


GROUP: Final = "local_detail"

LAST_CPU: Final = 36
"""The column of proc_pid_stat(5) behind the name with the CPU that a thread ran on last."""

_ALLOWED: Final = re.compile(rb"^Cpus_allowed_list:\s*([0-9,-]+)$", re.MULTILINE)
_HUGE: Final = re.compile(rb"^HugetlbPages:\s*(\d+) kB$", re.MULTILINE)
_RSS_HUGE: Final = re.compile(rb"^total_rss_huge (\d+)$", re.MULTILINE)
_NODE: Final = re.compile(r"N(\d{1,5})=(\d{1,19})", re.ASCII)
_RANGE: Final = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)
_CPUS_MAX: Final = 1 << 16
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Details:
    """
    Reads the details of each guest once in so many looks, others at each, new ones at once.

    `booted` is the Unix time of the host's start.
    """

    def __init__(
        self,
        shapes: Shapes,
        looks: int,
        booted: Callable[[], float] = lambda: time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._shapes = shapes
        self._looks = looks
        self._booted = booted
        self._numbers = count()
        self._known: WeakKeyDictionary[Guest, tuple[int, float]] = WeakKeyDictionary()

    def read(self, guest: Guest, domain: Domain, look: int, *, whole: bool) -> Reading | None:
        """Return a guest's details if it is its turn, or with `whole`."""
        if not self._looks:
            return None
        turn, started = self._known.get(guest, (-1, 0.0))
        if turn < 0:
            # once for each: a clock that is set does not move the start of a guest
            started = self._booted() + guest.process.started / _TICKS_PER_SECOND
            turn = next(self._numbers) % self._looks
            self._known[guest] = turn, started
        elif not whole and look % self._looks != turn:
            return None
        facts = dict(self._rows(guest, started))
        order, shape = self._shapes.facts(tuple(facts), GROUP)
        values = tuple(facts.values())
        return Reading(domain, shape, tuple([values[at] for at in order]))

    @staticmethod
    def _rows(guest: Guest, started: float) -> Iterator[FactRow]:
        yield ("local", "start_time", ()), round(started, 2)
        yield from _processors(guest)
        yield from _huge_pages(guest.process)
        yield from _memory(guest.folders)


def _processors(guest: Guest) -> Iterator[FactRow]:
    """Yield where each vCPU ran last, and where it may run."""
    folder = guest.process.folder
    for vcpu, thread in guest.vcpu_threads:
        label = ("vcpu", str(vcpu))
        try:
            columns = folder.read(f"task/{thread}/stat").rpartition(b")")[2].split()
            yield ("local", "vcpu_current_cpu", (label,)), int(columns[LAST_CPU])
        except (OSError, ValueError, IndexError):
            continue  # the vCPU was unplugged
        if allowed := _found(_ALLOWED, folder, f"task/{thread}/status"):
            cpus = allowed.decode()
            if 0 < (number := _counted(cpus)) <= _CPUS_MAX:
                yield ("local", "vcpu_affinity_cpus", (label,)), number
                yield ("local", "vcpu_affinity", (label, ("cpus", cpus))), 1


def _counted(cpus: str) -> int:
    """Return how many CPUs a list like `0-3,8` has, 0 if it is none."""
    parts = [_RANGE.fullmatch(part) for part in cpus.split(",")]
    return sum(int(part[2] or part[1]) - int(part[1]) + 1 for part in parts if part) * all(parts)


def _huge_pages(process: Process) -> Iterator[FactRow]:
    """Yield how much of the process is in the host's pool of huge pages."""
    if kib := _found(_HUGE, process.folder, "status"):
        yield ("local", "huge_pages", ()), int(kib) * 1024


def _memory(folders: Mapping[str, Path]) -> Iterator[FactRow]:
    """Yield the guest's memory on each NUMA node, and how much of it is transparent huge pages."""
    unified, memory = folders.get(""), folders.get("memory")
    if unified and (rows := _nodes(unified)):
        yield from _by_node(rows, ("anon", "file"), "", 1)
        if "anon_thp" in rows:
            yield ("local", "transparent_huge_pages", ()), sum(rows["anon_thp"].values())
    elif memory and (rows := _nodes(memory)):
        # what cannot be evicted, as locked memory, is not among the others here
        yield from _by_node(rows, ("anon", "file", "unevictable"), "hierarchical_", PAGE_BYTES)
        if huge := _found(_RSS_HUGE, Place(memory), "memory.stat"):
            yield ("local", "transparent_huge_pages", ()), int(huge)


def _nodes(folder: Path) -> dict[str, dict[str, int]]:
    """Return memory by kind and node, empty if the kernel does not count it here."""
    found: dict[str, dict[str, int]] = {}
    with suppress(OSError):
        text = Place(folder).read_whole("memory.numa_stat").decode("ascii", "replace")
        for line in text.splitlines():
            kind, _, nodes = line.partition(" ")
            found[kind.partition("=")[0]] = {
                node[1]: int(node[2]) for node in map(_NODE.fullmatch, nodes.split()) if node
            }
    return found


def _by_node(
    rows: Mapping[str, Mapping[str, int]], kinds: tuple[str, ...], prefix: str, unit: int
) -> Iterator[FactRow]:
    for kind in kinds:
        for node, number in rows.get(prefix + kind, {}).items():
            labels = (("numa_node", node), ("memory_kind", kind))
            yield ("local", "numa_memory", labels), number * unit


def _found(pattern: re.Pattern[bytes], folder: Folder | Place, name: str) -> bytes:
    """Return what a pattern finds in a file, empty without the file or the line."""
    with suppress(OSError):
        if match := pattern.search(folder.read(name)):
            return match[1]
    return b""

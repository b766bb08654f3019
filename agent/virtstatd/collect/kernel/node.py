"""
The host's own numbers: CPUs with steal and guest time, memory, NUMA nodes, load, pressure, energy.

Libvirt has some of them too, but by one call per CPU and without the host's own steal time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

from virtstatd.collect.kernel.controllers import Fact, FactRow
from virtstatd.collect.kernel.energy import Energy
from virtstatd.errors import plain_reason
from virtstatd.model import Number


MODES: Final = (
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "irq",
    "softirq",
    "steal",
    "guest",
    "guest_nice",
)
"""The columns of /proc/stat; user time includes guest time, as in the kernel."""

UNSTEADY: Final = frozenset({"idle", "iowait"})
"""The modes whose time can decrease in the kernel (proc(5))."""

FALL_NANOSECONDS: Final = 3_000_000_000
"""A time that falls by this or more was reset: the CPU went offline and online."""

MEMORY: Final = {
    "MemTotal": "memory_total",
    "MemFree": "memory_free",
    "MemAvailable": "memory_available",
    "Buffers": "memory_buffers",
    "Cached": "memory_cached",
    "SwapTotal": "swap_total",
    "SwapFree": "swap_free",
}
NUMA_MEMORY: Final = {"MemTotal": "numa_memory_total", "MemFree": "numa_memory_free"}

_TICK_NANOSECONDS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_AMOUNT: Final = re.compile(r"^(?:Node \d+ )?(\w+): +(\d+) kB$", re.MULTILINE)
_CPU: Final = re.compile(r"^cpu(\d+) (.*)$", re.MULTILINE)
_PAGES: Final = re.compile(r"hugepages-(\d+)kB")
_NODE: Final = re.compile(r"node(\d+)")


class Node:
    """Reads the host's numbers, and reports which are missing."""

    def __init__(self, proc: Path, devices: Path = Path("/sys")) -> None:
        self._proc = proc
        self._sys = devices
        self._energy = Energy(devices)
        self._highest: dict[tuple[str, str], int] = {}

    def read(self) -> tuple[list[FactRow], dict[str, str]]:
        """Return the existing facts, those of one family together, and the missing ones."""
        rows: list[FactRow] = []
        blind: dict[str, str] = {}
        parts: dict[str, Callable[[], Iterator[FactRow]]] = {
            "host CPUs": self._cpus,
            "host memory": self._memory,
            "host load": self._load,
            "host pressure": self._pressure,
            "host NUMA nodes": self._numa,
            "host huge pages": self._pages,
            "host energy": self._energy.read,
        }
        for name, part in parts.items():
            try:
                rows += sorted(part(), key=_family)
            except (OSError, ValueError, LookupError) as error:
                blind[name] = plain_reason(error)
        return rows, blind

    def _cpus(self) -> Iterator[FactRow]:
        for number, columns in _CPU.findall((self._proc / "stat").read_text()):
            # old kernels have fewer columns, later ones may have more
            for mode, ticks in zip_longest(MODES, columns.split()[: len(MODES)]):
                if ticks is not None:
                    labels = (("cpu", number), ("mode", mode))
                    spent = int(ticks) * _TICK_NANOSECONDS
                    if mode in UNSTEADY:
                        spent = self._steady((number, mode), spent)
                    yield ("node", "cpu", labels), spent

    def _steady(self, of: tuple[str, str], spent: int) -> int:
        """Return the highest value so far if a number fell by less than a reset."""
        if 0 < self._highest.get(of, 0) - spent < FALL_NANOSECONDS:
            return self._highest[of]
        self._highest[of] = spent
        return spent

    def _memory(self) -> Iterator[FactRow]:
        for name, amount in _AMOUNT.findall((self._proc / "meminfo").read_text()):
            if name in MEMORY:
                yield _fact(MEMORY[name]), int(amount) * 1024

    def _load(self) -> Iterator[FactRow]:
        words = (self._proc / "loadavg").read_text().split()
        for key, word in zip(("load1", "load5", "load15"), words, strict=False):
            yield _fact(key), float(word)

    def _pressure(self) -> Iterator[FactRow]:
        for resource in ("cpu", "memory", "io"):
            for line in (self._proc / "pressure" / resource).read_text().splitlines():
                kind, total = line.partition(" ")[0], line.rpartition("total=")[2]
                yield ("node", f"pressure_{kind}", (("resource", resource),)), int(total)

    def _numa(self) -> Iterator[FactRow]:
        for folder in (self._sys / "devices/system/node").iterdir():
            if node := _NODE.fullmatch(folder.name):
                for name, amount in _AMOUNT.findall((folder / "meminfo").read_text()):
                    if name in NUMA_MEMORY:
                        fact = "node", NUMA_MEMORY[name], (("numa_node", node[1]),)
                        yield fact, int(amount) * 1024

    def _pages(self) -> Iterator[FactRow]:
        for folder in (self._sys / "kernel/mm/hugepages").iterdir():
            if size := _PAGES.fullmatch(folder.name):
                labels = (("size_bytes", str(int(size[1]) * 1024)),)
                for key, file in (
                    ("huge_pages", "nr_hugepages"),
                    ("huge_pages_free", "free_hugepages"),
                ):
                    yield ("node", key, labels), int((folder / file).read_text())


def _fact(key: str) -> Fact:
    return "node", key, ()


def _family(row: tuple[Fact, Number]) -> str:
    return row[0][1]

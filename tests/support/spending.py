"""CPU time and memory of processes, as the kernel's scheduler counts them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def threads_of(pid: int) -> dict[int, float]:
    """Return the CPU seconds of each thread of a process that runs."""
    seconds: dict[int, float] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            seconds[int(task.parent.name)] = int(task.read_text().split()[0]) / 1e9
        except (OSError, IndexError):  # the thread has ended
            continue
    return seconds


class Spending:
    """What processes spend from now on; a thread counts up to the last look before it ends."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._before = {pid: threads_of(pid) for pid in self._pids}

    def seconds(self) -> float:
        """Return the CPU time of all processes since the beginning."""
        return sum(
            seconds - self._before[pid].get(thread, 0.0)
            for pid in self._pids
            for thread, seconds in threads_of(pid).items()
        )


def resident_bytes(pid: int) -> int:
    """Return the memory of a process, with its share of what it has in common with others."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no memory")

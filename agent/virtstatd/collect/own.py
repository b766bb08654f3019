"""The agent's own numbers, taken from its parts and sent through the same pipeline."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

import libvirt

from virtstatd import __version__
from virtstatd.catalog import Catalog
from virtstatd.collector import LIFETIME_INTERVALS, Emit, Health, Histogram, Outcome, Row, Up
from virtstatd.model import Batch, Number, Reading, Series
from virtstatd.runtime.waiting import first_of


GROUP: Final = "agent"
DESCRIPTORS: Final = Path("/proc/self/fd")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

RowSource = Callable[[], Iterable[Row]]
"""A function that yields the numbers of a part of the agent."""


class OwnCollector:
    """
    Read the numbers of every part into one reading.

    They are sent on an interval, and immediately when `news` is set or libvirt's availability
    changes.
    """

    name = "own"

    def __init__(
        self,
        catalog: Catalog,
        parts: Iterable[RowSource],
        interval_seconds: float,
        news: asyncio.Event,
    ) -> None:
        self._catalog = catalog
        self._parts = (*parts, self.numbers)
        self._seconds = interval_seconds
        self._news = news
        self._health = Health()
        self._started_at = time.time()
        self._keys: list[object] = []
        self._shape = catalog.shape(GROUP, ())
        self._descriptors = 0

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:  # noqa: ARG002
        """Send until `stop`, and once more then."""
        while not stop.is_set():
            await self._send(emit)
            self._news.clear()
            await first_of(stop, self._news, seconds=self._seconds)
        await self._send(emit)

    async def once(self, emit: Emit) -> Outcome:
        """Send the current numbers."""
        await self._send(emit)
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield the identity of the process and the resources that it uses."""
        yield "build", _versions(), 1
        yield "start_time", {}, self._started_at
        times = os.times()
        yield "cpu", {}, times.user + times.system
        resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        yield "resident_memory", {}, int(resident) * PAGE_BYTES
        yield "open_descriptors", {}, self._descriptors
        yield "threads", {}, len(os.listdir("/proc/self/task"))
        yield from self._health.rows(self.name)

    def batch(self) -> Batch:
        """Return all current numbers."""
        taken_at = time.time_ns()
        rows = [row for part in self._parts for row in part()]
        rows.sort(key=lambda row: row[0])  # stable: the series of a family become neighbours
        keys: list[object] = []
        values: list[Number] = []
        for key, labels, number in rows:
            if isinstance(number, Histogram):
                keys.append((key, *labels.items(), number.bounds))
                values += [*accumulate(number.counts), number.sum, sum(number.counts)]
            else:
                keys.append((key, *labels.items()))
                values.append(number)
        if keys != self._keys:
            self._keys, self._shape = keys, self._catalog.shape(GROUP, self._series(rows))
        reading = Reading(None, self._shape, tuple(values))
        lifetime_seconds = LIFETIME_INTERVALS * self._seconds
        return Batch(GROUP, taken_at, (reading,), frozenset({GROUP}), lifetime_seconds)

    def _series(self, rows: Iterable[Row]) -> Iterator[Series]:
        for key, labels, number in rows:
            if isinstance(number, Histogram):
                bounds = [str(bound) for bound in number.bounds]
                yield from self._catalog.histogram(GROUP, key, bounds, labels)
            else:
                yield self._catalog.series(GROUP, key, labels)

    async def _send(self, emit: Emit) -> None:
        self._descriptors = await _open_descriptors()
        with self._health.round():
            emit(self.batch())


async def _open_descriptors() -> int:
    """Return how many files are open; where the kernel has no number, a thread counts them."""
    if counted := _counted_descriptors():
        return counted
    names = await asyncio.get_running_loop().run_in_executor(None, os.listdir, DESCRIPTORS)
    return len(names) - 1  # without the one that reads the folder


def _counted_descriptors() -> int:
    """Return the kernel's own number, 0 before Linux 6.2."""
    return DESCRIPTORS.stat().st_size


def _versions() -> Mapping[str, str]:
    number = libvirt.getVersion()
    linked = f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
    return {"version": __version__, "python": platform.python_version(), "libvirt": linked}

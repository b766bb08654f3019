"""One reading of every guest of the host: finds them, reads them, and reports what is hidden."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from virtstatd.collect.kernel.blind import HIDDEN_CGROUPS, Bars
from virtstatd.collect.kernel.cgroup import Hierarchies
from virtstatd.collect.kernel.details import Details
from virtstatd.collect.kernel.guest import Guest, ProcessEnded, ProcessHidden
from virtstatd.collect.kernel.links import Devices, LinkTable, link_table
from virtstatd.collect.kernel.node import Node
from virtstatd.collect.kernel.partitions import (
    UNSEEN,
    Partition,
    Partitions,
    Use,
    fill,
    partition_of,
    rows_of,
)
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.errors import plain_reason
from virtstatd.hypervisor.processes import Process, Processes
from virtstatd.model import Domain, Reading
from virtstatd.runtime.kernel_files import Descriptors, Folder


SUMMARY_NANOSECONDS = 5_000_000_000
"""How often histograms and peaks are emitted: they are made for infrequent scrapes."""

UNSEEN_LOOKS = 5
"""Readings without guests after which they are hidden, and not just starting or ending."""

Described = tuple[Domain, Sequence[Reading]]
Running = Callable[[], Sequence[Described]]
"""The running domains and their descriptions."""

Begun = Callable[[Domain, int], Domain | None]
"""Records when a run's process started; returns the run, None if it is another's."""

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

Seen = tuple[Guest, Domain]


@dataclass(slots=True)
class Second:
    """
    The result of one reading; `taken_at` is Unix time in nanoseconds before it.

    `cgroups` and `details` are the readings of those guests whose turn it was. `blind` has the
    reasons by what cannot be seen, `lost` by the guest and the device that it had; `hanging` are,
    by pid, the pid files of processes whose files the kernel does not return.
    """

    taken_at: int
    readings: list[Reading] = field(default_factory=list)
    cgroups: list[Reading] = field(default_factory=list)
    details: list[Reading] = field(default_factory=list)
    summaries: list[Reading] = field(default_factory=list)
    blind: dict[str, str] = field(default_factory=dict)
    lost: dict[tuple[Domain, str], str] = field(default_factory=dict)
    hanging: dict[int, str] = field(default_factory=dict)
    cpu_seconds: float = 0.0


class Survey:
    """
    Reads all guests one after another; made for a thread of its own, since procfs can stall.

    A guest's cgroup has more files than the rest together, and most of them are counters: they are
    read at every `cgroup_looks`th reading, for another part of the guests at each. So are details
    at every `detail_looks`th, never if that is 0.
    """

    def __init__(
        self,
        processes: Processes,
        running: Running,
        shapes: Shapes,
        descriptors: Descriptors,
        peak_seconds: float,
        cgroup_looks: int = 1,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
        devices: Path = Path("/sys"),
        clock: Callable[[], int] = time.monotonic_ns,
        begun: Begun = lambda domain, _: domain,
        *,
        detail_looks: int = 0,
    ) -> None:
        self.bars = Bars(proc)
        self._cgroups = cgroups
        self._hierarchies = Hierarchies(cgroups, proc)
        self._node = Node(proc, devices)
        self._devices = Devices(proc, devices)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._partitions = Partitions(int(now * TICKS_PER_SECOND))
        self._known: dict[str, Described] = {}
        self._seen: dict[str, Guest] = {}
        self._begun = begun
        self._clock = clock
        self._processes = processes
        self._unseen = 0
        self._running = running
        self._shapes = shapes
        self._descriptors = descriptors
        self._peak_seconds = peak_seconds
        self._cgroup_looks = cgroup_looks
        self._details = Details(shapes, detail_looks)
        self._looks = 0
        self._turns = cycle(range(cgroup_looks))
        self._guests: dict[int, Guest] = {}
        self._summed_at = -SUMMARY_NANOSECONDS

    def look(self, *, whole: bool = False) -> Second:
        """Read everything once; with `whole` also every guest's cgroup and details."""
        began = time.thread_time()
        second = Second(time.time_ns())
        running = self._known = {known[0].uuid: known for known in self._running()}
        self._find(second, expected=bool(running))
        self._looks += 1
        now = self._clock()
        summing = now - self._summed_at >= SUMMARY_NANOSECONDS
        if summing:
            self._summed_at = now
        read: list[Seen] = []
        for process in self._processes.found.values():
            domain, described = running.get(process.uuid, (None, ()))
            if domain is None or not process.runs(domain):
                continue
            known = self._guests.get(process.pid)
            if known is None or known.process is not process:
                domain = self._begun(domain, process.started)
            if domain and (guest := self._read(process, domain, second, whole=whole)):
                guest.describe(described)
                read.append((guest, domain))
                if summing:
                    second.summaries.append(guest.storms(domain))
        self._seen = {domain.uuid: guest for guest, domain in read}
        self._forget()
        self._read_links(read, second)
        if summing:
            self._read_node(second)
            self._read_partitions(second)
        second.cpu_seconds = time.thread_time() - began
        return second

    def close(self) -> None:
        """Close all files of the guests."""
        for guest in self._guests.values():
            guest.close()
        self._guests.clear()
        self._seen.clear()
        self._partitions.clear()

    def _find(self, second: Second, *, expected: bool) -> None:
        """Find the processes; if libvirt reports guests, note when none is visible."""
        self._processes.look()
        second.hanging = self._processes.hanging
        if self._processes.error and expected:  # before libvirt's first answer there are none
            second.blind["pid files"] = self._processes.error
        self._unseen = self._unseen + 1 if expected and not self._processes.found else 0
        if self._unseen >= UNSEEN_LOOKS and not second.blind:
            if self._processes.strays:
                second.blind["processes"] = "none of the guests' is in the /proc that the agent has"
            else:
                second.blind["pid files"] = f"there are none in {self._processes.directory}"

    def _read(
        self, process: Process, domain: Domain, second: Second, *, whole: bool
    ) -> Guest | None:
        guest = self._guests.get(process.pid)
        try:
            if guest is None or guest.process is not process:
                guest = Guest(
                    process,
                    next(self._turns),
                    self._shapes,
                    self._descriptors,
                    self._peak_seconds,
                    early=self._partitions.began_before(process),
                )
                whole = True
                self._guests[process.pid] = guest
            second.readings.append(guest.read(domain, self._clock()))
        except ProcessHidden as error:
            second.blind["run times"] = str(error)
            return None
        except (ProcessEnded, OSError):
            self._processes.lose(process)
            return None
        if whole or guest.turn == self._looks % self._cgroup_looks:
            self._read_cgroup(guest, domain, second)
        if reading := self._details.read(guest, domain, self._looks, whole=whole):
            second.details.append(reading)
        return guest

    def _read_cgroup(self, guest: Guest, domain: Domain, second: Second) -> None:
        try:
            if reading := guest.cgroup(domain, self._hierarchies, self._clock()):
                second.cgroups.append(reading)
        except ProcessHidden as error:
            second.blind["cgroups"] = str(error)
        for what in guest.missing:
            if what != "cgroups":
                second.blind[what] = "the guests' cgroups do not count it"
            elif guest.hidden:
                second.blind[HIDDEN_CGROUPS] = f"{guest.hidden} is in no mount of {self._cgroups}"
            else:
                second.blind[what] = "the guests are in no cgroups of their own"

    def _read_node(self, second: Second) -> None:
        rows, blind = self._node.read()
        second.blind |= blind
        order, shape = self._shapes.facts(tuple(fact for fact, _ in rows), "node")
        second.summaries.append(Reading(None, shape, tuple(rows[at][1] for at in order)))

    def partitions(self) -> dict[str, Partition]:
        """Return the current partitions of the running guests."""
        guests: list[tuple[str, Use]] = []
        for domain, described in self._known.values():
            if (partition := partition_of(described)) is not None:
                guest = self._seen.get(domain.uuid)
                if guest:
                    self._partitions.count(guest.process, partition, guest.use.counters)
                guests.append((partition, guest.use if guest else UNSEEN))
        self._partitions.forget([guest.process for guest in self._seen.values()])
        tree = self._partitions.tree(guests)
        for level in tree.values():
            fill(level)
        return tree

    def _read_partitions(self, second: Second) -> None:
        rows = [row for partition in self.partitions().values() for row in rows_of(partition)]
        if rows:
            order, shape = self._shapes.facts(tuple(fact for fact, _ in rows), "partition")
            second.summaries.append(Reading(None, shape, tuple(rows[at][1] for at in order)))

    def _forget(self) -> None:
        """Close the files of guests whose processes have ended, and count their last usage."""
        found = self._processes.found
        for pid in [p for p, g in self._guests.items() if found.get(p) is not g.process]:
            guest = self._guests.pop(pid)
            if guest.partition is not None:
                self._partitions.count(guest.process, guest.partition, guest.use.counters)
            guest.close()

    def _read_links(self, guests: Sequence[Seen], second: Second) -> None:
        rows = self._rows([guest.process.folder for guest, _ in guests], second)
        now = self._clock()
        for guest, domain in guests:
            if not guest.nics:
                continue
            if reading := guest.links(domain, self._devices, rows, now):
                second.readings.append(reading)
            if rows:
                for device, reason in guest.lost_links(self._devices, rows):
                    second.lost[domain, device] = reason

    @staticmethod
    def _rows(folders: Sequence[Folder], second: Second) -> LinkTable:
        """Return the kernel's table as seen by the first guest that has not ended."""
        for folder in folders:
            try:
                return link_table(folder.read_whole("net/dev"))
            except OSError as error:
                second.blind["interfaces"] = plain_reason(error)
        return {}

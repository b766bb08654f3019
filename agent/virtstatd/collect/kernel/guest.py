"""One guest's readings of a second."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Final

from virtstatd._fast.plain import ProcessStat, ThreadSpans
from virtstatd.collect.kernel.cgroup import Cgroup, Hierarchies
from virtstatd.collect.kernel.controllers import THROTTLING, USAGE, Fact
from virtstatd.collect.kernel.links import Devices, Link, LinkTable, counters, nics_of
from virtstatd.collect.kernel.partitions import Use, partition_of
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.storms import shares
from virtstatd.collect.kernel.threads import EMULATOR, ThreadRole, Threads
from virtstatd.errors import plain_reason
from virtstatd.hypervisor.processes import Process
from virtstatd.model import Domain, Number, Reading, Shape
from virtstatd.runtime.kernel_files import Descriptors


PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

OVERHEAD: Final[Fact] = ("local", "overhead", ())
_RISING: Final = (OVERHEAD, *THROTTLING)

LOST_LOOKS: Final = 10
"""Readings without an interface after which it is missing, and not just being plugged."""

PLACE_NANOSECONDS: Final = 60_000_000_000
"""How often a guest's cgroup and its devices are searched again: limits may change."""

_NO_STATISTICS = "the kernel keeps no scheduler statistics"


Made = tuple[tuple[object, ...], Reading]
"""The inputs of a reading, and the reading: it is made again when an input changes."""


class ProcessEnded(Exception):  # noqa: N818 - a state, not a fault
    """The guest's process has ended."""


class ProcessHidden(Exception):  # noqa: N818 - a state, not a fault
    """The kernel does not show this process' times; the message says why."""


class Guest:
    """
    A guest's process, kept open, and the numbers of its seconds.

    `turn` is the reading, in each cycle, at which its cgroup is read; `early` says that the process
    started before the agent's first reading. `partition` is None until it is described.
    """

    def __init__(
        self,
        process: Process,
        turn: int,
        shapes: Shapes,
        descriptors: Descriptors,
        peak_seconds: float,
        *,
        early: bool = True,
    ) -> None:
        self.process = process
        self.turn = turn
        self.partition: str | None = None
        self._shapes = shapes
        self._descriptors = descriptors
        self._threads = Threads(process, descriptors)
        self._stat: ProcessStat | None = None
        self._count = -1
        self._memory = 0, 0, 0
        self._vcpus = 0
        self._pick: Callable[[tuple[int, ...]], tuple[int, ...]] = tuple
        self._known_times: ThreadSpans | None = None
        self._vcpu_times: ThreadSpans = (), ()
        self._times_made: Made | None = None
        self._shape: Shape | None = None
        self._described: Sequence[Reading] = ()
        self.nics: dict[bytes, str] = {}
        """The names of its devices, by what its description has, and their addresses."""
        self._links: tuple[Link, ...] = ()
        self._present: list[bytes] = []
        self._linked_at = 0
        self._missing: dict[bytes, int] = {}
        self._met: set[bytes] = set()
        self._links_shape: Shape | None = None
        self._links_made: Made | None = None
        self._roles: tuple[ThreadRole, ...] = ()
        self._before: tuple[int, tuple[int, ...], tuple[int, ...]] | None = None
        self._ended = 0
        self._folders: dict[str, Path] = {}
        self.hidden = ""
        """A cgroup of the guest's own that no mount shows, empty if all are shown."""
        self._usage: int | None = None
        self._overhead_before: int | None = None if early else 0
        self._cgroup: Cgroup | None = None
        self._placed_at = 0
        self._facts: tuple[Fact, ...] = ()
        self._facts_shape: Shape | None = None
        self._facts_made: Made | None = None
        self._order: tuple[int, ...] = ()
        self._highest: dict[Fact, Number] = {}
        self._steal = shares(peak_seconds)
        self._saturation = shares(peak_seconds)

    def close(self) -> None:
        """Close the files."""
        self._threads.close()
        if self._cgroup:
            self._cgroup.close()

    def read(self, domain: Domain, now: int) -> Reading:
        """
        Return the current times of the threads and the memory of the process.

        `now` is monotonic, in nanoseconds. Raises `ProcessEnded` or `ProcessHidden`.
        """
        try:
            stat, times = self._see()
        except PermissionError as error:
            raise ProcessHidden(error.strerror) from None
        except OSError:
            raise ProcessEnded from None
        if stat is not self._stat:
            _, minor, major, _, resident = self._stat = stat
            self._memory = resident * PAGE_BYTES, minor, major
        if times is not self._known_times:
            self._known_times = times
            self._vcpu_times = times[0][: self._vcpus], times[1][: self._vcpus]
        self._observe(now, *self._vcpu_times)
        of = domain, self._shape, times, self._memory
        if self._times_made is None or self._times_made[0] != of:
            self._times_made = of, self._of_times(domain, *times)
        return self._times_made[1]

    def _see(self) -> tuple[ProcessStat, ThreadSpans]:
        """Read the process and its threads, and look for those that started or ended."""
        try:
            stat, times = self._threads.read()
        except OSError:  # a vCPU or an iothread was unplugged
            self._look()
            stat, times = self._threads.read()
        state, _, _, count, _ = stat
        if state in (b"Z", b"X"):
            raise ProcessEnded
        if count != self._count:
            self._count = count
            self._look()
            stat, times = self._threads.read()
        if not times[0] or not times[0][-1]:
            # a kernel without scheduler statistics has "0 0 0" for every thread
            raise ProcessHidden(_NO_STATISTICS)
        return stat, times

    def _of_times(self, domain: Domain, run: tuple[int, ...], delay: tuple[int, ...]) -> Reading:
        assert self._shape  # noqa: S101 - made with the first look at the threads
        return Reading(domain, self._shape, self._pick(run + delay + self._memory))

    def describe(self, described: Sequence[Reading]) -> None:
        """Store the facts of the guest's XML."""
        if described is not self._described:
            self._described = described
            self.partition = partition_of(described)
            self.nics = nics_of(described)
            self._linked_at = -PLACE_NANOSECONDS

    def links(self, domain: Domain, devices: Devices, rows: LinkTable, now: int) -> Reading | None:
        """Return the counters of the guest's devices that are among the rows of the table."""
        present = [name for name in self.nics if name in rows]
        self._met.update(present)
        if present != self._present or now - self._linked_at >= PLACE_NANOSECONDS:
            self._present, self._linked_at = present, now
            links = devices.links(self.process.folder, present, rows)
            if links != self._links or self._links_shape is None:
                self._links = links
                self._links_shape = self._shapes.links([name.decode() for name, _ in links])
        if not self._links:
            return None
        of = domain, self._links_shape, self._links, [rows[name] for name, _ in self._links]
        if self._links_made is None or self._links_made[0] != of:
            numbers = [counters(rows[name], shared=shared) for name, shared in self._links]
            values = numbers[0] if len(numbers) == 1 else sum(zip(*numbers, strict=True), ())
            assert self._links_shape  # noqa: S101 - made with the links
            self._links_made = of, Reading(domain, self._links_shape, values)
        return self._links_made[1]

    def lost_links(self, devices: Devices, rows: LinkTable) -> Iterator[tuple[str, str]]:
        """
        Yield the guest's devices that the host no longer has under their names, and why.

        Not every interface that libvirt names has a kernel device: one that was never there is lost
        only if another one has its guest's address.
        """
        missing = [name for name in self.nics if name not in rows]
        self._missing = {name: self._missing.get(name, 0) + 1 for name in missing}
        for name, looks in self._missing.items():
            if looks == LOST_LOOKS or (looks > LOST_LOOKS and not looks % LOST_LOOKS):
                other = devices.renamed(self.process.folder, self.nics[name])
                if other or name in self._met:
                    reason = f"the host has no {name.decode()}"
                    yield name.decode(), f"{reason}; {other} has its address" if other else reason

    @property
    def use(self) -> Use:
        """The usage of the guest so far; nothing before the first `read`."""
        if self._known_times is None:
            return Use()
        ran, waited = self._vcpu_times
        numbers = [number for _, number in self._roles[: self._vcpus]]
        used = {("vcpu_time", at): each for at, each in zip(numbers, ran, strict=True)}
        used |= {("vcpu_delay", at): each for at, each in zip(numbers, waited, strict=True)}
        if self._usage is not None:
            used["domains_cpu", 0] = self._usage
        return Use(self._folders, used, {"vcpus": self._vcpus, "rss": self._memory[0]})

    @property
    def vcpu_threads(self) -> list[tuple[int, str]]:
        """The vCPUs, and the kernel's numbers of their threads."""
        of_vcpus = zip(self._roles[: self._vcpus], self._threads.ids, strict=False)
        return [(number, thread) for (_, number), thread in of_vcpus]

    @property
    def folders(self) -> dict[str, Path]:
        """The guest's own cgroups by controller, "" for version 2, as last found."""
        return self._folders

    def cgroup(self, domain: Domain, hierarchies: Hierarchies, now: int) -> Reading | None:
        """
        Return the numbers of the guest's cgroup, after `read`; None if it has none.

        Raises `ProcessHidden` if there should be one.
        """
        try:
            if self._cgroup is None or now - self._placed_at >= PLACE_NANOSECONDS:
                self._place(domain, hierarchies, now)
            rows = self._cgroup.read() if self._cgroup else {}
        except (OSError, LookupError, ValueError) as error:
            self._placed_at = -PLACE_NANOSECONDS
            self._usage = None
            raise ProcessHidden(plain_reason(error)) from None
        self._usage = None if (usage := rows.get(USAGE)) is None else int(usage)
        if not rows:
            return None
        of = domain, rows, self._before and self._before[1]
        if self._facts_made is None or self._facts_made[0] != of:
            self._facts_made = of, self._of_facts(domain, dict(rows))
        return self._facts_made[1]

    def _of_facts(self, domain: Domain, rows: dict[Fact, Number]) -> Reading:
        if self._usage is not None and self._before is not None:
            overhead = self._usage - sum(self._before[1]) - self._ended
            if self._overhead_before is None:
                self._overhead_before = overhead
            rows[OVERHEAD] = max(0, overhead - self._overhead_before)
        for fact in _RISING:
            if fact in rows:
                # the files are read one after another: what comes out lower is the same as before
                rows[fact] = self._highest[fact] = max(rows[fact], self._highest.get(fact, 0))
        facts = tuple(rows)
        if facts != self._facts or self._facts_shape is None:
            self._facts = facts
            self._order, self._facts_shape = self._shapes.facts(facts, "local_cgroup")
        values = tuple(rows.values())
        return Reading(domain, self._facts_shape, tuple([values[at] for at in self._order]))

    @property
    def missing(self) -> frozenset[str]:
        """The facts that the guest's cgroup does not count here."""
        return self._cgroup.missing if self._cgroup else frozenset()

    def storms(self, domain: Domain) -> Reading:
        """Return the histograms and the peaks of the guest's seconds."""
        return Reading(
            domain,
            self._shapes.storms(),
            (
                *self._steal.histogram(),
                *self._saturation.histogram(),
                self._steal.peak(),
                self._saturation.peak(),
            ),
        )

    def _place(self, domain: Domain, hierarchies: Hierarchies, now: int) -> None:
        self._placed_at = now
        text = self.process.folder.read("cgroup").decode(errors="replace")
        if self._cgroup:
            self._cgroup.close()
        self._folders, self.hidden = hierarchies.folders(text, domain.id)
        self._cgroup = Cgroup(self._folders, self._descriptors)

    def _look(self) -> None:
        if self._threads.look():
            self._end_vcpus()
            self._before = (
                None  # threads started or ended: shares are counted again from the next reading
            )
        roles = self._threads.roles
        if not roles or roles[-1] != EMULATOR:
            raise ProcessHidden(_NO_STATISTICS)
        if roles != self._roles or self._shape is None:
            self._roles = roles
            self._vcpus = sum(kind == "vcpu" for kind, _ in roles)
            self._shape = self._shapes.times(roles)
            self._pick = itemgetter(*_order(len(roles), self._vcpus))

    def _end_vcpus(self) -> None:
        """Remember how long removed vCPUs ran: the cgroup still counts it."""
        if self._before is not None:
            former = [role for role in self._roles if role[0] == "vcpu"]
            left = set(self._threads.roles)
            times = zip(former, self._before[1], strict=True)
            self._ended += sum(run for role, run in times if role not in left)

    def _observe(self, now: int, run: tuple[int, ...], delay: tuple[int, ...]) -> None:
        if self._before is not None and run:
            at, run_before, delay_before = self._before
            seconds = now / 1e9
            self._saturation.observe(run, run_before, now - at, seconds)
            self._steal.observe(delay, delay_before, now - at, seconds)
        self._before = now, run, delay


def _order(threads: int, vcpus: int) -> Iterator[int]:
    """
    Yield the places of a reading's numbers among run times, delays and the three of the memory.

    Libvirt's "wait" is the same span as the delay, by another of the kernel's files.
    """
    run, delay = range(threads), range(threads, 2 * threads)
    yield from (*run[:vcpus], *delay[:vcpus], *delay[:vcpus])
    yield from (*run[vcpus:-1], *delay[vcpus:-1], run[-1], delay[-1])
    yield from range(2 * threads, 2 * threads + 3)

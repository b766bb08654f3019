"""One guest's readings of a second."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from virtstatd.local.files import Descriptors, File
from virtstatd.local.links import Link, counters, links_of
from virtstatd.local.processes import Process
from virtstatd.local.shapes import Shapes
from virtstatd.local.storms import Shares
from virtstatd.local.threads import EMULATOR, Role, Threads
from virtstatd.model import Domain, Reading, Shape


PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

# fields of /proc/PID/stat behind the name, as proc(5) lists them
_STATE, _MINOR, _MAJOR, _THREADS, _RESIDENT = 0, 7, 9, 17, 21

_NO_STATISTICS = "the kernel keeps no scheduler statistics"


class Ended(Exception):  # noqa: N818 - a state, not a fault
    """The guest's process has ended."""


class Unseen(Exception):  # noqa: N818 - a state, not a fault
    """The kernel does not show this process' times; the message says why."""


class Guest:
    """A guest's process, kept open, and what its seconds were like."""

    def __init__(
        self, process: Process, shapes: Shapes, descriptors: Descriptors, peak_seconds: float
    ) -> None:
        self.process = process
        self._shapes = shapes
        self._threads = Threads(process, descriptors)
        self._stat = File(process.folder, "stat", descriptors)
        self._count = -1
        self._vcpus = 0
        self._shape: Shape | None = None
        self._described: Sequence[Reading] = ()
        self._links: tuple[Link, ...] = ()
        self._present: tuple[Link, ...] = ()
        self._links_shape: Shape | None = None
        self._roles: tuple[Role, ...] = ()
        self._before: tuple[int, list[int], list[int]] | None = None
        self._steal = Shares(peak_seconds)
        self._saturation = Shares(peak_seconds)

    def close(self) -> None:
        """Let go of the files."""
        self._threads.close()
        self._stat.close()

    def read(self, domain: Domain, now: int) -> Reading:
        """
        Return the times of the threads and the memory of the process, as they are now.

        `now` is monotonic, in nanoseconds. Raises `Ended` or `Unseen`.
        """
        try:
            stat = self._stat.read().rpartition(b")")[2].split()
            if stat[_STATE] in (b"Z", b"X"):
                raise Ended
            if int(stat[_THREADS]) != self._count:
                self._look(int(stat[_THREADS]))
            run, delay = self._times()
        except PermissionError as error:
            raise Unseen(error.strerror) from None
        except (OSError, IndexError):
            raise Ended from None
        vcpus = self._vcpus
        self._observe(now, run[:vcpus], delay[:vcpus])
        assert self._shape  # noqa: S101 - made with the first look at the threads
        return Reading(
            domain,
            self._shape,
            (
                *run[:vcpus],
                *delay[:vcpus],
                *delay[
                    :vcpus
                ],  # libvirt's "wait" is the same span by another of the kernel's files
                *run[vcpus:-1],
                *delay[vcpus:-1],
                run[-1],
                delay[-1],
                int(stat[_RESIDENT]) * PAGE_BYTES,
                int(stat[_MINOR]),
                int(stat[_MAJOR]),
            ),
        )

    def links(
        self, domain: Domain, described: Sequence[Reading], rows: Mapping[bytes, bytes]
    ) -> Reading | None:
        """Return the counters of the interfaces that are among the rows of the kernel's table."""
        if described is not self._described:
            self._described, self._links = described, links_of(described)
        present = tuple([link for link in self._links if link[0] in rows])
        if not present:
            return None
        if present != self._present or self._links_shape is None:
            self._links_shape = self._shapes.links([name.decode() for name, _ in present])
            self._present = present
        numbers = [counters(rows[name], shared=shared) for name, shared in present]
        values = numbers[0] if len(numbers) == 1 else sum(zip(*numbers, strict=True), ())
        return Reading(domain, self._links_shape, values)

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

    def _look(self, count: int) -> None:
        if self._threads.look():
            self._before = None  # threads came or went: the next second counts again
        self._count = count
        roles = self._threads.roles
        if not roles or roles[-1] != EMULATOR:
            raise Unseen(_NO_STATISTICS)
        if roles != self._roles or self._shape is None:
            self._roles = roles
            self._vcpus = sum(kind == "vcpu" for kind, _ in roles)
            self._shape = self._shapes.times(roles)

    def _times(self) -> tuple[list[int], list[int]]:
        try:
            run, delay = self._threads.times()
        except OSError:  # a vCPU or an iothread was unplugged
            self._look(self._count)
            run, delay = self._threads.times()
        if not run or not run[-1]:
            # a kernel without scheduler statistics says "0 0 0" of every thread
            raise Unseen(_NO_STATISTICS)
        return run, delay

    def _observe(self, now: int, run: list[int], delay: list[int]) -> None:
        if self._before is not None and run:
            at, run_before, delay_before = self._before
            seconds = now / 1e9
            self._saturation.observe(run, run_before, now - at, seconds)
            self._steal.observe(delay, delay_before, now - at, seconds)
        self._before = now, run, delay

"""
Flavors: the hardware of a guest and, from it, the fields of its record, in libvirt's order.

What QEMU's driver reports was read off records of libvirt 9.0 (QEMU 7.2, KVM); the fields that
later versions added are `virsh(1)`'s and `libvirt-domain.c`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from virtstatd_simulator.guests import rows
from virtstatd_simulator.guests.fields import (
    INT,
    MONITOR_GROUPS,
    UINT,
    ULLONG,
    Field,
    counter,
    fixed,
    follows,
    gauge,
    text,
)
from virtstatd_simulator.guests.kvm import KVM_VCPU, KVM_VM
from virtstatd_simulator.guests.layout import Layout
from virtstatd_simulator.guests.load import Driver


GIB = 1 << 30
SECOND = 10**9

Release = Literal[9, 11, 12]
VERSIONS: dict[Release, int] = {9: 9000000, 11: 11010000, 12: 12008000}
MAX_GUESTS = 1_000_000
DEFAULT_RELEASE: Release = 9


@dataclass(frozen=True)
class Flavor:
    """
    Describes the hardware of a guest.

    Guests of one flavor share its fields, so a profile has few flavors and many guests. `backing`
    is the length of the chain below the first disk, `resctrl` adds monitors of cache, energy and
    memory bandwidth, `dirty_rate` a finished measurement, `zoned` disks that append.
    """

    vcpus: int = 2
    memory_mib: int = 2048
    disks: int = 1
    nics: int = 1
    iothreads: int = 0
    backing: int = 0
    kvm: bool = False
    balloon: bool = True
    perf: bool = False
    resctrl: bool = False
    dirty_rate: bool = False
    zoned: bool = False
    release: Release = DEFAULT_RELEASE
    _layouts: dict[tuple[int, bool, bool, bool], Layout] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def _share(self, vcpu: int) -> float:
        """Return the ns that a vCPU runs in a second of full load: the first works most."""
        return SECOND * (1.0 - 0.5 * vcpu / self.vcpus)

    @property
    def cpu_rate(self) -> int:
        """Return the ns of CPU time that a second of full load takes, QEMU's own included."""
        return round(sum(map(self._share, range(self.vcpus))) * 1.04)

    @cached_property
    def active(self) -> tuple[Field, ...]:
        """List the fields of a running guest."""
        return (*self._core(), *self._devices(), *self._extras())

    @cached_property
    def active_with_backing(self) -> tuple[Field, ...]:
        """List them with a row for every image of a backing chain."""
        return (*self._core(), *self._devices(backing=True), *self._extras())

    @cached_property
    def inactive(self) -> tuple[Field, ...]:
        """List the fields of a guest that is shut off."""
        kib = self.memory_mib * 1024
        return (
            follows("state.state", Driver.STATE, INT),
            follows("state.reason", Driver.REASON, INT),
            *(fixed(f"cpu.{name}", 0) for name in ("time", "user", "system")),
            fixed("balloon.current", kib),
            fixed("balloon.maximum", kib),
            fixed("vcpu.current", self.vcpus, UINT),
            fixed("vcpu.maximum", self.vcpus, UINT),
            fixed("block.count", self.disks, UINT),
            *(row for n in range(self.disks) for row in self._image(n, n, f"vd{letter(n)}")),
        )

    def layout(self, groups: int, *, active: bool, job: bool, backing: bool) -> Layout:
        """Return the layout of `groups`, which guests of one flavor share."""
        key = (groups, active, job, backing)
        if key not in self._layouts:
            self._layouts[key] = Layout(
                self.fields(groups, active=active, job=job, backing=backing)
            )
        return self._layouts[key]

    def fields(self, groups: int, *, active: bool, job: bool, backing: bool) -> list[Field]:
        """Return the fields of `groups`; those that need the guest's job only with `job`."""
        job = job or not groups & MONITOR_GROUPS
        every = self.inactive
        if active:
            every = self.active_with_backing if backing else self.active
        return [f for f in every if f.group & groups and (job or not active or not f.needs_job)]

    def _core(self) -> Iterator[Field]:
        yield follows("state.state", Driver.STATE, INT)
        yield follows("state.reason", Driver.REASON, INT)
        cores = self.cpu_rate
        yield counter("cpu.time", cores)
        yield counter("cpu.user", cores * 0.7)
        yield counter("cpu.system", cores * 0.3)
        if self.resctrl:
            yield from rows.cache_monitors(self.vcpus)
        else:
            yield fixed("cpu.cache.monitor.count", 0, UINT)
        if self.release >= 12:  # noqa: PLR2004 - libvirt 12.4
            if self.resctrl:
                yield from rows.energy_monitors(self.vcpus)
            else:
                yield fixed("cpu.energy.monitor.count", 0, UINT)
        yield counter("cpu.haltpoll.success.time", cores * 0.01)
        yield counter("cpu.haltpoll.fail.time", cores * 0.02)
        yield from self._memory()
        yield fixed("vcpu.current", self.vcpus, UINT)
        yield fixed("vcpu.maximum", self.vcpus, UINT)
        for n in range(self.vcpus):
            share = self._share(n)
            yield fixed(f"vcpu.{n}.state", 1, INT)
            yield counter(f"vcpu.{n}.time", share)
            # libvirt 9 does not know the kernel's present name of the number
            known = self.release > 9  # noqa: PLR2004
            yield counter(f"vcpu.{n}.wait", share * 0.01) if known else fixed(f"vcpu.{n}.wait", 0)
            yield counter(f"vcpu.{n}.delay", SECOND, Driver.STEAL)
            if self.kvm:
                yield from rows.kvm(f"vcpu.{n}", KVM_VCPU)

    def _memory(self) -> Iterator[Field]:
        kib = self.memory_mib * 1024
        yield fixed("balloon.current", kib)
        yield fixed("balloon.maximum", kib)
        if self.balloon:
            yield counter("balloon.swap_in", 2, Driver.DISK)
            yield counter("balloon.swap_out", 3, Driver.DISK)
            yield counter("balloon.major_fault", 20)
            yield counter("balloon.minor_fault", 900)
            yield gauge("balloon.unused", kib // 10, kib // 3)
            yield fixed("balloon.available", kib * 97 // 100)
            yield gauge("balloon.usable", kib // 3, kib // 2)
        yield (
            follows("balloon.last-update", Driver.EPOCH, ULLONG)
            if self.balloon
            else fixed("balloon.last-update", 0)
        )
        if self.balloon:
            yield gauge("balloon.disk_caches", kib // 8, kib // 5)
            yield fixed("balloon.hugetlb_pgalloc", 0)
            yield fixed("balloon.hugetlb_pgfail", 0)
        yield gauge("balloon.rss", kib // 2, kib * 9 // 10)

    def _devices(self, *, backing: bool = False) -> Iterator[Field]:
        yield fixed("net.count", self.nics, UINT)
        for n in range(self.nics):
            yield Field(f"net.{n}.name", 7, n, slot="tap")
            for way, bytes_ in (("rx", 110_000_000), ("tx", 60_000_000)):
                yield counter(f"net.{n}.{way}.bytes", bytes_ / (n + 1), Driver.NET)
                yield counter(f"net.{n}.{way}.pkts", bytes_ / (n + 1) / 800, Driver.NET)
                yield fixed(f"net.{n}.{way}.errs", 0)
                yield counter(f"net.{n}.{way}.drop", 1.5, Driver.NET)
        below = self.backing if backing and self.disks else 0
        yield fixed("block.count", self.disks + below, UINT)
        row = 0
        for n in range(self.disks):
            yield from self._disk(row, n, f"vd{letter(n)}")
            row += 1
            for level in range(below if n == 0 else 0):
                yield from self._image(row, self.disks + level, "vda", index=self.disks + 1 + level)
                row += 1

    def _image(
        self, row: int, image: int, target: str, index: int | None = None
    ) -> Iterator[Field]:
        yield text(f"block.{row}.name", target)
        yield Field(f"block.{row}.path", 7, image, slot="path")
        if index is not None:
            yield fixed(f"block.{row}.backingIndex", index, UINT)
        for name, size in (("allocation", 4), ("capacity", 20), ("physical", 5)):
            yield fixed(f"block.{row}.{name}", size * GIB)

    def _disk(self, row: int, n: int, target: str) -> Iterator[Field]:
        disk = f"block.{row}"
        yield text(f"{disk}.name", target)
        yield Field(f"{disk}.path", 7, n, slot="path")
        yield fixed(f"{disk}.backingIndex", self.disks - n, UINT)
        for way, requests in (("rd", 700 / (n + 1)), ("wr", 1100 / (n + 1))):
            yield counter(f"{disk}.{way}.reqs", requests, Driver.DISK)
            yield counter(f"{disk}.{way}.bytes", requests * 24_000, Driver.DISK)
            yield counter(f"{disk}.{way}.times", requests * 600_000, Driver.DISK)
        yield counter(f"{disk}.fl.reqs", 30 / (n + 1), Driver.DISK)
        yield counter(f"{disk}.fl.times", 90_000_000 / (n + 1), Driver.DISK)
        yield fixed(f"{disk}.allocation", 7 * GIB)
        yield fixed(f"{disk}.capacity", 20 * GIB)
        yield fixed(f"{disk}.physical", 8 * GIB)
        if self.release >= 11:  # noqa: PLR2004 - libvirt 11.10
            yield from rows.limits(disk, zoned=self.zoned)
        if self.release >= 12:  # noqa: PLR2004 - libvirt 12.1
            yield from rows.histograms(disk)

    def _extras(self) -> Iterator[Field]:
        if self.perf:
            yield from rows.perf_events(self.vcpus)
        if self.iothreads:
            yield fixed("iothread.count", self.iothreads, UINT)
            for n in range(self.iothreads, 0, -1):  # QEMU lists the youngest first
                yield fixed(f"iothread.{n}.poll-max-ns", 32768)
                yield fixed(f"iothread.{n}.poll-grow", 0, UINT)
                yield fixed(f"iothread.{n}.poll-shrink", 0, UINT)
                if self.release >= 12:  # noqa: PLR2004 - libvirt 12.7
                    yield fixed(f"iothread.{n}.poll-weight", 0, UINT)
        else:
            yield fixed("iothread.count", 0, UINT)
        if self.resctrl:
            yield from rows.bandwidth_monitors(self.vcpus)
        yield from rows.dirty_rate(self.vcpus, measured=self.dirty_rate)
        if self.kvm:
            yield from rows.kvm("vm", KVM_VM)


def letter(n: int) -> str:
    """Name the n-th disk as Linux does: a to z, then aa."""
    return (letter(n // 26 - 1) if n >= 26 else "") + chr(ord("a") + n % 26)  # noqa: PLR2004

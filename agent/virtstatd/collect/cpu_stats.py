"""
CPU time of every guest on each CPU of its host, which libvirt reports one guest at a time.

libvirt-python asks for 128 CPUs in a call, after two calls for the sizes. None of them takes the
guest's job or queries its monitor: libvirt reads cgroups (qemu_driver.c). If the host's cgroups do
not count CPU time per CPU, as those of version 2, libvirt refuses: that is logged once, and the
agent does not ask again before the next connect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final

import libvirt
from msgspec import Meta, Struct
from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.collect.parts import CollectorKind, Parts, PollSeconds
from virtstatd.collect.tier import Tier
from virtstatd.collect.turns import TURN_SECONDS, UNSUPPORTED, GuestTurns, TurnAnswer, ask_each
from virtstatd.collector import Emit, Outcome, Row, Up
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Domain, Reading, Shape
from virtstatd.runtime.ticker import Ticker


SOURCE: Final = "cpu_stats"
GROUPS: Final = frozenset({"cpu_stats", "cpu"})

UNMOUNTED: Final = "CPUACCT controller is not mounted"

TOTALS: Final = {"cpu_time": "time", "user_time": "user", "system_time": "system"}
"""Libvirt's names, and the names of the same numbers in the bulk call."""

CpuTimes = Sequence[Mapping[str, int]]
Online = Sequence[bool]


@dataclass(slots=True)
class _Overhead:
    """
    The CPU time that a guest used on a CPU besides its vCPUs, since it was first seen.

    Libvirt reads the vCPUs' time later than the total, so that the difference of the two may be too
    small. So the highest difference is kept, less the first one: a restart of the agent loses
    nothing, as the next process begins at zero.
    """

    first: int
    highest: int = 0

    def grown(self, difference: int) -> int:
        """Take a difference; return by how much the highest one exceeds the first."""
        self.highest = max(self.highest, difference - self.first)
        return self.highest


class CpuStats:
    """Reads the CPU time of domains, one after another, and decodes it; runs on a lane."""

    def __init__(
        self,
        inventory: Inventory,
        catalog: Catalog,
        *,
        totals: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inventory = inventory
        self._catalog = catalog
        self._clock = clock
        self._shape = lru_cache(64)(self._compiled)
        self._sums = lru_cache(8)(self._compiled_sums)
        self._overheads: dict[str, tuple[Domain, dict[int, _Overhead]]] = {}
        self.totals = totals
        """Whether to read the totals too, because the bulk call does not."""

    def some(
        self, session: Session, uuids: Sequence[str], told: TurnAnswer, *, per_cpu: bool
    ) -> None:
        """Read as many of these domains as fit into a turn, each independent of the others."""
        until = self._clock() + TURN_SECONDS
        online = _online(session) if per_cpu else ()

        def ask(domain: Domain) -> None:
            self._ask(session, domain, told, () if told.refused else online)

        def enough() -> bool:
            return self._clock() >= until or bool(told.refused and not self.totals)

        ask_each(session, (self._inventory, uuids), told, ask, enough)

    def forget(self) -> None:
        """Drop what is kept of domains that have ended."""
        for uuid in list(self._overheads):  # a turn that hung may end during this loop
            if self._inventory.get(uuid) is not self._overheads[uuid][0]:
                del self._overheads[uuid]

    def _ask(self, session: Session, domain: Domain, told: TurnAnswer, online: Online) -> None:
        handle = session.domain(domain.uuid)
        readings = []
        if online:
            try:
                readings.append(self._times(domain, handle.getCPUStats(False), online))
            except LookupError as error:  # how the binding fails at a host without some CPU
                told.refused = f"libvirt-python: {error}"
            except libvirt.libvirtError as error:
                message = error.get_error_message() or ""
                if error.get_error_code() not in UNSUPPORTED and UNMOUNTED not in message:
                    raise
                told.refused = message
        if self.totals:
            (sums,) = handle.getCPUStats(True)
            told_of = tuple([name for name in TOTALS if name in sums])
            values = tuple([sums[name] for name in told_of])
            readings.append(Reading(domain, self._sums(told_of), values))
        if self._inventory.get(domain.uuid) is domain:  # or these may be another run's numbers
            told.readings += readings

    def _times(self, domain: Domain, times: CpuTimes, online: Online) -> Reading:
        """Decode libvirt's values for each CPU; an offline one has 0."""
        cpus = tuple([cpu for cpu, on in enumerate(online[: len(times)]) if on])
        used = [times[cpu]["cpu_time"] for cpu in cpus]
        ran = [times[cpu]["vcpu_time"] for cpu in cpus if "vcpu_time" in times[cpu]]
        if len(ran) < len(used):
            return Reading(domain, self._shape(cpus, ("cpu_time",)), tuple(used))
        known, overheads = self._overheads.get(domain.uuid, (None, {}))
        if known is not domain:
            overheads = {}
            self._overheads[domain.uuid] = domain, overheads
        grown = [
            overheads.setdefault(cpu, _Overhead(whole - part)).grown(whole - part)
            for cpu, whole, part in zip(cpus, used, ran, strict=True)
        ]
        shape = self._shape(cpus, ("cpu_time", "vcpu_time", "overhead"))
        return Reading(domain, shape, (*used, *ran, *grown))

    def _compiled(self, cpus: tuple[int, ...], keys: tuple[str, ...]) -> Shape:
        labels = [{"cpu": str(cpu)} for cpu in cpus]
        return self._catalog.shape("cpu_stats", [(key, each) for key in keys for each in labels])

    def _compiled_sums(self, names: tuple[str, ...]) -> Shape:
        return self._catalog.shape("cpu", [(TOTALS[name], ()) for name in names])


def _online(session: Session) -> Online:
    """Return for each CPU of the host whether it is online."""
    _, online, _ = session.connection.getCPUMap()
    return tuple(online)


class CpuStatsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CPU time of every guest on each CPU of a host with cgroups of version 1."""

    enabled: Annotated[
        bool,
        Meta(description="Read these times: three numbers per guest and CPU, one guest at a time."),
    ] = False
    interval_seconds: PollSeconds = 60.0


class CpuStatsCollector:
    """
    Read the CPU statistics of all domains at every tick, a turn at a time.

    `supported` is None until libvirt has reported time per CPU, or has refused to.
    """

    name = SOURCE

    def __init__(
        self,
        source: CpuStats,
        inventory: Inventory,
        lanes: Lanes,
        tier: Tier,
        log: FilteringBoundLogger,
        *,
        slice_domains: int,
        deadline_seconds: float,
    ) -> None:
        self.tiers = (tier,)
        self.supported: bool | None = None
        self.turns = GuestTurns(
            self,
            inventory,
            lanes,
            tier,
            slice_domains=slice_domains,
            deadline_seconds=deadline_seconds,
        )
        self._source = source
        self._inventory = inventory
        self._log = log
        self._said = ""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        await self.turns.run(emit, libvirt, stop)

    async def once(self, emit: Emit) -> Outcome:
        """Read every domain once; a host that does not count time per CPU is no failure."""
        await self.turns.round(emit, asyncio.Event())
        if not self.turns.tier.outcomes["ok"] and len(self._inventory):
            reason = self.turns.error or "libvirt answered no call"
            return Outcome(answered=False, reason=reason)
        if not self.asks:
            return Outcome(answered=None, reason=self._said)
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield the outcomes of the polls, and whether this host counts time per CPU."""
        if self.supported is not None:
            yield "cpu_stats_supported", {}, int(self.supported)
        yield from self.turns.tier.rows()
        yield from self.turns.health.rows(self.name)

    @property
    def asks(self) -> bool:
        """Whether there is anything to read on this host."""
        return self._source.totals or self.supported is not False

    def some(self, session: Session, uuids: Sequence[str], told: TurnAnswer) -> None:
        """Read as many of these domains as fit into a turn."""
        self._source.some(session, uuids, told, per_cpu=self.supported is not False)

    def took(self, told: TurnAnswer) -> None:
        """Record whether libvirt reports time per CPU; log once if it does not."""
        self._source.forget()
        if told.refused:
            self.supported = False
            if told.refused != self._said:
                self._said = told.refused
                self._log.warning("cpu_stats.refused", reason=told.refused)
        elif self.supported is None and any(r.shape.group == SOURCE for r in told.readings):
            self.supported = True

    def reconnected(self) -> None:
        """Try to read time per CPU again, since it may be another libvirt."""
        self.supported = None


def cpu_stats(options: CpuStatsOptions, parts: Parts) -> CpuStatsCollector | None:
    """Build the collector of CPU time per host CPU, None if it is not enabled."""
    if not options.enabled:
        return None
    hypervisor = parts.hypervisor
    ticker = Ticker("cpu_stats", options.interval_seconds, time.monotonic())
    return CpuStatsCollector(
        CpuStats(hypervisor.inventory, parts.catalog, totals="cpu" not in parts.polled),
        hypervisor.inventory,
        hypervisor.lanes,
        Tier("cpu_stats", 0, GROUPS, ticker),
        parts.log,
        slice_domains=hypervisor.slice_domains,
        deadline_seconds=hypervisor.deadline_seconds,
    )


KIND: Final = CollectorKind(CpuStatsCollector.name, cpu_stats, "cpu_stats", CpuStatsOptions)

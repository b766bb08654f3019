"""The kernel collector: a poll every second on a thread of its own, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct
from structlog.typing import FilteringBoundLogger

from virtstatd.collect.kernel.blind import FIXES, HANGING, RENAMED
from virtstatd.collect.kernel.shapes import (
    CGROUP_GROUPS,
    DETAIL_GROUPS,
    GROUPS,
    SUMMARY_GROUPS,
    Shapes,
)
from virtstatd.collect.kernel.survey import SUMMARY_NANOSECONDS, Running, Second, Survey
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import Emit, Health, Outcome, Row, Up
from virtstatd.model import Batch, Domain, Reading
from virtstatd.runtime.kernel_files import Descriptors, descriptors_allowed
from virtstatd.runtime.ticker import Ticker, ticks
from virtstatd.runtime.worker import Worker


SOURCE: Final = "local"
CGROUP_SOURCE: Final = "local cgroup"
DETAIL_SOURCE: Final = "local details"
SUMMARY_SOURCE: Final = "local summary"
SUMMARY_LIFETIME_SECONDS: Final = 4 * SUMMARY_NANOSECONDS / 1e9

FRESH_INTERVALS: Final = 3
FRESH_SECONDS: Final = 5.0
"""For how many intervals, and how long at least, the kernel's readings stand for libvirt's."""

ONCE_LOOKS: Final = 2
"""Of a single look the first readings are held back: shares need two."""

ONCE_SECONDS: Final = 1.0
"""From one of these looks to the next."""

DESCRIPTORS_SPARED: Final = 1024
"""Of those that the process may have, kept for everything but this collector."""

FILES_SHARE: Final = 0.75
"""Of the others, the share for files that stay open; the rest is for one more per guest."""


class KernelOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers of this host's guests that the kernel has itself, read without libvirt."""

    enabled: Annotated[
        bool, Meta(description="Read the kernel's numbers; without effect on a remote hypervisor.")
    ] = True
    interval_seconds: Annotated[
        float, Meta(description="Seconds from one poll of the guests to the next.", ge=0.5, le=60)
    ] = 1.0
    cgroup_interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds in which each guest's cgroup (CPU, pressure, memory, I/O) is"
            " read once; each poll reads some guests'.",
            ge=0.5,
            le=300,
        ),
    ] = 5.0
    details: Annotated[
        bool,
        Meta(
            description="Read each guest's start, the CPU and affinity of its vCPUs, its memory by"
            " NUMA node and its huge pages too: two files per vCPU and three per guest."
        ),
    ] = True
    details_interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds in which each guest's details are read once; each poll reads"
            " some guests'.",
            ge=1,
            le=3600,
        ),
    ] = 60.0
    peak_seconds: Annotated[
        float,
        Meta(description="Seconds for which the highest share of a poll is shown.", ge=1, le=3600),
    ] = 60.0

    @property
    def cgroup_looks(self) -> int:
        """In how many looks each guest's cgroup is read once."""
        return max(1, round(self.cgroup_interval_seconds / self.interval_seconds))

    @property
    def detail_looks(self) -> int:
        """In how many looks each guest's details are read once, 0 for never."""
        looks = max(1, round(self.details_interval_seconds / self.interval_seconds))
        return looks if self.details else 0


class KernelCollector:
    """
    Look at the guests at every tick and emit what was seen.

    A poll that takes longer than a tick costs the ticks that it delays, and nothing else: the
    thread waits, the loop does not. What is read at every look is one batch, what is read of the
    cgroups, a part of the guests at each look, another one with a longer life. The first look after
    the budget has stretched the interval reads the cgroups of all guests, whose last readings would
    expire before their turn.
    """

    name = "kernel"

    def __init__(
        self,
        survey: Survey,
        running: Running,
        log: FilteringBoundLogger,
        interval_seconds: float,
        cgroup_looks: int,
        detail_looks: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.survey = survey
        self._running = running
        self._log = log
        self._clock = clock
        self._health = Health(clock)
        self.ticker = Ticker(self.name, interval_seconds, clock())
        self.cpu_seconds = 0.0
        """What the looks have cost so far."""
        self._cgroup_looks = cgroup_looks
        self._detail_looks = detail_looks
        self._last_seconds = interval_seconds
        self._domains = 0
        self._hidden: dict[str, str] = {}
        self._emitted = 0
        self._blind: set[str] = set()
        self._lost: set[tuple[Domain, str]] = set()
        self._hanging: set[int] = set()

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:  # noqa: ARG002
        """Look until `stop`, whether libvirt is there or not."""
        worker = Worker("kernel")
        look: asyncio.Future[None] | None = None
        try:
            async for _ in ticks([self.ticker], stop, asyncio.Event(), self._clock):
                if look is not None and not look.done():
                    self.ticker.skip()
                    continue
                if look is not None:
                    look.result()  # a fault of ours ends the agent, as everywhere
                whole, self._last_seconds = self._grown, self.ticker.seconds
                look = worker.submit(self._look(emit, whole=whole))
        finally:
            worker.submit(self.survey.close)
            worker.close()

    async def once(self, emit: Emit) -> Outcome:
        """Look twice, a second apart: shares and peaks need two looks."""
        worker = Worker("kernel")
        try:
            for look in range(ONCE_LOOKS):
                if look:
                    await asyncio.sleep(ONCE_SECONDS)
                await worker.submit(self._look(emit, whole=True))
                await asyncio.sleep(0)  # what was seen is taken on the loop
        finally:
            worker.submit(self.survey.close)
            worker.close()
        if self._emitted:
            return Outcome()
        return Outcome(answered=False, reason=next(iter(self._hidden.values()), "nothing is seen"))

    def numbers(self) -> Iterator[Row]:
        """Yield how many guests are read, how often, and at what cost."""
        yield "local_domains", {}, self._domains
        yield "local_ticks", {}, self.ticker.ticks
        yield "local_ticks_skipped", {}, self.ticker.skipped
        yield "local_read_cpu", {}, self.cpu_seconds
        yield "interval", {"tier": self.name}, self.ticker.seconds
        yield "configured_interval", {"tier": self.name}, self.ticker.configured
        yield from self._health.rows(self.name)

    @property
    def _grown(self) -> bool:
        return self.ticker.seconds > self._last_seconds

    def _fresh_seconds(self, looks: int = 1) -> float:
        """Return how long readings stand that are taken again after so many polls."""
        return max(FRESH_SECONDS, FRESH_INTERVALS * looks * self.ticker.seconds)

    def _look(self, emit: Emit, *, whole: bool) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def look() -> None:
            begun = self._clock()
            second = self.survey.look(whole=whole)
            loop.call_soon_threadsafe(self._take, second, begun, emit)

        return look

    def _take(self, second: Second, begun: float, emit: Emit) -> None:
        """Emit a second, without domains that have ended meanwhile."""
        self._health.ended(begun, good="pid files" not in second.blind)
        self.cpu_seconds += second.cpu_seconds
        running = {domain.uuid: domain for domain, _ in self._running()}

        def current(readings: list[Reading]) -> tuple[Reading, ...]:
            return tuple(
                [r for r in readings if r.domain is None or running.get(r.domain.uuid) is r.domain]
            )

        readings = current(second.readings)
        self._domains = len({r.domain.uuid for r in readings if r.domain})
        self._emitted += len(readings) + len(second.summaries)
        at = second.taken_at
        emit(Batch(SOURCE, at, readings, GROUPS, self._fresh_seconds()))
        if second.cgroups:
            of, lifetime = current(second.cgroups), self._fresh_seconds(self._cgroup_looks)
            emit(Batch(CGROUP_SOURCE, at, of, CGROUP_GROUPS, lifetime))
        if second.details:
            of, lifetime = current(second.details), self._fresh_seconds(self._detail_looks)
            emit(Batch(DETAIL_SOURCE, at, of, DETAIL_GROUPS, lifetime))
        if second.summaries:
            of = current(second.summaries)
            emit(Batch(SUMMARY_SOURCE, at, of, SUMMARY_GROUPS, SUMMARY_LIFETIME_SECONDS))
        self._hidden = second.blind
        self._report(second, running)

    def _report(self, second: Second, running: Mapping[str, Domain]) -> None:
        """Log what cannot be seen, once; of a guest's device once for each."""
        for what, reason in second.blind.items():
            if what not in self._blind:
                self._blind.add(what)
                why, fix = self.survey.bars.explained(what, reason)
                self._log.warning("local.blind", what=what, reason=why, fix=fix)
        for pid in second.hanging.keys() - self._hanging:
            self._log.warning(
                "local.blind",
                what=HANGING,
                pid=pid,
                file=second.hanging[pid],
                reason=f"/proc/{pid}/cmdline gives no answer; the process is skipped until it does",
                fix=FIXES[HANGING],
            )
        self._hanging = set(second.hanging)
        self._lost = {key for key in self._lost if running.get(key[0].uuid) is key[0]}
        for key in second.lost.keys() - self._lost:
            domain, device = key
            self._lost.add(key)
            self._log.warning(
                "local.blind",
                what=RENAMED,
                domain=domain.name,
                device=device,
                reason=second.lost[key],
                fix=FIXES[RENAMED],
            )


def kernel(options: KernelOptions, parts: Parts) -> KernelCollector | None:
    """Build the collector of the kernel's numbers, None where the guests are not of this host."""
    if not options.enabled:
        return None
    hypervisor = parts.hypervisor
    if hypervisor.processes is None:
        parts.log.info("local.off", reason=hypervisor.elsewhere)
        return None
    running = hypervisor.inventory.domains
    survey = Survey(
        hypervisor.processes,
        running,
        Shapes(parts.catalog),
        Descriptors(int((descriptors_allowed() - DESCRIPTORS_SPARED) * FILES_SHARE)),
        options.peak_seconds,
        options.cgroup_looks,
        begun=hypervisor.inventory.begun,
        detail_looks=options.detail_looks,
    )
    return KernelCollector(
        survey,
        running,
        parts.log,
        options.interval_seconds,
        options.cgroup_looks,
        options.detail_looks,
    )


KIND: Final = CollectorKind(KernelCollector.name, kernel, "local", KernelOptions)

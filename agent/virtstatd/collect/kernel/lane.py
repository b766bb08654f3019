"""The lane itself: a look every second on a thread of its own, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.kernel.blind import MENDS
from virtstatd.collect.kernel.shapes import CGROUP_GROUPS, GROUPS, SUMMARY_GROUPS, Shapes
from virtstatd.collect.kernel.survey import SUMMARY_NANOSECONDS, Running, Second, Survey
from virtstatd.model import Batch, Reading
from virtstatd.pipeline.one_source import Cover
from virtstatd.runtime.ticker import Ticker, ticks
from virtstatd.runtime.worker import Worker


SOURCE = "local"
CGROUP_SOURCE = "local cgroup"
SUMMARY_SOURCE = "local summary"
SUMMARY_LIFETIME_SECONDS = 4 * SUMMARY_NANOSECONDS / 1e9


class LocalLane:
    """
    Look at the guests at every tick and pass on what was seen.

    A look that takes longer than a tick costs the ticks that it holds up, and nothing else: the
    thread waits, the loop does not. What is read at every look passes through `cover`, what is of
    the cgroups and has a longer interval through `cgroup_cover`.
    """

    def __init__(
        self,
        survey: Survey,
        running: Running,
        cover: Cover,
        cgroup_cover: Cover,
        shapes: Shapes,
        log: FilteringBoundLogger,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.survey = survey
        self._running = running
        self._cover = cover
        self._cgroup_cover = cgroup_cover
        self._shapes = shapes
        self._log = log
        self._clock = clock
        self._ticker = Ticker("local", interval_seconds, clock())
        self._cpu_seconds = 0.0
        self._blind: set[str] = set()
        self._disagreed: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        worker = Worker("local")
        look: asyncio.Future[None] | None = None
        try:
            async for _ in ticks([self._ticker], stop, asyncio.Event(), self._clock):
                if look is not None and not look.done():
                    self._ticker.skip()
                    continue
                if look is not None:
                    look.result()  # a fault of ours ends the agent, as everywhere
                look = worker.submit(self._look(asyncio.get_running_loop()))
        finally:
            worker.submit(self.survey.close)
            worker.close()

    def _look(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        def look() -> None:
            second = self.survey.look()
            loop.call_soon_threadsafe(self._take, second)

        return look

    def _take(self, second: Second) -> None:
        """Pass on a second, without domains that have ended meanwhile."""
        self._cpu_seconds += second.cpu_seconds
        running = {domain.uuid: domain for domain, _ in self._running()}

        def current(readings: list[Reading]) -> tuple[Reading, ...]:
            return tuple(
                [r for r in readings if r.domain is None or running.get(r.domain.uuid) is r.domain]
            )

        readings = current(second.readings)
        own = self._numbers(len({r.domain.uuid for r in readings if r.domain}))
        self._cover.take(
            Batch(SOURCE, second.taken_at, (*readings, own), GROUPS, self._cover.fresh_seconds)
        )
        if second.cgroups:
            self._cgroup_cover.take(
                Batch(
                    CGROUP_SOURCE,
                    second.taken_at,
                    current(second.cgroups),
                    CGROUP_GROUPS,
                    self._cgroup_cover.fresh_seconds,
                )
            )
        if second.summaries:
            self._cover(
                Batch(
                    SUMMARY_SOURCE,
                    second.taken_at,
                    current(second.summaries),
                    SUMMARY_GROUPS,
                    SUMMARY_LIFETIME_SECONDS,
                )
            )
        self._say(second)

    def _numbers(self, domains: int) -> Reading:
        rows: list[tuple[str, dict[str, str], int | float]] = [
            ("domains", {}, domains),
            ("ticks", {}, self._ticker.ticks),
            ("ticks_skipped", {}, self._ticker.skipped),
            ("read_cpu", {}, self._cpu_seconds),
        ]
        rows += [
            ("disagreements", {"field": name}, count)
            for name, count in sorted(self._disagreements().items())
        ]
        shape = self._shapes.numbers(tuple((key, tuple(labels.items())) for key, labels, _ in rows))
        return Reading(None, shape, tuple(number for _, _, number in rows))

    def _disagreements(self) -> Counter[str]:
        return self._cover.disagreements + self._cgroup_cover.disagreements

    def _say(self, second: Second) -> None:
        """Log what cannot be seen and what does not agree, once each."""
        for what, reason in second.blind.items():
            if what not in self._blind:
                self._blind.add(what)
                self._log.warning("local.blind", what=what, reason=reason, mend=MENDS[what])
        for name in self._disagreements().keys() - self._disagreed:
            self._disagreed.add(name)
            self._log.warning("local.disagreed", field=name)

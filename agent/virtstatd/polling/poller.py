"""Who polls: tiers of groups on their intervals, asked in slices over the lanes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Gone, Oversize
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch
from virtstatd.polling.ticker import Ticker, ticks
from virtstatd.sources.bulk import Answer


CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the call duration histogram, in seconds."""

LIFETIME_INTERVALS = 2.0
"""How long a reading is shown as current."""

STOP_SECONDS = 1.0
"""What polls under way get to finish when the agent stops."""

OUTCOME: dict[type[VirtstatdError], str] = {
    Overdue: "overdue",
    Refused: "refused",
    Gone: "refused",
    Oversize: "oversize",
    Disconnected: "disconnected",
}
OUTCOMES = ("ok", "overdue", "refused", "oversize", "disconnected")

T = TypeVar("T")


class Source(Protocol):
    """The questions that a lane can ask; `sources.bulk.Bulk` is the true one."""

    def known(self) -> int:
        """Return how many domains are believed to run."""
        ...

    def running(self, session: Session) -> list[str]:
        """Return the UUIDs of the running domains."""
        ...

    def everyone(self, session: Session, bits: int) -> Answer:
        """Ask for the groups of every running domain."""
        ...

    def some(self, session: Session, bits: int, uuids: list[str]) -> Answer:
        """Ask for the groups of these domains."""
        ...


@dataclass(slots=True)
class Tier:
    """Groups that are due together, and what became of their polls."""

    name: str
    bits: int
    groups: frozenset[str]
    ticker: Ticker
    busy: bool = False
    completed_at: float | None = None
    partial: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    durations: list[int] = field(default_factory=lambda: [0] * (len(CALL_BUCKETS) + 1))
    seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count a finished call in the histogram of durations."""
        at = next((i for i, bound in enumerate(CALL_BUCKETS) if seconds <= bound), -1)
        self.durations[at] += 1
        self.seconds += seconds


class Poller:
    """
    Ask libvirt at every tick and pass on what each call brings, as soon as it brings it.

    `up` says whether the last bulk call succeeded; `on_change` is called when that turns.
    Tiers that are due together travel in one call. Many domains are asked in slices, side by side.
    A slice past its deadline is asked again at once: the call that hangs holds the stuck guest's
    job, so NOWAIT steps over it and the others are answered in the same cycle.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        lanes: Lanes,
        source: Source,
        emit: Callable[[Batch], None],
        on_change: Callable[[], None],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        *,
        slice_domains: int,
        deadline_seconds: float,
    ) -> None:
        self.tiers = tiers
        self.up = False
        self.undecodable = 0
        self.nudge = asyncio.Event()
        self._lanes = lanes
        self._source = source
        self._emit = emit
        self._on_change = on_change
        self._log = log
        self._clock = clock
        self._slice = slice_domains
        self._deadline = deadline_seconds
        self._failing = False
        self._ticked_at = clock()

    async def run(self, stop: asyncio.Event, connected: Callable[[], bool]) -> None:
        """Poll until `stop`; ticks while libvirt is away or a tier is still busy are skipped."""
        by_ticker = {id(tier.ticker): tier for tier in self.tiers}
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as polls:
            async for due in ticks([t.ticker for t in self.tiers], stop, self.nudge, self._clock):
                free = []
                for tier in (by_ticker[id(ticker)] for ticker in due):
                    if tier.busy or not connected():
                        tier.ticker.skip()
                    else:
                        tier.busy = True
                        free.append(tier)
                if free:
                    names = "+".join(tier.name for tier in free)
                    task = polls.create_task(self._poll(free), name=f"poll {names}")
                    running.add(task)
                    task.add_done_callback(running.discard)
                self._ticked_at = self._clock()
            if running:
                _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
                for task in late:
                    task.cancel()

    async def once(self) -> None:
        """Poll everything once; raises `Disconnected` where libvirt cannot be reached."""
        await self._call(self.tiers, self._source.running)
        await self._poll(self.tiers)

    def ticking(self, now: float) -> bool:
        """Tell whether deadlines are still being served."""
        shortest = min((t.ticker.seconds for t in self.tiers), default=math.inf)
        return now - self._ticked_at < 3 * shortest + 1

    def lost(self) -> None:
        """Take note that libvirt is away."""
        self._set(up=False)

    async def _poll(self, tiers: Sequence[Tier]) -> None:
        try:
            for tier in tiers:
                tier.partial, tier.missing = set(), set()
            if await self._ask_all(tiers):
                for tier in tiers:
                    tier.completed_at = self._clock()
        finally:
            for tier in tiers:
                tier.busy = False

    async def _ask_all(self, tiers: Sequence[Tier]) -> bool:
        if self._source.known() <= self._slice:
            with contextlib.suppress(Oversize):  # few domains, but huge ones: in slices, then
                return await self._ask(tiers, None)
        try:
            uuids = await self._call(tiers, self._source.running)
        except VirtstatdError:
            return False
        slices = [uuids[i : i + self._slice] for i in range(0, len(uuids), self._slice)]
        return all(await asyncio.gather(*(self._ask_halving(tiers, part) for part in slices)))

    async def _ask_halving(self, tiers: Sequence[Tier], uuids: list[str]) -> bool:
        try:
            return await self._ask(tiers, uuids)
        except Oversize as error:
            half = len(uuids) // 2
            if not half:
                self._log.error("domain.oversize", uuid=uuids[0], reason=str(error))
                return False
            first = await self._ask_halving(tiers, uuids[:half])
            return await self._ask_halving(tiers, uuids[half:]) and first

    async def _ask(self, tiers: Sequence[Tier], uuids: list[str] | None) -> bool:
        """Ask once for all tiers; where that fails, a fault of one tier's groups costs it alone."""
        bits = 0
        for tier in tiers:
            bits |= tier.bits

        def question(session: Session) -> Answer:
            if uuids is None:
                return self._source.everyone(session, bits)
            return self._source.some(session, bits, uuids)

        try:
            answer = await self._call(tiers, question)
        except Oversize:
            raise
        except Disconnected:
            return False
        except VirtstatdError:
            if len(tiers) == 1:
                return False
            return all([await self._ask([tier], uuids) for tier in tiers])
        self._take(tiers, uuids, answer)
        return True

    async def _call(self, tiers: Sequence[Tier], question: Callable[[Session], T]) -> T:
        """
        Ask on a lane, and a second time when the first fails.

        In mid-call a domain may have ended (libvirt 9 then fails the call for all), the lane's
        connection may have died in its sleep, and a stuck guest is stepped over once the first
        call holds its job.
        """

        def timed(session: Session) -> tuple[T, float]:
            started = time.monotonic()
            return question(session), time.monotonic() - started

        tier = tiers[-1]  # a shared call counts for the tier that asks the most of libvirt
        for last in (False, True):
            try:
                result, seconds = await self._lanes.run(timed, self._deadline)
            except (Overdue, Refused, Disconnected) as error:
                tier.outcomes[OUTCOME[type(error)]] += 1
                if last or isinstance(error, Oversize):
                    self._report(error)
                    raise
            else:
                tier.outcomes["ok"] += 1
                tier.observe(seconds)
                self._report(None)
                return result
        raise AssertionError  # the loop returns or raises

    def _take(self, tiers: Sequence[Tier], uuids: list[str] | None, answer: Answer) -> None:
        self.undecodable += len(answer.undecodable)
        for tier in tiers:
            tier.partial |= answer.partial
            if uuids is not None:
                tier.missing.update(uuid for uuid in uuids if uuid not in answer.seen)
            # a group that nobody asked for can only be one that the catalog does not know
            last = tier is tiers[-1]
            others = frozenset().union(*(t.groups for t in tiers if t is not tier))
            self._emit(
                Batch(
                    source="bulk",
                    taken_at=answer.taken_at,
                    readings=tuple(
                        r
                        for r in answer.readings
                        if r.shape.group in tier.groups or (last and r.shape.group not in others)
                    ),
                    groups=tier.groups,
                    lifetime_seconds=LIFETIME_INTERVALS * tier.ticker.seconds,
                )
            )

    def _report(self, error: VirtstatdError | None) -> None:
        """Remember whether the last bulk call succeeded; log the transitions."""
        self._set(up=error is None)
        failing = error is not None
        if failing and not self._failing and not isinstance(error, Disconnected):
            self._log.warning("poll.failing", reason=str(error))
        elif self._failing and not failing:
            self._log.info("poll.recovered")
        self._failing = failing

    def _set(self, *, up: bool) -> None:
        if self.up != up:
            self.up = up
            self._on_change()

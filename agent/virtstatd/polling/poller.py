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

from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Gone, Oversize
from virtstatd.hypervisor.lanes import STUCK_MAX, Lanes, Session
from virtstatd.model import Batch, Reading
from virtstatd.polling.ticker import Ticker, ticks
from virtstatd.sources.bulk import MONITOR, Answer
from virtstatd.sources.control import OK, UNRESPONSIVE_MILLISECONDS, Verdicts


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
OUTCOMES = ("ok", "overdue", "refused", "oversize", "disconnected", "withheld")

DEADLINE_LEAST_SECONDS = 1.0
"""However short the interval, libvirt gets this long to answer."""

SUSPECTS_AT_ONCE = 5
"""Domains asked in one call when it is the last that may hang."""

T = TypeVar("T")


class Source(Protocol):
    """The questions that a lane can ask; `sources.bulk.Bulk` is the true one."""

    def known(self) -> int:
        """Return how many domains are believed to run."""
        ...

    def uuids(self) -> list[str]:
        """Return whom it believes to run, without asking."""
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
    Tiers that are due together travel in one call, but for those that ask no guest's monitor: they
    cannot hang, and go by themselves. Many domains are asked in slices, side by side.
    A slice past its deadline is asked again at once: the call that hangs holds the stuck guest's
    job, so NOWAIT steps over it and the others are answered in the same cycle.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        lanes: Lanes,
        source: Source,
        verdicts: Verdicts,
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
        self.unresponsive: dict[str, str] = {}
        self._verdicts = verdicts
        self._suspects: set[str] = set()
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
                for together in self._together(free):
                    names = "+".join(tier.name for tier in together)
                    task = polls.create_task(self._poll(together), name=f"poll {names}")
                    running.add(task)
                    task.add_done_callback(running.discard)
                self._ticked_at = self._clock()
            if running:
                _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
                for task in late:
                    task.cancel()

    async def once(self) -> None:
        """Poll everything once; raises `Disconnected` where libvirt cannot be reached."""
        await self._call(self.tiers, self._source.running, monitor=False)
        for together in self._together(self.tiers):
            await self._poll(together)

    def ticking(self, now: float) -> bool:
        """Tell whether deadlines are still being served."""
        shortest = min((t.ticker.seconds for t in self.tiers), default=math.inf)
        return now - self._ticked_at < 3 * shortest + 1

    def lost(self) -> None:
        """Take note that libvirt is away."""
        self._set(up=False)

    @property
    def _troubled(self) -> bool:
        return bool(self._lanes.stuck or self._suspects)

    @staticmethod
    def _together(tiers: Sequence[Tier]) -> list[list[Tier]]:
        """Tell which tiers travel in one call: what may hang never holds up what cannot."""
        safe = [tier for tier in tiers if not tier.bits & MONITOR]
        asking = [tier for tier in tiers if tier.bits & MONITOR]
        return [each for each in (safe, asking) if each]

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
        if self._source.known() <= self._slice and not self._troubled:
            with contextlib.suppress(Oversize):  # few domains, but huge ones: in slices, then
                return await self._ask(tiers, None)
        try:
            uuids = await self._call(tiers, self._source.running, monitor=False)
        except VirtstatdError:
            return False
        self._suspects.intersection_update(uuids)
        self.unresponsive = {u: r for u, r in self.unresponsive.items() if u in set(uuids)}
        # who is known to answer comes first, who may hang a call last
        uuids.sort(key=lambda uuid: uuid in self._suspects)
        slices = parts(uuids, self._slice)
        return all(await asyncio.gather(*(self._ask_halving(tiers, part) for part in slices)))

    async def _ask_halving(self, tiers: Sequence[Tier], uuids: list[str]) -> bool:
        try:
            return await self._ask(tiers, uuids)
        except Oversize as error:
            half = len(uuids) // 2
            self._slice = max(1, min(self._slice, half))  # remembered for the polls to come
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

        monitor = bool(bits & MONITOR)
        try:
            answer = await self._call(tiers, question, monitor=monitor)
        except Oversize:
            raise
        except Overdue:
            return monitor and await self._rescue(tiers, uuids)
        except Crowded:
            return self._withhold(tiers, uuids)
        except Refused:
            return len(tiers) > 1 and all([await self._ask([tier], uuids) for tier in tiers])
        except Disconnected:
            return False
        self._take(tiers, uuids, answer)
        return True

    async def _rescue(self, tiers: Sequence[Tier], uuids: list[str] | None) -> bool:
        """
        Ask again for what a call that hangs holds back.

        The call that hangs holds the stuck guest's job, so that the next one steps over it. Another
        guest may hang that one, too: with one call left for such risks, the lists grow small.
        """
        uuids = self._source.uuids() if uuids is None else uuids
        self._suspects.update(uuids)
        size = SUSPECTS_AT_ONCE if self._lanes.stuck == STUCK_MAX - 1 else len(uuids)
        return all([await self._ask_halving(tiers, part) for part in parts(uuids, size)])

    def _withhold(self, tiers: Sequence[Tier], uuids: list[str] | None) -> bool:
        """Leave domains unasked, for every call that may hang already does."""
        for tier in tiers:
            tier.outcomes["withheld"] += 1
            tier.missing.update(self._source.uuids() if uuids is None else uuids)
        return False

    async def _call(
        self, tiers: Sequence[Tier], question: Callable[[Session], T], *, monitor: bool
    ) -> T:
        """
        Ask on a lane, and a second time when the first is refused.

        In mid-call a domain may have ended (libvirt 9 then fails the call for all), and the lane's
        connection may have died in its sleep.
        """

        def timed(session: Session) -> tuple[T, float]:
            started = time.monotonic()
            return question(session), time.monotonic() - started

        tier = tiers[-1]  # a shared call counts for the tier that asks the most of libvirt
        # half an interval at most: what is asked again must still be of this cycle
        half = min(tier.ticker.seconds for tier in tiers) / 2
        deadline = max(DEADLINE_LEAST_SECONDS, min(self._deadline, half))
        for last in (False, True):
            try:
                result, seconds = await self._lanes.run(timed, deadline, monitor=monitor)
            except (Overdue, Refused, Disconnected) as error:
                tier.outcomes[OUTCOME[type(error)]] += 1
                if last or isinstance(error, Oversize | Overdue):
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
        monitored = any(tier.bits & MONITOR for tier in tiers)
        verdicts = self._judge(answer) if monitored else ()
        for tier in tiers:
            tier.partial |= answer.partial.keys() | answer.stalled.keys()
            if uuids is not None:
                there = answer.seen | answer.stalled.keys()
                tier.missing.update(uuid for uuid in uuids if uuid not in there)
                tier.missing -= answer.seen
            # a group that nobody asked for can only be one that the catalog does not know
            last = tier is tiers[-1]
            others = frozenset().union(*(t.groups for t in tiers if t is not tier))
            self._emit(
                Batch(
                    source="bulk",
                    taken_at=answer.taken_at,
                    readings=(
                        *(
                            r
                            for r in answer.readings
                            if r.shape.group in tier.groups
                            or (last and r.shape.group not in others)
                        ),
                        *(verdicts if tier.bits & MONITOR else ()),
                    ),
                    groups=tier.groups | {"control"} if tier.bits & MONITOR else tier.groups,
                    lifetime_seconds=LIFETIME_INTERVALS * tier.ticker.seconds,
                )
            )

    def _judge(self, answer: Answer) -> list[Reading]:
        """Say of each domain whether its monitor answers; log the transitions."""
        self._suspects -= answer.seen
        verdicts = []
        for uuid, domain in answer.domains.items():
            reason = answer.stalled.get(uuid, "")
            control = answer.partial.get(uuid)
            if control and control[0] != OK and control[2] >= UNRESPONSIVE_MILLISECONDS:
                reason = f"its monitor has not answered for {control[2] / 1000:.0f} s"
            if reason and uuid not in self.unresponsive:
                self._log.warning("domain.unresponsive", domain=domain.name, reason=reason)
                self.unresponsive[uuid] = reason
            elif not reason and uuid not in answer.partial and uuid in self.unresponsive:
                self._log.info("domain.responsive", domain=domain.name)
                del self.unresponsive[uuid]
            responsive = uuid not in self.unresponsive
            verdicts.append(self._verdicts.reading(domain, control, responsive=responsive))
        return verdicts

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


def parts(uuids: list[str], size: int) -> list[list[str]]:
    """Cut a list into parts of a size."""
    return [uuids[at : at + size] for at in range(0, len(uuids), max(1, size))]

"""Who polls: tiers of groups on their intervals, asked in slices over the lanes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Oversize
from virtstatd.hypervisor.lanes import STUCK_MAX, Session
from virtstatd.model import Batch
from virtstatd.polling.calls import Calls
from virtstatd.polling.monitors import SMALL_LIST, Monitors, parts
from virtstatd.polling.ticker import ticks
from virtstatd.polling.tier import LIFETIME_INTERVALS, Poll, Tier
from virtstatd.polling.waiting import STOP_SECONDS
from virtstatd.sources.bulk import Answer


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

    def held(self, session: Session, uuids: list[str]) -> Answer:
        """Tell whose monitor somebody has waited for long, asking no monitor."""
        ...


class Poller:
    """
    Ask libvirt at every tick and pass on what each call brings, as soon as it brings it.

    Tiers that are due together travel in one call, but for those that ask no guest's monitor: they
    cannot hang, and go by themselves. Many domains are asked in slices, side by side.
    A slice past its deadline is asked again at once: the call that hangs holds the stuck guest's
    job, so NOWAIT steps over it and the others are answered in the same cycle. `monitors` says who
    is asked when more calls hang.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        calls: Calls,
        source: Source,
        monitors: Monitors,
        emit: Callable[[Batch], None],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        *,
        slice_domains: int,
    ) -> None:
        self.tiers = tiers
        self.undecodable = 0
        self.nudge = asyncio.Event()
        self._calls = calls
        self._source = source
        self._emit = emit
        self._log = log
        self._clock = clock
        self._slice = slice_domains
        self._monitors = monitors
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
        await self._calls.ask(Poll(self.tiers, self._clock(), False), self._source.running)
        for together in self._together(self.tiers):
            await self._poll(together)

    def ticking(self, now: float) -> bool:
        """Tell whether deadlines are still being served."""
        shortest = min((t.ticker.seconds for t in self.tiers), default=math.inf)
        return now - self._ticked_at < 3 * shortest + 1

    @property
    def up(self) -> bool:
        """Whether the last bulk call succeeded."""
        return self._calls.up

    @staticmethod
    def _together(tiers: Sequence[Tier]) -> list[list[Tier]]:
        """Tell which tiers travel in one call: what may hang never holds up what cannot."""
        safe = [tier for tier in tiers if not tier.monitor]
        asking = [tier for tier in tiers if tier.monitor]
        return [each for each in (safe, asking) if each]

    async def _poll(self, tiers: Sequence[Tier]) -> None:
        try:
            monitor = any(tier.monitor for tier in tiers)
            if await self._ask_all(Poll(tiers, self._clock(), monitor)):
                for tier in tiers:
                    tier.completed_at = self._clock()
        finally:
            for tier in tiers:
                tier.end()

    async def _ask_all(self, poll: Poll) -> bool:
        careful = poll.monitor and self._calls.stuck
        if self._source.known() <= self._slice and not careful:
            with contextlib.suppress(Oversize):  # few domains, but huge ones: in slices, then
                return await self._ask(poll, None)
        try:
            uuids = await self._calls.ask(replace(poll, monitor=False), self._source.running)
        except VirtstatdError:
            return False
        self._monitors.keep(uuids)
        if poll.monitor and self._calls.stuck:
            return await self._ask_carefully(poll, uuids)
        slices = parts(self._monitors.in_order(uuids), self._slice)
        return all(await asyncio.gather(*(self._ask_halving(poll, part) for part in slices)))

    async def _ask_carefully(self, poll: Poll, uuids: list[str]) -> bool:
        """Ask for domains while calls hang: those known good, the others as far as they may be."""
        lists, others = self._monitors.plan(uuids, self._calls.stuck, self._slice)
        asked = await asyncio.gather(
            *(self._ask_halving(poll, part, proven=proven) for part, proven in lists)
        )
        complete = all(asked)
        while others:
            if self._calls.stuck >= STUCK_MAX or not self._monitors.may_try():
                return await self._withhold(poll, others)
            part, others = others[:SMALL_LIST], others[SMALL_LIST:]
            complete &= await self._ask_halving(poll, part, proven=True)
        return complete

    async def _ask_halving(self, poll: Poll, uuids: list[str], *, proven: bool = False) -> bool:
        try:
            return await self._ask(poll, uuids, proven=proven)
        except Oversize as error:
            half = len(uuids) // 2
            self._slice = max(1, min(self._slice, half))  # remembered for the polls to come
            if not half:
                self._log.error("domain.oversize", uuid=uuids[0], reason=str(error))
                return False
            first = await self._ask_halving(poll, uuids[:half], proven=proven)
            return await self._ask_halving(poll, uuids[half:], proven=proven) and first

    async def _ask(self, poll: Poll, uuids: list[str] | None, *, proven: bool = False) -> bool:
        """Ask once for all tiers; where that fails, a fault of one tier's groups costs it alone."""
        bits = 0
        for tier in poll.tiers:
            bits |= tier.bits

        def question(session: Session) -> Answer:
            if uuids is None:
                return self._source.everyone(session, bits)
            return self._source.some(session, bits, uuids)

        try:
            answer = await self._calls.ask(poll, question, proven=proven)
        except Oversize:
            raise
        except Overdue:
            return poll.monitor and await self._rescue(poll, uuids)
        except Crowded:
            uuids = self._source.uuids() if uuids is None else uuids
            if proven or self._calls.stuck >= STUCK_MAX:
                return await self._withhold(poll, uuids)
            return await self._ask_carefully(poll, uuids)
        except Refused:
            alone = [replace(poll, tiers=[tier]) for tier in poll.tiers]
            return len(alone) > 1 and all(
                [await self._ask(each, uuids, proven=proven) for each in alone]
            )
        except Disconnected:
            return False
        self._take(poll, uuids, answer)
        return True

    async def _rescue(self, poll: Poll, uuids: list[str] | None) -> bool:
        """
        Ask again for what a call that hangs holds back.

        The call that hangs holds the stuck guest's job, so that the next one steps over it. Another
        guest may hang that one, too.
        """
        uuids = self._source.uuids() if uuids is None else uuids
        self._monitors.hung(uuids, self._calls.stuck, poll.begun)
        return await self._ask_carefully(poll, uuids)

    async def _withhold(self, poll: Poll, uuids: list[str]) -> bool:
        """Leave domains unasked, for too many calls hang; name whom they hang for."""
        for tier in poll.tiers:
            tier.outcomes["withheld"] += 1
            tier.unanswered.update(uuids)
        if suspects := self._monitors.suspects(uuids):
            with contextlib.suppress(VirtstatdError):
                answer = await self._calls.ask(
                    replace(poll, monitor=False),
                    lambda session: self._source.held(session, suspects),
                )
                self._take(poll, suspects, answer)
        return False

    def _take(self, poll: Poll, uuids: list[str] | None, answer: Answer) -> None:
        self.undecodable += len(answer.undecodable)
        verdicts = self._monitors.judge(answer, poll.begun) if poll.monitor else ()
        tiers = poll.tiers
        judging = next((tier for tier in tiers if tier.monitor), None)
        for tier in tiers:
            tier.stepped_over |= answer.partial.keys() | answer.stalled.keys()
            if uuids is not None:
                there = answer.seen | answer.stalled.keys()
                tier.unanswered.update(uuid for uuid in uuids if uuid not in there)
                tier.unanswered -= answer.seen
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
                        *(verdicts if tier is judging else ()),
                    ),
                    groups=tier.groups | {"control"} if tier is judging else tier.groups,
                    lifetime_seconds=LIFETIME_INTERVALS * tier.ticker.seconds,
                )
            )

"""One poll: all guests are asked, in slices over the lanes, and again for whoever hangs a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.call import Answer
from virtstatd.collect.bulk.calls import Calls
from virtstatd.collect.bulk.monitors import SMALL_LIST, Monitors, parts
from virtstatd.collect.bulk.tier import LIFETIME_INTERVALS, Poll
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Oversize
from virtstatd.hypervisor.lanes import STUCK_MAX, Session
from virtstatd.model import Batch
from virtstatd.runtime.waiting import first_of


TURN_SECONDS: Final = 15.0
"""From one turn to the next where a poll is spread over its interval."""


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


class Sweep:
    """
    Ask all guests once, and pass on what each call brings as soon as it brings it.

    Many domains are asked in slices, side by side. A slice past its deadline is asked again at
    once: the call that hangs holds the stuck guest's job, so NOWAIT steps over it and the others
    are answered in the same cycle. `monitors` says who is asked when more calls hang.
    """

    def __init__(
        self,
        calls: Calls,
        source: Source,
        monitors: Monitors,
        emit: Callable[[Batch], None],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        *,
        slice_domains: int,
    ) -> None:
        self.undecodable = 0
        self._calls = calls
        self._source = source
        self._monitors = monitors
        self._emit = emit
        self._log = log
        self._clock = clock
        self._slice = slice_domains
        self._turn = asyncio.Lock()

    @property
    def up(self) -> bool:
        """Whether the last bulk call succeeded."""
        return self._calls.up

    async def connect(self, poll: Poll) -> None:
        """List who runs; raises `Disconnected` where libvirt cannot be reached."""
        await self._calls.ask(poll, self._source.running)

    async def by_turns(
        self, poll: Poll, stop: asyncio.Event, connected: Callable[[], bool]
    ) -> bool:
        """
        Ask for some domains at a time, evenly over the interval in force, until `stop`.

        Whoever comes meanwhile is asked too, and whoever could not be since libvirt was away is
        asked when it is back. Returns whether all were answered.
        """
        with contextlib.suppress(VirtstatdError):  # it may answer at the next turn
            await self._calls.ask(replace(poll, monitor=False), self._source.running)
        asked: set[str] = set()
        complete = True
        while not stop.is_set():
            async with self._turn:  # polls of other tiers may be spread over the same time
                now, uuids = self._clock(), self._source.uuids()
                self._monitors.keep(uuids)
                pending = [u for u in self._monitors.in_order(uuids) if u not in asked]
                left = max(1, int((poll.begun + poll.seconds - now) / TURN_SECONDS))
                part = pending[: -(-len(pending) // left)]
                if part and connected():
                    lost = poll.tiers[-1].outcomes["disconnected"]
                    answered = await self._ask_listed(poll, part)
                    if answered or poll.tiers[-1].outcomes["disconnected"] == lost:
                        asked.update(part)
                        complete &= answered
                    for tier in poll.tiers:
                        tier.asked += len(part) / len(uuids)
            if left == 1:
                return complete and asked.issuperset(pending)
            for tier in poll.tiers:
                tier.pausing = True
            await first_of(stop, seconds=now + TURN_SECONDS - self._clock())
            for tier in poll.tiers:
                tier.pausing = False
        return False

    async def at_once(self, poll: Poll) -> bool:
        """Ask for all domains; return whether all were answered."""
        careful = poll.monitor and self._calls.stuck
        if self._source.known() <= self._slice and not careful:
            with contextlib.suppress(Oversize):  # few domains, but huge ones: in slices, then
                return await self._ask(poll, None)
        try:
            uuids = await self._calls.ask(replace(poll, monitor=False), self._source.running)
        except VirtstatdError:
            return False
        self._monitors.keep(uuids)
        return await self._ask_listed(poll, uuids)

    async def _ask_listed(self, poll: Poll, uuids: list[str]) -> bool:
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

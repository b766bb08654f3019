"""One poll: all guests are asked, in slices over the lanes, and again where a call hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.answer import Answer
from virtstatd.collect.bulk.monitors import SMALL_LIST, Monitors, parts
from virtstatd.collect.tier import OUTCOME, Poll
from virtstatd.collector import LIFETIME_INTERVALS
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Oversize
from virtstatd.hypervisor.lanes import STUCK_MAX, Lanes, Session
from virtstatd.model import Batch


DEADLINE_LEAST_SECONDS: Final = 1.0
"""However short the interval, libvirt gets this long to answer."""

T = TypeVar("T")


class Questions(Protocol):
    """The questions that a lane can ask; `call.BulkCall` asks libvirt."""

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

    `up` says whether the last call succeeded; `on_turn` is called when that turns.
    """

    def __init__(
        self,
        lanes: Lanes,
        questions: Questions,
        monitors: Monitors,
        log: FilteringBoundLogger,
        *,
        slice_domains: int,
        deadline_seconds: float,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.up = False
        self.undecodable = 0
        self._lanes = lanes
        self._questions = questions
        self._monitors = monitors
        self._log = log
        self._slice = slice_domains
        self._deadline = deadline_seconds
        self._on_turn = on_turn
        self._failing = False

    def lost(self) -> None:
        """Take note that libvirt is away."""
        self._set(up=False)

    async def running(self, poll: Poll) -> list[str]:
        """List who runs; raises `Disconnected` where libvirt cannot be reached."""
        return await self._call(replace(poll, monitor=False), self._questions.running)

    def in_order(self) -> list[str]:
        """Return who is believed to run, without asking, who answered last first."""
        uuids = self._questions.uuids()
        self._monitors.keep(uuids)
        return self._monitors.in_order(uuids)

    async def at_once(self, poll: Poll) -> bool:
        """Ask for all domains; return whether all were answered."""
        careful = poll.monitor and self._lanes.stuck
        if self._questions.known() <= self._slice and not careful:
            with contextlib.suppress(Oversize):  # few domains, but huge ones: in slices, then
                return await self._ask(poll, None)
        try:
            uuids = await self.running(poll)
        except VirtstatdError:
            return False
        self._monitors.keep(uuids)
        return await self.listed(poll, uuids)

    async def listed(self, poll: Poll, uuids: list[str]) -> bool:
        """Ask for these domains in slices, side by side; return whether all were answered."""
        if poll.monitor and self._lanes.stuck:
            return await self._ask_carefully(poll, uuids)
        slices = parts(self._monitors.in_order(uuids), self._slice)
        return all(await asyncio.gather(*(self._ask_halving(poll, part) for part in slices)))

    async def _ask_carefully(self, poll: Poll, uuids: list[str]) -> bool:
        """Ask for domains while calls hang: those known good, the others as far as they may be."""
        lists, others = self._monitors.plan(uuids, self._lanes.stuck, self._slice)
        asked = await asyncio.gather(
            *(self._ask_halving(poll, part, proven=proven) for part, proven in lists)
        )
        complete = all(asked)
        while others:
            if self._lanes.stuck >= STUCK_MAX or not self._monitors.may_try():
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
        bits = poll.bits

        def question(session: Session) -> Answer:
            if uuids is None:
                return self._questions.everyone(session, bits)
            return self._questions.some(session, bits, uuids)

        try:
            answer = await self._call(poll, question, proven=proven)
        except Oversize:
            raise
        except Overdue:
            return poll.monitor and await self._rescue(poll, uuids)
        except Crowded:
            uuids = self._questions.uuids() if uuids is None else uuids
            if proven or self._lanes.stuck >= STUCK_MAX:
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
        uuids = self._questions.uuids() if uuids is None else uuids
        self._monitors.hung(uuids, self._lanes.stuck, poll.begun)
        return await self._ask_carefully(poll, uuids)

    async def _withhold(self, poll: Poll, uuids: list[str]) -> bool:
        """Leave domains unasked, for too many calls hang; name whom they hang for."""
        for tier in poll.tiers:
            tier.outcomes["withheld"] += 1
            tier.unanswered.update(uuids)
        if suspects := self._monitors.suspects(uuids):
            with contextlib.suppress(VirtstatdError):
                answer = await self._call(
                    replace(poll, monitor=False),
                    lambda session: self._questions.held(session, suspects),
                )
                self._take(poll, suspects, answer)
        return False

    async def _call(
        self, poll: Poll, question: Callable[[Session], T], *, proven: bool = False
    ) -> T:
        """
        Ask on a lane, and a second time when the first is refused.

        In mid-call a domain may have ended (libvirt 9 then fails the call for all), and the lane's
        connection may have died in its sleep.
        """
        took = 0.0

        def timed(session: Session) -> T:
            nonlocal took
            started = time.monotonic()
            result = question(session)
            took = time.monotonic() - started
            return result

        tier = poll.tiers[-1]  # a shared call counts for the tier that asks the most of libvirt
        # half an interval at most: what is asked again must still be of this cycle
        deadline = max(DEADLINE_LEAST_SECONDS, min(self._deadline, poll.seconds / 2))
        for last in (False, True):
            try:
                result = await self._lanes.run(timed, deadline, monitor=poll.monitor, proven=proven)
            except (Overdue, Refused, Disconnected) as error:
                tier.outcomes[OUTCOME[type(error)]] += 1
                if last or isinstance(error, Oversize | Overdue):
                    self._report(error)
                    raise
            else:
                tier.outcomes["ok"] += 1
                tier.observe(took)
                self._report(None)
                return result
        raise AssertionError  # the loop returns or raises

    def _report(self, error: VirtstatdError | None) -> None:
        """Remember whether the last bulk call succeeded; log the transitions."""
        self._set(up=error is None)
        if isinstance(error, Disconnected):
            return  # its own connection tells
        failing = error is not None
        if failing and not self._failing:
            self._log.warning("poll.failing", reason=str(error))
        elif self._failing and not failing:
            self._log.info("poll.recovered")
        self._failing = failing

    def _set(self, *, up: bool) -> None:
        if self.up != up:
            self.up = up
            self._on_turn()

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
            poll.emit(
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

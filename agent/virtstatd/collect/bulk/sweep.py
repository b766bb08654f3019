"""One poll: which guests are queried, in which slices, and again where a call fails."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.asking import TRIES, Asking, Questions
from virtstatd.collect.bulk.exceptions import Exceptions, single
from virtstatd.collect.bulk.monitors import SMALL_LIST, Monitors, parts
from virtstatd.collect.bulk.pace import Pace
from virtstatd.collect.tier import Poll
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Gone, Oversize
from virtstatd.hypervisor.lanes import STUCK_MAX, Lanes


AGAIN_SECONDS: Final = 1.0
"""When guests are polled again whose monitor was held for a moment."""

AGAIN_INTERVAL_SECONDS: Final = 3.0
"""With a shorter interval they are not: the next poll is as near."""

GROW_SECONDS: Final = 3600.0
"""How long slices stay small after an answer was too large; then they double again."""


class Sweep:
    """
    Ask all guests once.

    Many domains are polled in slices, side by side. A slice past its deadline is polled again at
    once: the call that hangs holds the stuck guest's job, so NOWAIT steps over it and the others
    are answered in the same cycle. `monitors` decides who is polled when more calls hang. A slice
    that is refused, or whose answer is too large, is halved until the guest is found that it is
    for; `exceptions` remembers it, and what all guests are refused. `pace` decides which groups of
    which guests are not polled this time.
    """

    def __init__(
        self,
        lanes: Lanes,
        questions: Questions,
        monitors: Monitors,
        exceptions: Exceptions,
        log: FilteringBoundLogger,
        *,
        slice_domains: int,
        deadline_seconds: float,
        pace: Pace | None = None,
        on_turn: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.pace = pace or Pace(None, lambda: 0.0, clock)
        self.asking = Asking(
            lanes,
            questions,
            monitors,
            self.pace,
            log,
            deadline_seconds=deadline_seconds,
            on_turn=on_turn,
        )
        self.exceptions = exceptions
        self._lanes = lanes
        self._questions = questions
        self._monitors = monitors
        self._most = slice_domains
        self._slices: dict[int, tuple[int, float]] = {}
        self._idle: dict[int, set[str]] = {}
        self._clock = clock
        self._sleep = sleep

    def lost(self) -> None:
        """Take note that libvirt is away; another one may come."""
        self.exceptions.reset()
        self.pace.reset()
        self._slices.clear()
        self._idle.clear()
        self.asking.lost()

    def in_order(self) -> list[str]:
        """Return who is believed to run, without asking, who answered last first."""
        uuids = self._questions.uuids()
        self._keep(uuids)
        return self._monitors.in_order(uuids)

    async def at_once(self, poll: Poll) -> bool:
        """Ask for all domains; return whether all were answered."""
        bits = self.exceptions.asked(poll.bits)
        careful = poll.monitor and self._lanes.stuck
        apart = self.exceptions.concern(bits) or self._questions.selects() or self.pace.spares
        if self._questions.known() <= self._slice(bits) and not careful and not apart and bits:
            with contextlib.suppress(Refused):  # by slices, then, and guest by guest
                complete = await self._ask(poll, None, bits)
                return await self._again(poll) and complete
        try:
            uuids = await self.asking.running(poll)
        except VirtstatdError as error:
            poll.found.fail(error)
            return False
        self._keep(uuids)
        return await self.listed(poll, uuids)

    async def listed(self, poll: Poll, uuids: list[str]) -> bool:
        """Ask for these domains in slices, side by side; return whether all were answered."""
        complete = await self._each(poll, uuids)
        if not self.exceptions.asked(poll.bits):  # the driver has none: who runs is still known
            await self.asking.states(poll, uuids)
        return await self._again(poll) and complete

    async def _each(self, poll: Poll, uuids: list[str]) -> bool:
        """Ask for domains in slices, except for those that are polled by themselves."""
        complete = True
        with self.exceptions.searching():
            if bits := self.exceptions.asked(poll.bits):
                for wanted, of in self.pace.lists(poll.tiers, uuids, bits):
                    together, alone = self.exceptions.lists(of, wanted)
                    for some, those in together.items():
                        complete &= await self._in_slices(poll, those, some)
                    for uuid, some in alone:
                        complete &= await self._narrowed(poll, [uuid], some)
        return complete

    def unresponsive(self) -> list[str]:
        """Return the domains whose monitors do not answer, the longest silent first."""
        found = sorted(self._monitors.unresponsive.values(), key=lambda each: each.since)
        return [each.domain.name for each in found]

    def _keep(self, uuids: list[str]) -> None:
        self._monitors.keep(uuids)
        self.pace.keep(uuids)
        self.exceptions.keep(uuids)
        self.asking.keep(uuids)

    def _slice(self, bits: int) -> int:
        """Return how many domains fit into one call for these groups, by what failed before."""
        size, at = self._slices.get(bits, (self._most, 0.0))
        if size < self._most and self._clock() - at >= GROW_SECONDS:
            size = min(self._most, 2 * size)
            self._slices[bits] = size, self._clock()
        return size

    async def _in_slices(self, poll: Poll, uuids: list[str], bits: int) -> bool:
        if poll.monitor and self._lanes.stuck:
            return await self._ask_carefully(poll, uuids, bits)
        slices = parts(self._monitors.in_order(uuids), self._slice(bits))
        return all(await asyncio.gather(*(self._narrowed(poll, part, bits) for part in slices)))

    async def _ask_carefully(self, poll: Poll, uuids: list[str], bits: int) -> bool:
        """Ask for domains while calls hang: those known good, the others as far as they may be."""
        lists, others = self._monitors.plan(uuids, self._lanes.stuck, self._slice(bits))
        asked = await asyncio.gather(
            *(self._narrowed(poll, part, bits, proven=proven) for part, proven in lists)
        )
        complete = all(asked)
        while others:
            if self._lanes.stuck >= STUCK_MAX or not self._monitors.may_try():
                return await self._withhold(poll, others)
            part, others = others[:SMALL_LIST], others[SMALL_LIST:]
            complete &= await self._narrowed(poll, part, bits, proven=True)
        return complete

    async def _narrowed(
        self,
        poll: Poll,
        uuids: list[str],
        bits: int,
        *,
        proven: bool = False,
        tries: int = TRIES,
    ) -> bool:
        """Ask for domains; where that is refused, find the groups and the guests that it is for."""
        if not self.exceptions.asked(bits):
            return False  # meanwhile it was found out that nobody has them
        try:
            complete = await self._ask(poll, uuids, bits, proven=proven, tries=tries)
        except Refused as error:
            return await self._narrow(poll, uuids, bits, error, proven=proven)
        if complete and len(uuids) == 1:
            self.exceptions.answered(uuids[0], bits)
        return complete

    async def _narrow(
        self, poll: Poll, uuids: list[str], bits: int, error: Refused, *, proven: bool
    ) -> bool:
        groups = single(bits)
        if isinstance(error, Oversize) and len(uuids) > 1:
            return await self._halves(poll, uuids, bits, proven=proven)
        if len(groups) > 1:
            asked = [
                await self._narrowed(poll, uuids, bit, proven=proven, tries=1) for bit in groups
            ]
            if all(asked) and isinstance(error, Oversize):
                self.exceptions.too_large(uuids[0], self._questions.name(uuids[0]), bits)
            return all(asked)
        if len(uuids) > 1:
            return await self._halves(poll, uuids, bits, proven=proven)
        if isinstance(error, Gone):
            return True  # it has ended, which is no failure
        (uuid,) = uuids
        refused = poll.found.refused[bits] = poll.found.refused.get(bits, 0) + 1
        self.exceptions.refused(uuid, self._questions.name(uuid), bits, str(error))
        self.exceptions.all_refused(bits, refused, self._questions.known(), str(error))
        return False

    async def _halves(self, poll: Poll, uuids: list[str], bits: int, *, proven: bool) -> bool:
        half = (len(uuids) + 1) // 2
        found = self.exceptions.found
        asked = [
            await self._narrowed(poll, part, bits, proven=proven, tries=1)
            for part in (uuids[:half], uuids[half:])
        ]
        if all(asked) and self.exceptions.found == found and half < self._slice(bits):
            self._slices[bits] = half, self._clock()  # nobody's fault: together they are too many
        return all(asked)

    async def _ask(
        self,
        poll: Poll,
        uuids: list[str] | None,
        bits: int,
        *,
        proven: bool = False,
        tries: int = TRIES,
    ) -> bool:
        """Ask once; raises `Refused` where libvirt does not answer for these groups and guests."""
        try:
            answer = await self.asking.statistics(poll, uuids, bits, proven=proven, tries=tries)
        except Overdue as error:
            late = self._questions.uuids() if uuids is None else uuids
            poll.found.fail(error, late)
            for tier in poll.tiers:
                tier.unanswered.update(late)
            return poll.monitor and await self._rescue(poll, uuids, bits)
        except Crowded:
            uuids = self._questions.uuids() if uuids is None else uuids
            if proven or self._lanes.stuck >= STUCK_MAX:
                return await self._withhold(poll, uuids)
            return await self._ask_carefully(poll, uuids, bits)
        except Disconnected as error:
            poll.found.fail(error)
            return False
        if answer.seen:
            self.exceptions.answered_by_some(bits)
        return True

    async def _rescue(self, poll: Poll, uuids: list[str] | None, bits: int) -> bool:
        """
        Ask again for what a call that hangs holds back.

        The call that hangs holds the stuck guest's job, so that the next one steps over it. Another
        guest may hang that one, too.
        """
        uuids = self._questions.uuids() if uuids is None else uuids
        self._monitors.hung(uuids, self._lanes.stuck, poll.begun)
        return await self._ask_carefully(poll, uuids, bits)

    async def _withhold(self, poll: Poll, uuids: list[str]) -> bool:
        """Leave domains unasked, for too many calls hang; name the domains that they hang for."""
        for tier in poll.tiers:
            tier.outcomes["withheld"] += 1
            tier.unanswered.update(uuids)
        if suspects := self._monitors.suspects(uuids):
            with contextlib.suppress(VirtstatdError):
                await self.asking.held(poll, suspects)
        return False

    async def _again(self, poll: Poll) -> bool:
        """
        Ask once more for guests whose monitors were held for a moment, by a call of others.

        Those that are stepped over a second time, though their monitors are free, are built so.
        """
        found = poll.found
        always = set[str].intersection(*(tier.partial for tier in poll.tiers))
        uuids, idle = sorted(found.held - always), found.idle
        found.held, found.idle = set(), set()
        if poll.seconds < AGAIN_INTERVAL_SECONDS:
            self.asking.lacks(poll, idle & self._idle.get(poll.bits, set()))
            self._idle[poll.bits] = idle
            return True
        if not uuids:
            return True
        await self._sleep(AGAIN_SECONDS)
        complete = await self._each(poll, uuids)
        self.asking.lacks(poll, idle & found.idle)
        found.held, found.idle = set(), set()
        return complete

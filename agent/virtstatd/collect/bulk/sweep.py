"""One poll: all guests are asked, in slices over the lanes, and again where a call fails."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.answer import BALLOON, BLOCK, POLLED, Answer
from virtstatd.collect.bulk.control import occupied
from virtstatd.collect.bulk.exceptions import Exceptions, single
from virtstatd.collect.bulk.monitors import SMALL_LIST, Monitors, parts
from virtstatd.collect.bulk.options import deadline
from virtstatd.collect.bulk.undecodable import Undecodable
from virtstatd.collect.tier import OUTCOME, Poll
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Gone, Oversize
from virtstatd.hypervisor.lanes import STUCK_MAX, Lanes, Session
from virtstatd.model import Batch, Reading


AGAIN_SECONDS: Final = 1.0
"""When guests are asked again whose monitor was held for a moment."""

AGAIN_INTERVAL_SECONDS: Final = 3.0
"""With a shorter interval they are not: the next poll is as near."""

GROW_SECONDS: Final = 3600.0
"""How long slices stay small after an answer was too large; then they double again."""

TRIES: Final = 2
"""How often a question is asked that is refused; while it is looked for whose fault it is, once."""

NAMED: Final = 5
"""So many guests are named in one line of the log."""

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
        """Tell whose monitor has been waited for long, asking no monitor."""
        ...

    def states(self, session: Session, uuids: list[str]) -> Answer:
        """Ask for the states of these domains, one by one, without the bulk call."""
        ...

    def name(self, uuid: str) -> str:
        """Return the name of a running domain, empty where it is not known."""
        ...


class Sweep:
    """
    Ask all guests once, and pass on what each call brings as soon as it brings it.

    Many domains are asked in slices, side by side. A slice past its deadline is asked again at
    once: the call that hangs holds the stuck guest's job, so NOWAIT steps over it and the others
    are answered in the same cycle. `monitors` says who is asked when more calls hang. A slice that
    is refused, or whose answer is too large, is halved until the guest is found that it is for;
    `exceptions` remembers it, and what all guests are refused.

    `up` says whether libvirt answered any call of the last poll; `on_turn` is called when that
    turns.
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
        on_turn: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.up = False
        self.undecodable = Undecodable(log, questions.name)
        self.exceptions = exceptions
        self._lanes = lanes
        self._questions = questions
        self._monitors = monitors
        self._log = log
        self._most = slice_domains
        self._slices: dict[int, tuple[int, float]] = {}
        self._deadline = deadline_seconds
        self._on_turn = on_turn
        self._clock = clock
        self._sleep = sleep
        self._failing: dict[str, str] = {}
        self._lacking: dict[str, int] = {}

    def lost(self) -> None:
        """Take note that libvirt is away; another one may come."""
        self.exceptions.reset()
        self._slices.clear()
        self._set(up=False)

    async def running(self, poll: Poll) -> list[str]:
        """List who runs; raises `Disconnected` where libvirt cannot be reached."""
        return await self._call(replace(poll, monitor=False), self._questions.running)

    def in_order(self) -> list[str]:
        """Return who is believed to run, without asking, who answered last first."""
        uuids = self._questions.uuids()
        self._keep(uuids)
        return self._monitors.in_order(uuids)

    async def at_once(self, poll: Poll) -> bool:
        """Ask for all domains; return whether all were answered."""
        bits = self.exceptions.asked(poll.bits)
        careful = poll.monitor and self._lanes.stuck
        apart = self.exceptions.concern(bits)
        if self._questions.known() <= self._slice(bits) and not careful and not apart and bits:
            with contextlib.suppress(Refused):  # by slices, then, and guest by guest
                complete = await self._ask(poll, None, bits)
                return await self._again(poll) and complete
        try:
            uuids = await self.running(poll)
        except VirtstatdError as error:
            poll.found.fail(error)
            return False
        self._keep(uuids)
        return await self.listed(poll, uuids)

    async def listed(self, poll: Poll, uuids: list[str]) -> bool:
        """Ask for these domains in slices, side by side; return whether all were answered."""
        complete = await self._each(poll, uuids)
        if not self.exceptions.asked(poll.bits):  # the driver has none: who runs is still known
            await self._states(poll, uuids)
        return await self._again(poll) and complete

    async def _each(self, poll: Poll, uuids: list[str]) -> bool:
        """Ask for domains in slices, but for those that are asked by themselves."""
        complete = True
        if bits := self.exceptions.asked(poll.bits):
            together, alone = self.exceptions.lists(uuids, bits)
            for some, those in together.items():
                complete &= await self._in_slices(poll, those, some)
            for uuid, some in alone:
                complete &= await self._narrowed(poll, [uuid], some)
        self.exceptions.report()
        return complete

    def end(self, poll: Poll) -> None:
        """Judge a poll that has ended: whether libvirt is there, and what fails."""
        if poll.found.answered or poll.found.errors:
            self._set(up=poll.found.answered > 0)
        for tier in poll.tiers:
            reason = next(iter(poll.found.failures), "")
            if reason and tier.name not in self._failing:
                # who was answered at the second attempt lacks nothing
                lacking = set[str]().union(*(t.unanswered | t.stepped_over for t in poll.tiers))
                uuids = poll.found.failures[reason] & lacking
                names = sorted(filter(None, map(self._questions.name, uuids)))
                self._log.warning(
                    "poll.failing",
                    tier=tier.name,
                    reason=reason,
                    domains=names[:NAMED],
                    others=max(0, len(names) - NAMED),
                )
                self._failing[tier.name] = reason
            elif not reason and self._failing.pop(tier.name, ""):
                self._log.info("poll.recovered", tier=tier.name)

    def unresponsive(self) -> list[str]:
        """Return the domains whose monitors do not answer, the longest silent first."""
        found = sorted(self._monitors.unresponsive.values(), key=lambda each: each.since)
        return [each.domain.name for each in found]

    def _keep(self, uuids: list[str]) -> None:
        self._monitors.keep(uuids)
        self.exceptions.keep(uuids)
        self.undecodable.keep(uuids)
        for uuid in self._lacking.keys() - set(uuids):
            del self._lacking[uuid]

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

        def question(session: Session) -> Answer:
            if uuids is None:
                return self._questions.everyone(session, bits)
            return self._questions.some(session, bits, uuids)

        try:
            answer = await self._call(poll, question, proven=proven, tries=tries)
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
        self._take(poll, uuids, answer, bits)
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
                self._take(poll, suspects, answer, 0)
        return False

    async def _again(self, poll: Poll) -> bool:
        """
        Ask once more for guests whose monitors were held for a moment, by a call of others.

        Those that are stepped over at every poll, though nobody holds them, are built so.
        """
        found = poll.found
        always = set[str].intersection(*(tier.partial for tier in poll.tiers))
        uuids, idle = sorted(found.held - always), found.idle
        found.held, found.idle = set(), set()
        if not uuids or poll.seconds < AGAIN_INTERVAL_SECONDS:
            return True
        await self._sleep(AGAIN_SECONDS)
        complete = await self._each(poll, uuids)
        for uuid in idle & found.idle:
            self._lacking[uuid] = poll.bits & (BALLOON | BLOCK)
        for tier in poll.tiers:
            tier.stepped_over -= self._lacking.keys()
        found.held, found.idle = set(), set()
        return complete

    async def _states(self, poll: Poll, uuids: list[str]) -> None:
        """Pass on the states of domains where libvirt has no bulk call that tells them."""
        try:
            answer = await self._call(
                replace(poll, monitor=False),
                lambda session: self._questions.states(session, uuids),
            )
        except VirtstatdError as error:
            poll.found.fail(error)
        else:
            self._take(poll, uuids, answer, POLLED["state"].bit)

    async def _call(
        self,
        poll: Poll,
        question: Callable[[Session], T],
        *,
        proven: bool = False,
        tries: int = TRIES,
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
        seconds = deadline(self._deadline, poll.seconds)
        for left in reversed(range(tries)):
            try:
                result = await self._lanes.run(timed, seconds, monitor=poll.monitor, proven=proven)
            except (Overdue, Refused, Disconnected) as error:
                tier.outcomes[OUTCOME[type(error)]] += 1
                poll.found.errors += 1
                if isinstance(error, Refused):
                    poll.found.answered += 1  # with a refusal, but it is there
                if not left or isinstance(error, Oversize | Overdue):
                    raise
            else:
                tier.outcomes["ok"] += 1
                tier.observe(took)
                poll.found.answered += 1
                return result
        raise AssertionError  # the loop returns or raises

    def _set(self, *, up: bool) -> None:
        if self.up != up:
            self.up = up
            self._on_turn()

    def _take(self, poll: Poll, uuids: list[str] | None, answer: Answer, bits: int) -> None:
        """Pass on what a call brought, a batch for each tier that asked for any of it."""
        self.undecodable.judge(answer.undecodable, answer.seen - answer.partial.keys(), bits)
        for uuid in self._lacking.keys() & answer.seen:
            if uuid in answer.partial:
                del answer.partial[uuid]
            elif self._lacking[uuid] & ~bits == 0:  # it only seemed so
                del self._lacking[uuid]
        idle = {uuid for uuid, control in answer.partial.items() if control and not control[0]}
        poll.found.held |= {u for u, c in answer.partial.items() if c is None or not occupied(c)}
        poll.found.idle |= idle
        verdicts: Sequence[Reading] = ()
        if poll.monitor:
            verdicts = self._monitors.judge(
                answer.domains, poll.begun, answer.seen, answer.partial, answer.stalled
            )
        tiers = [tier for tier in poll.tiers if tier.bits & bits or not bits] or poll.tiers[:1]
        judging = next((tier for tier in tiers if tier.monitor), None)
        for tier in tiers:
            tier.stepped_over -= answer.seen
            tier.stepped_over |= answer.partial.keys() | answer.stalled.keys()
            tier.unanswered.update(uuids or ())
            tier.unanswered -= answer.seen | answer.stalled.keys()
            # a group that nobody asked for can only be one that the catalog does not know
            last = tier is tiers[-1]
            others = frozenset().union(*(t.groups for t in poll.tiers if t is not tier))
            asked = frozenset(group.name for group in POLLED.values() if group.bit & bits)
            groups = tier.groups & asked if bits else tier.groups
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
                    groups=groups | {"control"} if tier is judging else groups,
                    lifetime_seconds=tier.lifetime_seconds,
                )
            )

"""One call: asked on a lane, and what it brings passed on, a batch for each tier."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.answer import BALLOON, BLOCK, POLLED, Answer
from virtstatd.collect.bulk.control import OK, occupied
from virtstatd.collect.bulk.monitors import Monitors
from virtstatd.collect.bulk.options import deadline
from virtstatd.collect.bulk.pace import Pace
from virtstatd.collect.bulk.undecodable import Undecodable
from virtstatd.collect.tier import OUTCOME, Poll
from virtstatd.errors import Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Oversize
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Reading


TRIES: Final = 2
"""How often a refused question is repeated; while it is looked for whose fault it is, once."""

NAMED: Final = 5
"""So many guests are named in one line of the log."""

T = TypeVar("T")


class Questions(Protocol):
    """The questions that a lane can ask; `call.BulkCall` asks libvirt."""

    def known(self) -> int:
        """Return how many domains are believed to run."""
        ...

    def selects(self) -> bool:
        """Return whether guests may be left out, so that never all are polled."""
        ...

    def uuids(self) -> list[str]:
        """Return the domains that it believes to run, without a call."""
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
        """Return the domains whose monitor has been busy for long, without a query to it."""
        ...

    def states(self, session: Session, uuids: list[str]) -> Answer:
        """Ask for the states of these domains, one by one, without the bulk call."""
        ...

    def name(self, uuid: str) -> str:
        """Return the name of a running domain, empty where it is not known."""
        ...


class Asking:
    """
    Ask on lanes, count what comes of it, and pass on each answer as soon as it is there.

    `up` says whether libvirt answered any call of the last poll; `on_turn` is called when that
    turns.
    """

    def __init__(
        self,
        lanes: Lanes,
        questions: Questions,
        monitors: Monitors,
        pace: Pace,
        log: FilteringBoundLogger,
        *,
        deadline_seconds: float,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.up = False
        self.undecodable = Undecodable(log, questions.name)
        self._lanes = lanes
        self._questions = questions
        self._monitors = monitors
        self._pace = pace
        self._log = log
        self._deadline = deadline_seconds
        self._on_turn = on_turn
        self._failing: dict[str, str] = {}
        self._lacking: dict[str, int] = {}

    def lost(self) -> None:
        """Take note that libvirt is away."""
        self._set(up=False)

    def keep(self, uuids: list[str]) -> None:
        """Forget all other domains: these run."""
        self.undecodable.keep(uuids)
        for uuid in self._lacking.keys() - set(uuids):
            del self._lacking[uuid]

    async def running(self, poll: Poll) -> list[str]:
        """List who runs; raises `Disconnected` where libvirt cannot be reached."""
        return await self._call(replace(poll, monitor=False), self._questions.running)

    async def held(self, poll: Poll, uuids: list[str]) -> None:
        """Pass on whose monitors are waited for, asking no monitor."""
        answer = await self._call(
            replace(poll, monitor=False),
            lambda session: self._questions.held(session, uuids),
        )
        self._take(poll, uuids, answer, 0)

    async def states(self, poll: Poll, uuids: list[str]) -> None:
        """Pass on the states of domains where libvirt has no bulk call for them."""
        try:
            answer = await self._call(
                replace(poll, monitor=False),
                lambda session: self._questions.states(session, uuids),
            )
        except VirtstatdError as error:
            poll.found.fail(error)
        else:
            self._take(poll, uuids, answer, POLLED["state"].bit)

    async def statistics(
        self,
        poll: Poll,
        uuids: list[str] | None,
        bits: int,
        *,
        proven: bool = False,
        tries: int = TRIES,
    ) -> Answer:
        """
        Ask for groups of some domains, or of all, and pass on the answer.

        Raises `Refused`, `Overdue`, `Crowded` or `Disconnected`.
        """

        def question(session: Session) -> Answer:
            if uuids is None:
                return self._questions.everyone(session, bits)
            return self._questions.some(session, bits, uuids)

        answer = await self._call(poll, question, proven=proven, tries=tries)
        self._take(poll, uuids, answer, bits)
        return answer

    def lacks(self, poll: Poll, uuids: set[str]) -> None:
        """Take note of domains that always lack something: their monitors are free."""
        self._lacking |= dict.fromkeys(uuids, poll.bits & (BALLOON | BLOCK))
        for tier in poll.tiers:
            tier.stepped_over -= uuids

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
            if uuid not in answer.partial:
                if self._lacking[uuid] & ~bits == 0:  # it only seemed so
                    del self._lacking[uuid]
            elif (control := answer.partial[uuid]) is None or control[0] == OK:
                del answer.partial[uuid]  # else it is held, whatever it lacks anyway
        idle = {uuid for uuid, control in answer.partial.items() if control and control[0] == OK}
        poll.found.held |= {u for u, c in answer.partial.items() if c is None or not occupied(c)}
        poll.found.idle |= idle
        verdicts: Sequence[Reading] = ()
        if poll.monitor:
            verdicts = self._monitors.judge(
                answer.domains, poll.begun, answer.seen, answer.partial, answer.stalled
            )
        tiers = [tier for tier in poll.tiers if tier.bits & bits or not bits] or poll.tiers[:1]
        judging = next((tier for tier in tiers if tier.monitor), None)
        told = [(reading.domain, reading.shape) for reading in answer.readings if reading.domain]
        lacking = answer.partial.keys() | answer.undecodable.keys()
        for tier in tiers:
            tier.stepped_over -= answer.seen
            tier.stepped_over |= answer.partial.keys() | answer.stalled.keys()
            tier.unanswered.update(uuids or ())
            tier.unanswered -= answer.seen | answer.stalled.keys()
            # a group that nobody asked for can only be one that the catalog does not know
            last = tier is tiers[-1]
            others = frozenset().union(*(t.groups for t in poll.tiers if t is not tier))
            asked = {group.name for group in POLLED.values() if group.bit & bits}
            groups = tier.groups & asked if bits else tier.groups
            readings = [
                r
                for r in answer.readings
                if r.shape.group in tier.groups or (last and r.shape.group not in others)
            ]
            if tier is judging:
                readings += verdicts
                groups |= {"control"}
            slow = self._pace.slow(tier, told, lacking)
            for (rare, slowly), part in _by_pace(readings, slow).items():
                of = {group for group, each in rare if each == slowly} or groups - dict(rare).keys()
                lifetime = slowly or tier.lifetime()
                poll.emit(Batch("bulk", answer.taken_at, tuple(part), frozenset(of), lifetime))


def _by_pace(
    readings: Sequence[Reading], slow: Mapping[str, Mapping[str, float]]
) -> dict[tuple[frozenset[tuple[str, float]], float | None], list[Reading]]:
    """
    Return readings by the slow groups of their guest and by lifetime, None for that of the tier.

    Guests with the same slow groups stay together: a group that a batch names and of which a guest
    has no reading does not exist for that guest.
    """
    if not slow:
        return {(frozenset(), None): list(readings)}
    parts: dict[tuple[frozenset[tuple[str, float]], float | None], list[Reading]] = {}
    rare = {uuid: frozenset(groups.items()) for uuid, groups in slow.items()}
    for reading in readings:
        uuid = reading.domain.uuid if reading.domain else ""
        lifetime = slow.get(uuid, {}).get(reading.shape.group)
        parts.setdefault((rare.get(uuid, frozenset()), lifetime), []).append(reading)
    return parts

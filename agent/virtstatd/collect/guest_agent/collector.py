"""Asks the agents in the guests, one after another, and sends what they say."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.collect.guest_agent.answers import Said
from virtstatd.collect.guest_agent.asking import AgentThread
from virtstatd.collect.guest_agent.balloon import BalloonPeriods
from virtstatd.collect.guest_agent.batches import SOURCE, AgentBatches
from virtstatd.collect.guest_agent.guests import AgentGuest, AgentGuests
from virtstatd.collect.guest_agent.options import GuestAgentOptions
from virtstatd.collect.guest_agent.questions import (
    CPU_QUESTION,
    OFTEN,
    QUESTIONS,
    Question,
    Unanswered,
    answered,
)
from virtstatd.collect.guest_agent.timeouts import ResponseTimeouts
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import Emit, Health, Outcome, Row, Up
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch
from virtstatd.runtime.waiting import first_of


LOOK_SECONDS: Final = 2.0
"""How often descriptions are looked at for agents that came or went."""

RETRY_SECONDS: Final = 15.0
"""Pause after a connection that could not be opened."""

REST_MAX_SECONDS: Final = 0.5
"""A thread that waited for a hung agent has not worked, and others wait for it."""

CLOSE_SECONDS: Final = 1.0

OUTCOMES: Final = ("ok", "refused", "silent", "overdue")


Rest = Callable[[asyncio.Event, float], Awaitable[None]]


async def rest_for(stop: asyncio.Event, seconds: float) -> None:
    """Rest for so long, or until the stop."""
    await first_of(stop, seconds=seconds)


class GuestAgentCollector:
    """
    Ask each guest whose agent is connected, at two intervals, on a thread of its own.

    The thread rests as long as it has worked, so that agents are queried half of the time at most.
    A guest without an answer is queried less and less often, and costs the others no more than the
    limit of one call.
    """

    name = SOURCE

    def __init__(
        self,
        options: GuestAgentOptions,
        hypervisor: Hypervisor,
        catalog: Catalog,
        log: FilteringBoundLogger,
        *,
        thread: AgentThread | None = None,
        clock: Callable[[], float] = time.monotonic,
        rest: Rest = rest_for,
    ) -> None:
        self._options = options
        self._hypervisor = hypervisor
        self._batches = AgentBatches(catalog, options)
        self._log = log
        self._clock = clock
        self._rest = rest
        opener = hypervisor.open_read_write
        self._thread = thread or AgentThread(opener, options.hanging_calls, self.came)
        self._guests = AgentGuests(hypervisor.inventory)
        self._questions = (*((CPU_QUESTION,) if options.cpu else ()), *QUESTIONS)
        self._balloons = BalloonPeriods(options, hypervisor.inventory, self._thread, log, clock)
        self._timeouts = ResponseTimeouts(options, self._thread, log)
        self._health = Health(clock)
        self._calls: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._version: int | None = None
        self._took = 0.0
        self._away = ""
        self._full = False
        self._refused: set[str] = set()

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Ask until `stop`; each new connection may lead to another libvirt."""
        coming, turns = libvirt.coming(), libvirt.turns
        try:
            while not stop.is_set():
                coming.clear()
                if turns != libvirt.turns:
                    turns, self._version = libvirt.turns, None
                pause = await self.ask_due(emit, stop) if libvirt else LOOK_SECONDS
                await first_of(stop, coming, seconds=pause)
        finally:
            await self._thread.close(CLOSE_SECONDS)

    async def once(self, emit: Emit) -> Outcome:
        """Ask each guest once; a host without agents is no failure."""
        self._guests.look(self._clock())
        guests = list(self._guests) if self._options.enabled else []
        try:
            await self._set_balloons(asyncio.Event())
            for guest in guests:
                await self._visit(guest, emit)
        except (Crowded, Disconnected) as error:
            return Outcome(answered=False, reason=str(error))
        finally:
            await self._thread.close(CLOSE_SECONDS)
        if not guests:
            return Outcome(answered=None, reason="no guest's agent is connected")
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield the outcomes of the calls, the guests by state, and what was left out."""
        yield "agent_hanging", {}, self._thread.hanging
        yield "agent_balloons", {}, self._balloons.done
        for outcome, count in self._calls.items():
            yield "agent_calls", {"outcome": outcome}, count
        yield from self._guests.rows()
        yield from self._health.rows(self.name)

    async def ask_due(self, emit: Emit, stop: asyncio.Event) -> float:
        """Ask the guests that are due, and return how long to wait for the next."""
        begun = self._clock()
        for domain in self._guests.look(begun):
            emit(self._batches.gone(domain))
        due = self._guests.due(begun)
        for guest in self._guests.hung(begun):
            guest.silent(begun, self._options.interval_seconds)
            still = self._batches.made(guest, {OFTEN: Said()}, begun, 0.0, time.time_ns())
            self._send(guest, still, emit)
        try:
            await self._set_balloons(stop)
            for guest in due if self._options.enabled else ():
                if stop.is_set() or self._clock() - begun >= LOOK_SECONDS:
                    return 0.0
                await self._visit(guest, emit)
                await self._rest(stop, self._took)
        except (Crowded, Disconnected) as error:
            self._health.ended(begun, good=False)
            self._hinder(error)
            return RETRY_SECONDS if isinstance(error, Disconnected) else LOOK_SECONDS
        if self._full and not self._thread.full:
            self._full = False
            self._log.info("guest_agent.asking")
        ahead = self._guests.next_at(begun + LOOK_SECONDS) - self._clock()
        return min(LOOK_SECONDS, max(0.0, ahead))

    async def _visit(self, guest: AgentGuest, emit: Emit) -> None:
        """Ask a guest what is due, and send its answers; raises where no guest can be queried."""
        now, taken_at = self._clock(), time.time_ns()
        guest.asked_at = now
        version = await self._opened()
        await self._timeouts.put(guest)
        often, seldom = guest.often_at <= now, guest.seldom_at <= now
        late = now - guest.due
        options = self._options
        of: dict[str, Said] = {}
        for question in self._questions:
            due = often if question.often else seldom
            if not due or version < question.since or not guest.asks(question, now):
                continue
            said = await self._ask(guest, question, version)
            if said is None:
                break
            of.setdefault(question.group, Said()).add(said)
        else:
            if often:
                guest.often_at = now + options.interval_seconds
            if seldom:
                guest.seldom_at = now + options.filesystems_interval_seconds
            self._answers(guest)
        if often or guest.failures:
            of.setdefault(OFTEN, Said())
        self._send(guest, self._batches.made(guest, of, now, late, taken_at), emit)
        self._took = min(self._clock() - now, REST_MAX_SECONDS)
        self._health.ended(now, good=True)

    def came(self, uuid: str) -> None:
        """Ask a guest soon: an agent has opened its channel."""
        self._guests.came(uuid, self._clock())

    async def _set_balloons(self, stop: asyncio.Event) -> None:
        if self._options.set_balloon_period and self._guests.unreported:
            await self._opened()
            await self._balloons.put(self._guests.unreported, stop)

    def _send(self, guest: AgentGuest, batches: Iterable[Batch], emit: Emit) -> None:
        if self._guests.runs(guest):
            for batch in batches:
                emit(batch)

    async def _opened(self) -> int:
        """Return libvirt's version, asked for at each new connection."""
        if self._version is None or self._away:
            seconds = self._hypervisor.deadline_seconds
            try:
                self._version = await self._thread.ask(_version, seconds)
            except (Overdue, Refused) as error:
                raise Disconnected(str(error)) from error
            self._log.info("guest_agent.opened")
            self._away = ""
        return self._version

    async def _ask(self, guest: AgentGuest, question: Question, version: int) -> Said | None:
        """Return what a guest says, nothing for a refusal, None where the guest is silent."""
        call = partial(answered, guest.domain.uuid, question, version)
        try:
            answer = await self._thread.ask(call, self._options.limit_seconds)
            if isinstance(answer, Unanswered):
                return self._unanswered(guest, question, answer)
            said = question.said(answer, self._options.devices_per_guest)
        except Overdue as error:
            self._calls["overdue"] += 1
            guest.hanging = self._thread.left
            self._silent(guest, str(error))
            return None
        except VirtstatdError:
            raise
        except Exception as error:  # noqa: BLE001 - what guests say may be anything
            answer = Unanswered(f"{type(error).__name__}: {error}", silent=False)
            return self._unanswered(guest, question, answer)
        self._calls["ok"] += 1
        return said

    def _unanswered(self, guest: AgentGuest, question: Question, answer: Unanswered) -> Said | None:
        if answer.silent:
            self._calls["silent"] += 1
            self._silent(guest, answer.reason)
            return None
        self._calls["refused"] += 1
        guest.refuses(question, self._clock())
        if question.name not in self._refused:
            self._refused.add(question.name)
            self._log.info(
                "guest_agent.refused",
                question=question.name,
                domain=guest.domain.name,
                reason=answer.reason,
            )
        return Said()

    def _silent(self, guest: AgentGuest, reason: str) -> None:
        if not guest.failures:
            self._log.info("guest_agent.silent", **guest.known, reason=reason)
        guest.silent(self._clock(), self._options.interval_seconds)

    def _answers(self, guest: AgentGuest) -> None:
        if guest.failures:
            guest.failures = 0
            self._log.info("guest_agent.answers", **guest.known)

    def _hinder(self, error: VirtstatdError) -> None:
        """Log once why no guest can be queried."""
        if isinstance(error, Crowded):
            if not self._full:
                self._full = True
                self._log.warning("guest_agent.crowded", reason=str(error))
        elif not self._away:
            self._away = str(error) or "unknown"
            self._log.warning("guest_agent.unavailable", reason=str(error))


def _version(session: Session) -> int:
    """Return the version of libvirt's daemon; runs on the thread."""
    return int(session.connection.getLibVersion())


def guest_agent(options: GuestAgentOptions, parts: Parts) -> GuestAgentCollector | None:
    """Build the collector, None if it is not enabled: then no connection is opened."""
    if not options.enabled and not options.set_balloon_period:
        return None
    return GuestAgentCollector(options, parts.hypervisor, parts.catalog, parts.log)


def _note(options: GuestAgentOptions) -> str:
    opens = "opens a read-write connection to libvirt, "
    if options.set_balloon_period:
        return f"{opens}and sets balloon periods of guests"
    if options.response_timeout_seconds and options.enabled:
        return f"{opens}and sets timeouts of guests' agents"
    return f"{opens}which could change guests; it never does" if options.enabled else ""


KIND: Final = CollectorKind(SOURCE, guest_agent, "guest_agent", GuestAgentOptions, _note)

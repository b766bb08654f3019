"""Read the XML and the limits of domains, once per change and rarely otherwise."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import libvirt
from structlog.typing import FilteringBoundLogger

from virtstatd.collect.descriptions.limits import Parameters, Tunables, parameters
from virtstatd.collect.descriptions.metadata import MetadataOptions
from virtstatd.collect.descriptions.xml import Describer, Undescribable, parsed_xml
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import Emit, Health, Outcome, Row, Up
from virtstatd.errors import Crowded, Disconnected, Overdue, VirtstatdError
from virtstatd.hypervisor.faults import Gone, translated
from virtstatd.hypervisor.held import is_held
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Domain, Reading
from virtstatd.runtime.waiting import first_of


EMIT_SECONDS = 60.0
"""How often the descriptions are sent, changed or not, because readings expire."""

HELD_SECONDS = 15.0
"""Pause before a domain that could not be described is tried again, unless a call returns."""

LIMITS = ("cputune", "memtune", "blkiotune", "numatune")
"""The XML elements with limits; a change by libvirt's own calls shows there."""

LIMITS_SECONDS = 0.5
"""Minimum time between the limits of two domains."""

LIMITS_SHARE = 0.1
"""
The share of the cost budget for reading limits until those of all domains are read.

The duration of the calls stands for their cost: either libvirtd or the agent works meanwhile.
"""

LIMITS_AGAIN_SECONDS = 3600.0
"""Interval of reading unchanged limits again: other programs than libvirt write to cgroups too."""

TURN_DOMAINS = 10
"""Domains per turn of a lane; a turn costs more than a call, but XML may have megabytes."""

CHANGES_SECONDS = 1.0
"""Minimum time between two sendings of changes; changes within it are sent together."""

TOGETHER_SECONDS = 15.0
"""The same for limits only, while more of them wait; XML is read again at multiples of it."""

AGAIN_SECONDS = 600.0
"""Maximum time until a domain's XML is read again: no event reports a changed memory limit."""

T = TypeVar("T")
_Fault = VirtstatdError | Undescribable


@dataclass(slots=True)
class _Guest:
    """
    What is known of one incarnation.

    `text` is the hash of its XML, `limits` the XML's elements about them; `again_at` is when the
    XML is read again, `waits` the place in the queue for limits, 0 outside of it. A guest is `held`
    if libvirt could not describe it now; `hangs` is the turn whose call hangs for it, if any.
    """

    domain: Domain
    text: int | None = None
    limits: str = ""
    limits_at: float = -math.inf
    again_at: float = math.inf
    waits: int = 0
    changed: bool = False
    failed: bool = False
    held: bool = False
    hangs: _Turn | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """The content of one domain's XML; no readings if the text is unchanged."""

    text: int
    limits: str = ""
    readings: tuple[Reading, ...] | None = None


@dataclass(slots=True)
class _Turn:
    """
    One turn of a lane, filled while it runs, so that answers before a call that hangs are kept.

    `asking` is the domain that is read now; no other follows once the turn was `given_up`, and
    `over` says that its last call has returned.
    """

    answers: dict[str, _Answer | _Fault] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    asking: str = ""
    given_up: bool = False
    over: bool = False


class DescriptionReader:
    """
    Read the XML and the limits of each domain once per change, and rarely otherwise; send them.

    Some domains at a time and independently of polls: a domain whose XML cannot be read keeps its
    numbers. While calls hang in libvirt, domains whose monitor may be the reason are skipped, all
    others are read. Limits cost libvirt forty times as much as the XML. So they are read slowly,
    the latest change first, and only if the XML shows a change, or once an hour.

    `allowed` is what monitoring may cost in CPU seconds per second, infinite without a budget.
    """

    name = "descriptions"

    def __init__(
        self,
        inventory: Inventory,
        lanes: Lanes,
        describer: Describer,
        tunables: Tunables,
        log: FilteringBoundLogger,
        deadline_seconds: float,
        allowed: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reads = 0
        self.failures = 0
        self._guests: dict[str, _Guest] = {}
        self._queued = 0
        self._news = False
        self._all_sent_at = self._sent_at = self._limits_at = -EMIT_SECONDS
        self._inventory = inventory
        self._lanes = lanes
        self._describer = describer
        self._tunables = tunables
        self._log = log
        self._deadline = deadline_seconds
        self._wake = asyncio.Event()
        self._health = Health(clock)
        self._error = ""
        self._limits_rate = LIMITS_SHARE * allowed
        self._clock = clock

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Read and send until `stop`; while libvirt is unavailable, send what is known."""
        loop = asyncio.get_running_loop()
        self._inventory.on_stale(lambda: loop.call_soon_threadsafe(self._wake.set))
        self._lanes.on_return(self._returned)
        libvirt.coming(self._wake)
        turns = libvirt.turns
        while not stop.is_set():
            self._wake.clear()
            self._look_again()
            if libvirt:
                await self.read_all(stop)
            now = self._clock()
            if libvirt and now >= self._limits_due():
                self._limits_at = now + await self.tune(stop, TURN_DOMAINS)
            if now >= self._all_sent_at + EMIT_SECONDS or turns != libvirt.turns:
                self._all_sent_at = self._sent_at = now
                turns = libvirt.turns
                self.send(emit)
            elif now >= self._changes_due():
                self._sent_at = now
                self.send(emit, {uuid for uuid, guest in self._guests.items() if guest.changed})
            due = self._due() if libvirt else self._all_sent_at + EMIT_SECONDS
            await first_of(stop, self._wake, seconds=max(0.0, due - self._clock()))

    async def once(self, emit: Emit) -> Outcome:
        """Read the XML and the limits of every domain once and send them."""
        stop = asyncio.Event()
        self._error = ""
        await self.read_all(stop)
        await self.tune(stop, len(self._inventory))
        self.send(emit)
        if self._error and not self._inventory.descriptions():
            return Outcome(answered=False, reason=self._error)
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield how many descriptions were read."""
        yield "xml_reads", {}, self.reads
        yield from self._health.rows(self.name)

    def _waiting(self) -> list[_Guest]:
        return [guest for guest in self._guests.values() if guest.waits]

    def _limits_due(self) -> float:
        return self._limits_at if self._waiting() else math.inf

    def _changes_due(self) -> float:
        if not any(guest.changed for guest in self._guests.values()):
            return math.inf
        alone = self._waiting() and not self._news
        return self._sent_at + (TOGETHER_SECONDS if alone else CHANGES_SECONDS)

    def _due(self) -> float:
        """Return when the next work is due, if no domain changes before."""
        again = min((guest.again_at for guest in self._guests.values()), default=math.inf)
        every = self._all_sent_at + EMIT_SECONDS
        return min(again, every, self._limits_due(), self._changes_due())

    async def read_all(self, stop: asyncio.Event) -> None:
        """Read what has changed, except what libvirt cannot report now."""
        while not stop.is_set() and (domains := self._inventory.take_stale(TURN_DOMAINS)):
            guests = {domain.uuid: self._guest(domain) for domain in domains}
            asked = [uuid for uuid, guest in guests.items() if not self._hangs(guest)]
            turn, lacking = await self._turn(guests, asked) if asked else (_Turn(), None)
            for uuid, guest in guests.items():
                guest.held = uuid not in turn.answers
                if not guest.held:
                    self._take(guest, turn.answers[uuid])
                elif isinstance(lacking, Overdue) and uuid in asked and uuid not in turn.held:
                    self._interrupted(guest, turn)
                else:
                    guest.again_at = self._clock() + HELD_SECONDS
                if guest.held:
                    self._inventory.describe(guest.domain, None)
            if isinstance(lacking, Crowded | Disconnected):
                return

    async def _turn(
        self, guests: Mapping[str, _Guest], asked: Sequence[str]
    ) -> tuple[_Turn, VirtstatdError | None]:
        """Read domains; return the answers, and the reason if some are missing."""
        begun, failures = self._clock(), self.failures
        turn = _Turn()
        known = {uuid: guests[uuid] for uuid in asked}
        question = partial(self._read, turn, known, careful=self._lanes.stuck > 0)
        fault: VirtstatdError | None = None
        try:
            await self._ask(question)
        except (Crowded, Disconnected, Overdue) as error:
            fault = error
            self._error = str(error)
        except VirtstatdError as error:
            turn.answers |= {u: error for u in asked if u not in turn.answers}
        finally:
            turn.given_up = True
        self._health.ended(begun, good=fault is None and self.failures == failures)
        return turn, fault

    def _interrupted(self, guest: _Guest, turn: _Turn) -> None:
        """Schedule a domain again: immediately, unless it is the one for which the turn hangs."""
        if guest.domain.uuid == turn.asking:
            guest.hangs = turn
            guest.again_at = self._clock() + HELD_SECONDS
        else:
            self._inventory.change(guest.domain.uuid)

    def _read(
        self, turn: _Turn, guests: Mapping[str, _Guest], session: Session, *, careful: bool
    ) -> None:
        """Get the XML of domains, one by one, and parse it; runs on a lane."""
        try:
            for uuid, guest in guests.items():
                if turn.given_up:
                    return
                turn.asking = uuid
                try:
                    handle = session.domain(uuid)
                    if careful and is_held(handle):  # libvirt 11 queries the monitor for it
                        turn.held.add(uuid)
                        continue
                    turn.answers[uuid] = self._described(guest, str(handle.XMLDesc(0)))
                except libvirt.libvirtError as error:
                    if not session.connection.isAlive():
                        raise
                    turn.answers[uuid] = translated(error, alive=True)
                except Undescribable as error:
                    turn.answers[uuid] = error
        finally:
            turn.over = True

    def _described(self, guest: _Guest, xml: str) -> _Answer:
        text = hash(xml)  # seeded per process: a guest's owner cannot make two texts collide
        if text == guest.text:
            return _Answer(text)
        root = parsed_xml(xml)
        elements = (element for name in LIMITS for element in root.iterfind(name))
        limits = "".join(ET.tostring(element, "unicode") for element in elements)
        return _Answer(text, limits, self._describer.readings(guest.domain, root))

    async def tune(self, stop: asyncio.Event, most: int) -> float:
        """
        Read the limits of so many domains; if that fails, again when the domain is due.

        Returns the seconds until the next ones may be read.
        """
        asked, seconds = 0, 0.0
        while asked < most and not stop.is_set():
            size = min(most - asked, TURN_DOMAINS)
            guests = heapq.nlargest(size, self._waiting(), key=lambda guest: guest.waits)
            if not guests:
                break
            asked += len(guests)
            places = [guest.waits for guest in guests]
            answers: Sequence[Parameters | VirtstatdError]
            for guest in guests:
                guest.waits = 0
            try:
                question = partial(_each, [g.domain.uuid for g in guests], parameters)
                answers, took = await self._ask(partial(self._timed, question))
                seconds += took
            except (Crowded, Disconnected):
                for guest, place in zip(guests, places, strict=True):
                    guest.waits = guest.waits or place
                break
            except VirtstatdError as error:
                answers = [error] * len(guests)
            for guest, of in zip(guests, answers, strict=True):
                if isinstance(of, VirtstatdError):
                    guest.limits_at = -math.inf
                    continue
                self._inventory.tune(guest.domain, self._tunables.readings(guest.domain, of))
                guest.changed = True
        return max(asked * LIMITS_SECONDS, seconds / self._limits_rate)

    def _timed(self, question: Callable[[Session], T], session: Session) -> tuple[T, float]:
        begun = self._clock()
        return question(session), self._clock() - begun

    def send(self, emit: Emit, of: Collection[str] | None = None) -> None:
        """Send the known descriptions of all domains or of some."""
        readings = self._inventory.descriptions(of)
        self._news = False
        for guest in self._guests.values():
            guest.changed = False
        emit(
            Batch(
                source="inventory",
                taken_at=time.time_ns(),
                readings=readings,
                groups=frozenset({"domain", "tunable"}),
                lifetime_seconds=2 * EMIT_SECONDS,
            )
        )

    async def _ask(self, question: Callable[[Session], T]) -> T:
        return await self._lanes.run(question, self._deadline, monitor=True, patient=True)

    def _guest(self, domain: Domain) -> _Guest:
        """Return what is known of an incarnation."""
        known = self._guests.get(domain.uuid)
        if known is None or known.domain is not domain:
            known = self._guests[domain.uuid] = _Guest(domain)
        known.again_at = math.inf
        return known

    def _take(self, guest: _Guest, answer: _Answer | _Fault) -> None:
        if isinstance(answer, Gone):
            return  # it has ended, which the inventory finds out
        self.reads += 1
        due = self._clock() + AGAIN_SECONDS * random.uniform(0.5, 1)  # noqa: S311 - jitter
        guest.again_at = due - due % TOGETHER_SECONDS
        if not isinstance(answer, _Answer):
            self.failures += 1
            self._error = str(answer)
            self._inventory.describe(guest.domain, None)
            self._queue(guest)
            if not guest.failed:
                guest.failed = True
                self._log.warning(
                    "domain.undescribed",
                    domain=guest.domain.name,
                    uuid=guest.domain.uuid,
                    reason=str(answer),
                )
            return
        guest.failed = False
        if answer.readings is not None:
            self._inventory.describe(guest.domain, answer.readings)
            guest.text = answer.text
            guest.changed = self._news = True
            if guest.limits != answer.limits:
                guest.limits, guest.limits_at = answer.limits, -math.inf
        if self._inventory.get(guest.domain.uuid) is None:
            guest.again_at = math.inf  # nothing but a change may have it monitored
            guest.waits = 0
        elif self._clock() - guest.limits_at >= LIMITS_AGAIN_SECONDS:
            guest.limits_at = self._clock()
            self._queue(guest)

    def _queue(self, guest: _Guest) -> None:
        """Queue a domain that is monitored for reading its limits, before all that wait."""
        if self._inventory.get(guest.domain.uuid) is None:
            return
        self._queued += 1
        guest.waits = self._queued

    def _hangs(self, guest: _Guest) -> bool:
        """Return whether a call of this collector still hangs for a domain."""
        if guest.hangs is not None and guest.hangs.over:
            guest.hangs = None
        return guest.hangs is not None

    def _returned(self) -> None:
        """Schedule held domains again: a call that hung has returned."""
        for guest in self._guests.values():
            if guest.held:
                guest.again_at = -math.inf
        self._wake.set()

    def _look_again(self) -> None:
        """Schedule domains that are due, and forget those that have ended."""
        now = self._clock()
        for uuid, guest in list(self._guests.items()):
            if self._inventory.described_as(uuid) is not guest.domain:
                del self._guests[uuid]
            elif guest.again_at <= now:
                guest.again_at = math.inf
                self._inventory.change(uuid)


def _each(
    uuids: Sequence[str], ask: Callable[[libvirt.virDomain], T], session: Session
) -> list[T | VirtstatdError]:
    """Return for each domain its answer or libvirt's error."""
    answers: list[T | VirtstatdError] = []
    for uuid in uuids:
        try:
            answers.append(ask(session.domain(uuid)))
        except libvirt.libvirtError as error:
            if not session.connection.isAlive():
                raise
            answers.append(translated(error, alive=True))
    return answers


def descriptions(options: MetadataOptions, parts: Parts) -> DescriptionReader:
    """Build the collector of descriptions and limits."""
    return DescriptionReader(
        parts.hypervisor.inventory,
        parts.hypervisor.lanes,
        Describer(parts.catalog, options),
        Tunables(parts.catalog),
        parts.log,
        parts.hypervisor.deadline_seconds,
        parts.allowed,
    )


KIND: Final = CollectorKind(DescriptionReader.name, descriptions, "metadata", MetadataOptions)

"""When domains are described: their XML and their limits, read once per change and rarely else."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import libvirt
from structlog.typing import FilteringBoundLogger

from virtstatd.collect.descriptions.limits import Parameters, Tunables, parameters
from virtstatd.collect.descriptions.xml import Describer, Undescribable, parsed_xml
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import Emit, Health, Outcome, Row, Up
from virtstatd.errors import Crowded, Disconnected, Overdue, VirtstatdError
from virtstatd.hypervisor.faults import translated
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Domain
from virtstatd.runtime.waiting import first_of


EMIT_SECONDS = 60.0
"""How often the descriptions are sent, changed or not: a reading does not live for ever."""

PAUSE_SECONDS = 0.1
"""Until it is tried again to read what libvirt cannot tell now."""

LIMITS = ("cputune", "memtune", "blkiotune", "numatune")
"""What the XML says of them; a change by libvirt's own calls shows there."""

LIMITS_SECONDS = 0.5
"""From one domain's limits to the next one's, at the fastest."""

LIMITS_SHARE = 0.1
"""
The part of the cost budget that they may take until those of all domains are read.

How long the calls take stands for their cost: libvirtd and we work by turns meanwhile.
"""

LIMITS_AGAIN_SECONDS = 3600.0
"""When they are read again all the same: others than libvirt write to cgroups too."""

TURN_DOMAINS = 10
"""Asked for in one turn of a lane, which costs more than a call; XML may bring megabytes."""

CHANGES_SECONDS = 1.0
"""How often changes are sent at most; those that come together travel together."""

TOGETHER_SECONDS = 15.0
"""The same of limits alone while more of them wait; XML is read again at multiples of it."""

AGAIN_SECONDS = 600.0
"""When a domain's XML is read again at the latest: of a changed memory limit no event tells."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of an incarnation: its XML, what that says of limits, and when those were."""

    domain: Domain
    xml: int
    limits: str
    tuned_at: float


class DescriptionReader:
    """
    Read the XML and the limits of each domain once per change, and rarely else; send them.

    Some domains at a time and never on the way of a poll: one whose XML cannot be had keeps its
    numbers. Limits cost libvirt forty times as much as the XML. So they are read at leisure, the
    latest change first, and only when the XML says that they have changed, or seldom.

    `allowed` is what monitoring may cost in CPU seconds per second, infinite where there is no
    budget.
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
        self._undescribed: set[str] = set()
        self._untuned: dict[str, Domain] = {}
        self._known: dict[str, _Known] = {}
        self._changed: set[str] = set()
        self._news = False
        self._all_sent_at = self._sent_at = self._tuned_until = -EMIT_SECONDS
        self._again: list[tuple[float, str]] = []
        self._expected: set[str] = set()
        self._inventory = inventory
        self._lanes = lanes
        self._describer = describer
        self._tunables = tunables
        self._log = log
        self._deadline = deadline_seconds
        self._stale = asyncio.Event()
        self._health = Health(clock)
        self._error = ""
        self._limits_rate = LIMITS_SHARE * allowed
        self._clock = clock

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Read and send until `stop`; while libvirt is away, send what is known."""
        loop = asyncio.get_running_loop()
        self._inventory.on_stale(lambda: loop.call_soon_threadsafe(self._stale.set))
        libvirt.coming(self._stale)
        turns = libvirt.turns
        while not stop.is_set():
            self._stale.clear()
            self._look_again()
            done = await self.read_all(stop) if libvirt else True
            now = self._clock()
            if libvirt and now >= self._limits_due():
                self._tuned_until = now + await self.tune(stop, TURN_DOMAINS)
            if now >= self._all_sent_at + EMIT_SECONDS or turns != libvirt.turns:
                self._all_sent_at = self._sent_at = now
                turns = libvirt.turns
                self.send(emit)
            elif now >= self._changes_due():
                self._sent_at = now
                self.send(emit, self._changed)
            if done:
                due = self._due() if libvirt else self._all_sent_at + EMIT_SECONDS
                await first_of(stop, self._stale, seconds=max(0.0, due - self._clock()))
            else:
                await first_of(stop, seconds=PAUSE_SECONDS)

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

    def _limits_due(self) -> float:
        return self._tuned_until if self._untuned else math.inf

    def _changes_due(self) -> float:
        if not self._changed:
            return math.inf
        alone = self._untuned and not self._news
        return self._sent_at + (TOGETHER_SECONDS if alone else CHANGES_SECONDS)

    def _due(self) -> float:
        """Return when there is something to do, if nobody changes before."""
        again = self._again[0][0] if self._again else math.inf
        every = self._all_sent_at + EMIT_SECONDS
        return min(again, every, self._limits_due(), self._changes_due())

    async def read_all(self, stop: asyncio.Event) -> bool:
        """Read what has changed; return whether that was all."""
        while not stop.is_set() and not self._lanes.stuck:  # libvirt 11 asks the monitor for it
            domains = self._inventory.take_stale(TURN_DOMAINS)
            if not domains:
                return True
            answers: Sequence[str | VirtstatdError]
            begun, failures = self._clock(), self.failures
            try:
                answers = await self._ask(partial(_each, [d.uuid for d in domains], _xml))
            except (Crowded, Disconnected, Overdue) as error:
                self._error = str(error)
                self._health.ended(begun, good=False)
                for domain in domains:
                    self._inventory.change(domain.uuid)
                return False
            except VirtstatdError as error:
                answers = [error] * len(domains)
            for domain, answer in zip(domains, answers, strict=True):
                self._take(domain, answer)
            self._health.ended(begun, good=self.failures == failures)
        return False

    async def tune(self, stop: asyncio.Event, most: int) -> float:
        """
        Read the limits of so many domains; where that fails, again when the domain is due.

        Returns for how many seconds that is enough.
        """
        asked, seconds = 0, 0.0
        while asked < most and self._untuned and not stop.is_set():
            number = min(most - asked, TURN_DOMAINS, len(self._untuned))
            domains = [self._untuned.popitem()[1] for _ in range(number)]
            asked += number
            answers: Sequence[Parameters | VirtstatdError]
            try:
                question = partial(_each, [d.uuid for d in domains], parameters)
                answers, took = await self._ask(partial(self._timed, question))
                seconds += took
            except (Crowded, Disconnected):
                self._untuned.update((domain.uuid, domain) for domain in reversed(domains))
                break
            except VirtstatdError as error:
                answers = [error] * number
            for domain, of in zip(domains, answers, strict=True):
                if isinstance(of, VirtstatdError):
                    self._known.pop(domain.uuid, None)
                    continue
                self._inventory.tune(domain, self._tunables.readings(domain, of))
                self._changed.add(domain.uuid)
        return max(asked * LIMITS_SECONDS, seconds / self._limits_rate)

    def _timed(self, question: Callable[[Session], T], session: Session) -> tuple[T, float]:
        begun = self._clock()
        return question(session), self._clock() - begun

    def send(self, emit: Emit, of: Collection[str] | None = None) -> None:
        """Send the descriptions as they are known, of all domains or of some."""
        readings = self._inventory.descriptions(of)
        self._changed, self._news = set(), False
        for uuid, known in list(self._known.items()):
            if self._inventory.get(uuid) is not known.domain:
                del self._known[uuid]
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

    def _take(self, domain: Domain, answer: str | VirtstatdError) -> None:
        try:
            if isinstance(answer, VirtstatdError):
                raise answer
            self._describe(domain, answer)
        except (VirtstatdError, Undescribable) as error:
            self.failures += 1
            self._error = str(error)
            self._untuned[domain.uuid] = domain
            if domain.uuid not in self._undescribed:
                self._undescribed.add(domain.uuid)
                self._log.warning("domain.undescribed", uuid=domain.uuid, reason=str(error))
        self.reads += 1
        self._expect(domain.uuid)

    def _describe(self, domain: Domain, xml: str) -> None:
        """Keep what the XML says; have the limits read where they changed, or that is long ago."""
        before, now = self._known.get(domain.uuid), self._clock()
        known = before if before is not None and before.domain is domain else None
        text = hash(xml)  # keyed anew in each process: no guest's owner finds another of the same
        limits = known.limits if known else ""
        if known is None or known.xml != text:
            root = parsed_xml(xml)
            self._inventory.describe(domain, self._describer.readings(domain, root))
            self._changed.add(domain.uuid)
            self._news = True
            elements = (element for name in LIMITS for element in root.iterfind(name))
            limits = "".join(ET.tostring(element, "unicode") for element in elements)
        tuned_at = known.tuned_at if known and known.limits == limits else -math.inf
        if now - tuned_at >= LIMITS_AGAIN_SECONDS:
            tuned_at = now
            self._untuned.pop(domain.uuid, None)  # to be the latest
            self._untuned[domain.uuid] = domain
        self._known[domain.uuid] = _Known(domain, text, limits, tuned_at)

    def _expect(self, uuid: str) -> None:
        """Have a domain read again after a while, each at its own time."""
        if uuid not in self._expected:
            self._expected.add(uuid)
            due = self._clock() + AGAIN_SECONDS * random.uniform(0.5, 1)  # noqa: S311 - jitter
            due -= due % TOGETHER_SECONDS
            heapq.heappush(self._again, (due, uuid))

    def _look_again(self) -> None:
        """Ask for what is due; a domain that has ended is forgotten by it."""
        while self._again and self._again[0][0] <= self._clock():
            _, uuid = heapq.heappop(self._again)
            self._expected.discard(uuid)
            self._inventory.change(uuid)


def _each(
    uuids: Sequence[str], ask: Callable[[libvirt.virDomain], T], session: Session
) -> list[T | VirtstatdError]:
    """Return what each tells, or what libvirt has against it."""
    answers: list[T | VirtstatdError] = []
    for uuid in uuids:
        try:
            answers.append(ask(session.domain(uuid)))
        except libvirt.libvirtError as error:
            if not session.connection.isAlive():
                raise
            answers.append(translated(error, alive=True))
    return answers


def _xml(handle: libvirt.virDomain) -> str:
    return str(handle.XMLDesc(0))


def descriptions(parts: Parts) -> DescriptionReader:
    """Build the collector of descriptions and limits."""
    return DescriptionReader(
        parts.hypervisor.inventory,
        parts.hypervisor.lanes,
        Describer(parts.catalog),
        Tunables(parts.catalog),
        parts.log,
        parts.hypervisor.deadline_seconds,
        parts.allowed,
    )


KIND: Final = CollectorKind(DescriptionReader.name, descriptions)

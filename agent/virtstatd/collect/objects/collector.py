"""
Pools, networks and the like: a list of them, and the facts of each, independently of the others.

Libvirt's list waits for each object's lock, which a pool keeps while its storage hangs. So known
objects are queried one at a time, whether the list answers or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import libvirt
from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.collector import LIFETIME_INTERVALS, Emit, Health, Outcome, Row, Up
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.aside import Aside
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch, Labels, Number, Reading, Shape
from virtstatd.runtime.waiting import first_of


T = TypeVar("T")

ABSENT: Final = (
    "not supported by the connection driver",
    "no connection driver available",
    "failed to connect socket",
)
"""How libvirt says that a host has no such driver, or no such daemon."""

LIST: Final = "list"
"""The key of the call that lists all objects."""

Item = tuple[str, Labels]
"""A key of the catalog's group, and the labels besides the object's name."""


@dataclass(slots=True)
class ObjectFacts:
    """What libvirt said of one object, and why not the rest."""

    numbers: dict[Item, Number] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def ask(self, what: str, question: Callable[[], T]) -> T | None:
        """Ask for one fact; one that is refused costs itself alone."""
        try:
            return question()
        except libvirt.libvirtError as error:
            self.refused[what] = error.get_error_message() or str(error)
            return None

    def take(self, key: str, question: Callable[[], int]) -> None:
        """Ask for a number."""
        number = self.ask(key, question)
        if number is not None and number >= 0:
            self.numbers[key, ()] = int(number)


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """
    A kind of object: the collector's name, the catalog's group, and how libvirt is queried.

    `label` holds an object's name. `listed` returns names by UUID, `read` the facts of one, None if
    it has gone; both run on a thread. `added` returns what the agent knows of it itself.
    """

    name: str
    group: str
    label: str
    listed: Callable[[libvirt.virConnect], Mapping[str, str]]
    read: Callable[[libvirt.virConnect, str], ObjectFacts | None]
    added: Callable[[Mapping[str, ObjectFacts], Mapping[str, str]], None] = lambda *_: None


class ObjectCollector:
    """Ask for all objects of a kind on an interval; one that hangs costs itself alone."""

    def __init__(
        self,
        kind: ObjectKind,
        catalog: Catalog,
        aside: Aside,
        log: FilteringBoundLogger,
        *,
        interval_seconds: float,
        deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = kind.name
        self._kind = kind
        self._catalog = catalog
        self._aside = aside
        self._log = log
        self._interval = interval_seconds
        self._deadline = deadline_seconds
        self._clock = clock
        self._health = Health(clock)
        self._names: dict[str, str] = {}
        self._hung: set[str] = set()
        self._reported: set[tuple[str, str]] = set()
        self._keys = [line.key for line in catalog.fields if line.group == kind.group]
        self._shape: tuple[tuple[tuple[str, Labels], ...], Shape] | None = None

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Ask until `stop`; after a connect at once, since it may be another libvirt."""
        coming, turns = libvirt.coming(), libvirt.turns
        while not stop.is_set():
            coming.clear()
            begun = self._clock()
            if turns != libvirt.turns:
                turns = libvirt.turns
                self._reported.clear()
            if libvirt:
                await self.once(emit)
            await first_of(stop, coming, seconds=max(0.0, begun + self._interval - self._clock()))

    async def once(self, emit: Emit) -> Outcome:
        """Ask for each object once."""
        begun, taken_at = self._clock(), time.time_ns()
        try:
            good = await self._list()
            found, all_answered = await self._read_all()
        except Disconnected as error:
            self._health.ended(begun, good=False)
            return Outcome(answered=None, reason=str(error))
        except VirtstatdError as error:
            self._report(LIST, str(error))
            absent = any(text in str(error).casefold() for text in ABSENT)
            if not absent:
                self._health.ended(begun, good=False)
            return Outcome(answered=None if absent else False, reason=str(error))
        finally:
            self._aside.release()
        self._health.ended(begun, good=good and all_answered)
        self._kind.added(found, self._names)
        emit(
            Batch(
                source=self.name,
                taken_at=taken_at,
                readings=(self._reading(found),),
                lifetime_seconds=LIFETIME_INTERVALS * self._interval,
            )
        )
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield how the rounds went."""
        yield from self._health.rows(self.name)

    async def _list(self) -> bool:
        """List the objects; return False if those of an earlier list stand for it."""
        try:
            self._names = dict(
                await self._aside.ask(
                    LIST, lambda session: self._kind.listed(session.connection), self._deadline
                )
            )
        except (Overdue, Crowded):
            if not self._names:
                raise
            return False
        return True

    async def _read_all(self) -> tuple[dict[str, ObjectFacts], bool]:
        """Return the facts by UUID, and whether each object answered."""
        found: dict[str, ObjectFacts] = {}
        good = True
        for uuid, name in list(self._names.items()):
            try:
                facts = await self._read_one(uuid, name)
            except Crowded:
                good = False
                continue
            except Refused as error:
                good = False
                self._report(name, str(error))
                continue
            if facts is None:
                del self._names[uuid]
                continue
            good = good and uuid not in self._hung
            found[uuid] = facts
            for what, reason in facts.refused.items():
                self._report(what, reason)
        self._hung &= self._names.keys()
        return found, good

    async def _read_one(self, uuid: str, name: str) -> ObjectFacts | None:
        """Return the facts of an object, if it hangs no others than that; None if it has gone."""
        try:
            facts = await self._aside.ask(uuid, partial(self._read, uuid), self._deadline)
        except Overdue as error:
            facts = ObjectFacts()
            if uuid not in self._hung:
                self._log.warning("object.hung", of=self._kind.label, name=name, reason=str(error))
            self._hung.add(uuid)
        else:
            if uuid in self._hung:
                self._hung.discard(uuid)
                self._log.info("object.answered", of=self._kind.label, name=name)
        if facts is not None:
            facts.numbers["timed_out", ()] = int(uuid in self._hung)
        return facts

    def _read(self, uuid: str, session: Session) -> ObjectFacts | None:
        return self._kind.read(session.connection, uuid)

    def _report(self, what: str, reason: str) -> None:
        """Report once what libvirt refuses."""
        if (what, reason) not in self._reported:
            self._reported.add((what, reason))
            self._log.info("objects.refused", of=self._kind.label, what=what, reason=reason)

    def _reading(self, found: Mapping[str, ObjectFacts]) -> Reading:
        """Return the numbers of all objects, those of one metric together."""
        rows: list[tuple[str, Labels, Number]] = [("count", (), len(self._names))]
        rows += [
            (key, ((self._kind.label, self._names[uuid]), *labels), number)
            for uuid, facts in found.items()
            for (key, labels), number in facts.numbers.items()
        ]
        rows.sort(key=lambda row: self._keys.index(row[0]))
        items = tuple((key, labels) for key, labels, _ in rows)
        if self._shape is None or self._shape[0] != items:
            self._shape = items, self._catalog.shape(self._kind.group, items)
        return Reading(None, self._shape[1], tuple(number for *_, number in rows))

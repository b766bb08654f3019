"""
The newest readings of the host and of each guest, and what was read before them.

Taking a batch is a few assignments for each reading. Rates are computed on demand.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from virtstatd.insight.lookup import HeldValues, Lookup, LookupPlan
from virtstatd.model import Batch, Domain, Reading, Shape
from virtstatd.runtime.clock import boottime


EVENTS_MAX: Final = 50
ENDED_MAX: Final = 1024
"""How many events of a guest, and how many ended runs and their events, are remembered."""

START_SECONDS: Final = 30.0
"""A guest that is first seen later than this after the first batch has started meanwhile."""

Key = tuple[str, str]
"""Source and group: what a new reading replaces."""


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """Something that happened to a guest, at a Unix time in nanoseconds."""

    at: int
    event: str
    text: str


@dataclass(slots=True, eq=False)
class GuestFigures:
    """
    One run of a guest: what was read of it, and its events.

    `version` rises with each reading, `at` is when the newest was taken, `since` when the run
    began, None if that was before the agent could see it.
    """

    domain: Domain
    events: deque[GuestEvent]
    since: int | None = None
    held: dict[Key, HeldValues] = field(default_factory=dict)
    version: int = 0
    at: float = 0.0
    plan: LookupPlan | None = None
    memo: object = None
    """What was computed of it, kept until its next reading."""

    def look(self, now: float) -> Lookup:
        """Return what is current, the kernel's readings before libvirt's."""
        self.plan, lookup = Lookup.of(self.held, now, self.plan)
        return lookup


class Figures:
    """
    What is known now; `version` rises with each batch.

    `clock` returns seconds that never step back, `wall` Unix time in nanoseconds. A reading is
    current for the lifetime of its batch. A guest stays until it is known to have ended, with
    whatever of it is current.
    """

    def __init__(
        self, clock: Callable[[], float] = boottime, wall: Callable[[], int] = time.time_ns
    ) -> None:
        self.clock = clock
        self.wall = wall
        self.version = 0
        self.guests: dict[str, GuestFigures] = {}
        self.stopped: dict[str, GuestFigures] = {}
        """Guests that are defined and do not run."""

        self.at: float | None = None
        """When the newest reading of a guest was taken."""

        self.urgent: dict[str, None] = {}
        """Guests whose monitor or state has changed since the last call."""

        self._host: dict[Key, HeldValues] = {}
        self._plan: LookupPlan | None = None
        self._began: float | None = None
        self._ended: dict[int, Domain] = {}
        self._events: dict[str, deque[GuestEvent]] = {}

    def host(self) -> Lookup:
        """Return what is current of the host, its partitions and the agent."""
        self._plan, lookup = Lookup.of(self._host, self.clock(), self._plan)
        return lookup

    def put(self, batch: Batch) -> None:
        """Take over the readings of a batch and forget what it proves gone."""
        self.version += 1
        now = self.clock()
        age = max(0, self.wall() - batch.taken_at) / 1e9
        at, until = now - min(age, batch.lifetime_seconds), now + batch.lifetime_seconds - age
        if self._began is None:
            self._began = now
        seen: dict[str, tuple[GuestFigures, set[str]]] = {}
        for reading in batch.readings:
            domain, group = reading.domain, reading.shape.group
            held = self._host
            if domain is not None:
                of = seen.get(domain.uuid)
                if of is None:
                    guest = self._guest(domain, now)
                    if guest is None:
                        continue
                    guest.version += 1
                    guest.at = max(guest.at, at)
                    self.at = guest.at if domain.id >= 0 else self.at
                    of = seen[domain.uuid] = guest, set()
                of[1].add(group)
                held = of[0].held
                if group in _WATCHED and domain.id >= 0:
                    self._watch(of[0], reading, batch)
            _hold(held, (batch.source, group), reading, at, until)
        for guest, groups in seen.values():
            for group in batch.groups - groups:
                guest.held.pop((batch.source, group), None)
        for domain in batch.gone:
            self._end(domain)

    def known(self, uuid: str) -> GuestFigures | None:
        """Return a guest, running or not; None if it is not defined here."""
        return self.guests.get(uuid) or self.stopped.get(uuid)

    def noted(self, uuid: str, event: str, text: str) -> None:
        """Add an event to a guest."""
        if guest := self.guests.get(uuid):
            guest.events.append(GuestEvent(self.wall(), event, text))
            guest.version += 1

    def _guest(self, domain: Domain, now: float) -> GuestFigures | None:
        """Return the run that a reading belongs to, None if it has ended."""
        if domain.id < 0:
            guest = self.stopped.get(domain.uuid)
            if guest is None or guest.domain is not domain:
                guest = self.stopped[domain.uuid] = GuestFigures(domain, deque(maxlen=0))
            return guest
        guest = self.guests.get(domain.uuid)
        if guest is not None and guest.domain is domain:
            return guest
        if self._ended.get(id(domain)) is domain:
            return None
        if guest is not None and guest.domain.id == domain.id:
            guest.domain = domain  # it has another name or other labels
            return guest
        self.stopped.pop(domain.uuid, None)
        events = self._events.setdefault(domain.uuid, deque(maxlen=EVENTS_MAX))
        guest = self.guests[domain.uuid] = GuestFigures(domain, events)
        if self._began is not None and now - self._began > START_SECONDS:
            guest.since = self.wall()
            events.append(GuestEvent(guest.since, "started", "The guest was started."))
        return guest

    def _end(self, domain: Domain) -> None:
        if domain.id < 0:
            if (guest := self.stopped.get(domain.uuid)) and guest.domain is domain:
                del self.stopped[domain.uuid]
            return
        self._ended[id(domain)] = domain
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        guest = self.guests.get(domain.uuid)
        if guest is None or guest.domain.id != domain.id:
            return
        del self.guests[domain.uuid]
        guest.events.append(GuestEvent(self.wall(), "stopped", "The guest ended."))
        if len(self._events) > len(self.guests) + ENDED_MAX:
            for uuid in [each for each in self._events if each not in self.guests]:
                del self._events[uuid]

    def _watch(self, guest: GuestFigures, reading: Reading, batch: Batch) -> None:
        """Note that a guest's monitor or its state has changed."""
        event = change_of(guest.held.get((batch.source, reading.shape.group)), reading)
        if event is None:
            return
        name, text = event
        if text:
            guest.events.append(GuestEvent(batch.taken_at, name, text))
        self.urgent[guest.domain.uuid] = None


def _hold(held: dict[Key, HeldValues], key: Key, reading: Reading, at: float, until: float) -> None:
    """Replace what is held by a new reading, and keep an earlier one to compute rates."""
    former = held.get(key)
    held[key] = made = HeldValues(reading.shape, reading.values, at, until)
    if former is not None and former.shape is reading.shape and former.at < at:
        made.after(former)


_WATCHED: Final = frozenset({"control", "state"})


def change_of(former: HeldValues | None, reading: Reading) -> tuple[str, str] | None:
    """Return what has changed in a guest's state or monitor, without a text if it is no event."""
    if reading.shape.group == "state":
        state = state_in(reading.shape)
        if former is None or former.shape is reading.shape or state_in(former.shape) == state:
            return None
        return state, f"Its state is {state} now."
    responsive = bool(reading.values[-1])  # the last one of its shape
    if former is None:
        return None if responsive else ("unresponsive", "")
    if bool(former.values[-1]) == responsive:
        return None
    if responsive:
        return "responsive", "Its monitor answers again."
    return "unresponsive", "Its monitor does not answer."


def state_in(shape: Shape) -> str:
    """Return the state that a shape of the group `state` is for."""
    return dict(shape.series[0].labels).get("state", "")

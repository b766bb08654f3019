"""
Libvirt's events of domains as counters, and as records of which no more come than can be read.

No call is made for it: libvirt sends the events anyway, over the connection that the agent keeps
for them. Events from before the agent's start, and from while libvirt was away, are not known.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

from virtstatd.catalog import Catalog
from virtstatd.collect.events.meanings import Meaning, meaning_of
from virtstatd.collect.events.tallies import GROUP, Tallies
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import LIFETIME_INTERVALS, Emit, Health, Outcome, Row, Up
from virtstatd.hypervisor.arrivals import Arrival
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.model import Batch, Domain, Happening
from virtstatd.runtime.waiting import first_of


EMIT_SECONDS: Final = 60.0
"""How often all counters are sent, changed or not, because readings expire."""

CHANGES_SECONDS: Final = 1.0
"""Changes within this time are sent together."""

RECORDS_OF_GUEST: Final = 10
RECORDS: Final = 100
"""So many records a second, of one guest and in all."""


class EventsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Libvirt's events of domains: counters with the time of the last one, and records."""

    enabled: Annotated[
        bool, Meta(description="Count events and keep the last 1,000, without a call to libvirt.")
    ] = True


class Recording:
    """Pass on so many records a second; `left_out` counts the others."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.tell: list[Callable[[Happening], None]] = []
        self.left_out: Counter[str] = Counter()
        self._clock = clock
        self._second = -1
        self._of: Counter[str] = Counter()

    def add(self, happening: Happening) -> None:
        """Pass a record on if there is room for it in this second."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._of.clear()
        uuid = happening.domain.uuid
        if self._of[uuid] >= RECORDS_OF_GUEST or self._of.total() >= RECORDS:
            self.left_out[happening.event] += happening.count
            return
        self._of[uuid] += 1
        for tell in self.tell:
            tell(happening)


class EventsCollector:
    """Count events as they come; send what has changed each second, and all of it each minute."""

    name = GROUP

    def __init__(
        self,
        catalog: Catalog,
        hypervisor: Hypervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hypervisor = hypervisor
        self._clock = clock
        self._health = Health(clock)
        self._tallies = Tallies(catalog)
        self._recording = Recording(clock)
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        hypervisor.connection.on_event(self.take)

    def on_happening(self, call: Callable[[Happening], None]) -> None:
        """Register `call` for each record."""
        self._recording.tell.append(call)

    def take(self, arrival: Arrival, domain: Domain) -> None:
        """Count an event, and pass it on as a record."""
        name, count, at = arrival.name, arrival.count, arrival.at
        meaning = meaning_of(name, arrival.values)
        self._tallies.add(name, meaning, count, at)
        if self._hypervisor.inventory.get(domain.uuid) is domain and not _is_start(meaning):
            self._tallies.add_of(domain, name, meaning, count, at)
        self._changed[domain.uuid] = None
        self._wake.set()
        self._recording.add(
            Happening(domain, name, meaning.detail, meaning.device, meaning.more, count, at)
        )

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Send until `stop`, also while libvirt is away: the counts stay true."""
        libvirt.coming(self._wake)
        turns = libvirt.turns
        due = self._clock()
        while not stop.is_set():
            self._wake.clear()
            now = self._clock()
            if now >= due or turns != libvirt.turns:
                due, turns = now + EMIT_SECONDS, libvirt.turns
                self.send(emit)
            elif self._changed:
                self.send(emit, self._changed)
            await first_of(stop, seconds=CHANGES_SECONDS)
            await first_of(stop, self._wake, seconds=max(0.0, due - self._clock()))

    async def once(self, emit: Emit) -> Outcome:
        """Send what is known, which is nothing but zeros so soon after a start."""
        self.send(emit)
        return Outcome()

    def send(self, emit: Emit, of: dict[str, None] | None = None) -> None:
        """Send the counters of all domains that run, or of these."""
        begun = self._clock()
        inventory = self._hypervisor.inventory
        if of is None:
            wanted = [domain for domain, _ in inventory.domains()]
            self._tallies.tidy(wanted)
        else:
            wanted = [domain for uuid in of if (domain := inventory.get(uuid))]
        self._changed.clear()
        emit(
            Batch(
                source=GROUP,
                taken_at=time.time_ns(),
                readings=(self._tallies.host(), *self._tallies.of(wanted)),
                groups=frozenset({GROUP}),
                lifetime_seconds=LIFETIME_INTERVALS * EMIT_SECONDS,
            )
        )
        self._health.ended(begun, good=True)

    def numbers(self) -> Iterator[Row]:
        """Yield how many events have no series or no record of their own."""
        for event, count in sorted(self._tallies.unlisted.items()):
            yield "events_unlisted", {"event": event}, count
        for event, count in sorted(self._recording.left_out.items()):
            yield "events_unrecorded", {"event": event}, count
        yield from self._health.rows(self.name)


def _is_start(meaning: Meaning) -> bool:
    """Return whether a run begins with it, so that it would be a series of every guest."""
    return meaning.detail.startswith("started_")


def events_counted(options: EventsOptions, parts: Parts) -> EventsCollector | None:
    """Build the collector, None if it is off."""
    return EventsCollector(parts.catalog, parts.hypervisor) if options.enabled else None


KIND: Final = CollectorKind(GROUP, events_counted, GROUP, EventsOptions)

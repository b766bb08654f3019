"""All guests of libvirt: states of those that do not run, and facts about each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Final

from msgspec import Meta, Struct
from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.defined.asking import COUNTED, Listed, ListedGuest, list_facts, list_states
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import LIFETIME_INTERVALS, Emit, Health, Outcome, Row, Up
from virtstatd.errors import Overdue, VirtstatdError
from virtstatd.hypervisor.connection import version_text
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch, Domain, Reading, Shape
from virtstatd.runtime.waiting import first_of


GROUP: Final = "defined"

CHANGES_SECONDS: Final = 2.0
"""After a domain started or ended, this long is waited for others to do so."""

CHANGES_SHARE: Final = 0.01
"""The share of time that questions because of such changes may take."""

BATCH_GUESTS: Final = 200
"""Guests of one batch; between two of them the loop serves others."""

FACTS: Final = ("autostart", "persistent", "managed_save", *COUNTED)
"""The facts about a guest, in the order of its series."""


class DefinedOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All guests that libvirt knows: states of those that do not run, and facts about each."""

    enabled: Annotated[
        bool,
        Meta(
            description="Read states, autostart, persistence, managed saves, and numbers of"
            " snapshots and checkpoints: a few lists, which open no image."
        ),
    ] = True
    interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds from one poll to the next; states are read soon after a guest"
            " starts or ends as well.",
            ge=1,
            le=86400,
        ),
    ] = 60.0


class DefinedCollector:
    """Ask on an interval; soon after a domain has started or ended, ask for states alone."""

    name = GROUP

    def __init__(
        self,
        options: DefinedOptions,
        catalog: Catalog,
        hypervisor: Hypervisor,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = options.interval_seconds
        self._catalog = catalog
        self._hypervisor = hypervisor
        self._log = log
        self._clock = clock
        self._health = Health(clock)
        self._decoder = Decoder(catalog, lambda key: log.info("field.unknown", key=key))
        self._shapes: dict[tuple[str, ...], Shape] = {}
        self._stopped: dict[str, Domain] = {}
        self._sets: dict[str, frozenset[str]] = {}
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}
        self._rounds = 0
        self._reported: dict[str, str] = {}

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Ask until `stop`."""
        loop = asyncio.get_running_loop()
        inventory = self._hypervisor.inventory
        changed = libvirt.coming()

        def wake(*_: object) -> None:  # on the thread that noticed
            loop.call_soon_threadsafe(changed.set)

        inventory.on_gone(wake)
        inventory.on_stale(wake)
        due, running, turns, pause = self._clock(), {""}, libvirt.turns, CHANGES_SECONDS
        while not stop.is_set():
            changed.clear()
            now = self._clock()
            if turns != libvirt.turns:  # it may be another libvirt
                due, turns = now, libvirt.turns
                self._reported.clear()
            there = set(inventory.uuids())
            if libvirt and (now >= due or there != running):
                running, everything = there, now >= due
                if everything:
                    due = now + self._interval
                await self._round(emit, everything=everything)
                pause = max(CHANGES_SECONDS, (self._health.seconds or 0) / CHANGES_SHARE)
            wait = due - self._clock() if libvirt else self._interval
            await first_of(stop, changed, seconds=max(0.0, wait))
            if changed.is_set():
                await first_of(stop, seconds=min(pause, self._interval))

    async def once(self, emit: Emit) -> Outcome:
        """Ask once; without an answer there is no number, and other collectors report why."""
        return await self._round(emit, everything=True)

    def numbers(self) -> Iterator[Row]:
        """Yield how the rounds went."""
        yield from self._health.rows(self.name)

    async def _round(self, emit: Emit, *, everything: bool) -> Outcome:
        begun, reason = self._clock(), ""
        listed = Listed()
        asking = partial(self._ask, listed, everything=everything)
        try:
            await self._hypervisor.lanes.run(asking, self._hypervisor.deadline_seconds)
        except Overdue as error:  # what came before the call that hangs is used
            reason = str(error)
        except VirtstatdError as error:
            self._health.ended(begun, good=False)
            return Outcome(answered=None, reason=str(error))
        self._health.ended(begun, good=not reason)
        self._take(listed, everything=everything)
        if listed.guests is None:
            return Outcome(answered=None, reason=reason)
        await self._send(emit, listed, listed.guests)
        return Outcome()

    def _ask(self, listed: Listed, session: Session, *, everything: bool) -> None:
        list_states(session, listed)
        if everything:
            self._rounds += 1
            wants = self._hypervisor.inventory.wants
            list_facts(session, listed, self._rounds, self._counts, wants)

    def _take(self, listed: Listed, *, everything: bool) -> None:
        """Keep the facts, of which a question for states brings few, and report refusals."""
        self._sets = dict(listed.sets) if everything else self._sets | listed.sets
        if everything:
            for (name, uuid), count in list(listed.counts.items()):
                self._counts[name, uuid] = count, self._rounds
            self._counts = {
                (name, uuid): known
                for (name, uuid), known in self._counts.items()
                if uuid in self._sets.get(name, ())
            }
        for what, reason in list(listed.refused.items()):
            if what not in self._reported:
                self._log.info("defined.refused", what=what, reason=reason)
            self._reported[what] = reason

    async def _send(self, emit: Emit, listed: Listed, guests: dict[str, ListedGuest]) -> None:
        """Emit batches of some guests each, after what ended."""
        inventory = self._hypervisor.inventory
        stopped, gone = {}, dict(self._stopped)
        readings: list[Reading] = [self._host(listed, guests)]
        for uuid, seen in guests.items():
            running = inventory.get(uuid)
            domain = running
            if seen.number < 0:
                # it starts or ends now, and its end is an event; or the filter leaves it out
                if running is not None or not inventory.wants(uuid, seen.name):
                    continue
                domain = gone.get(uuid)
                if domain is None or domain.name != seen.name:
                    domain = Domain(uuid, seen.name, -1, inventory.labels(uuid, seen.name))
                else:
                    del gone[uuid]
                stopped[uuid] = domain
                decoded, _ = self._decoder.sound(domain, seen.record)
                readings += decoded
            if domain is not None and (reading := self._facts(domain)):
                readings.append(reading)
        self._stopped = stopped
        if gone:
            emit(Batch(GROUP, listed.taken_at, (), gone=tuple(gone.values())))
        for at in range(0, len(readings), 2 * BATCH_GUESTS):
            emit(
                Batch(
                    source=GROUP,
                    taken_at=listed.taken_at,
                    readings=tuple(readings[at : at + 2 * BATCH_GUESTS]),
                    lifetime_seconds=LIFETIME_INTERVALS * self._interval,
                )
            )
            await asyncio.sleep(0)

    def _host(self, listed: Listed, guests: dict[str, ListedGuest]) -> Reading:
        """Return the numbers of guests by state, and libvirt's version."""
        names = {int(number): one["state"] for number, one in self._catalog.enums[STATES].items()}
        found = Counter(seen.state for seen in guests.values() if seen.state is not None)
        inactive = sum(seen.number < 0 for seen in guests.values())
        numbers = [*names, *(number for number in sorted(found) if number not in names)]
        shape = self._catalog.shape(
            GROUP,
            [
                ("inactive", ()),
                *(("in_state", {"state": names.get(each, str(each))}) for each in numbers),
                ("version", {"version": version_text(listed.version)}),
            ],
        )
        return Reading(None, shape, (inactive, *(found[each] for each in numbers), 1))

    def _facts(self, domain: Domain) -> Reading | None:
        """Return what is known of a guest, None if nothing is."""
        known = {name: value for name in FACTS if (value := self._fact(name, domain.uuid)) >= 0}
        if not known:
            return None
        names = tuple(known)
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._shapes[names] = self._catalog.shape(GROUP, [(each, ()) for each in names])
        return Reading(domain, shape, tuple(known.values()))

    def _fact(self, name: str, uuid: str) -> int:
        """Return a fact, -1 if it is not known."""
        among = self._sets.get(name)
        if among is None:
            return -1
        if name in COUNTED and uuid in among:
            return self._counts.get((name, uuid), (-1, 0))[0]
        return int(uuid in among)


STATES: Final = "domain_state"
"""The names of the states in the catalog."""


def defined(options: DefinedOptions, parts: Parts) -> DefinedCollector | None:
    """Build the collector, None if it is off."""
    if not options.enabled:
        return None
    return DefinedCollector(options, parts.catalog, parts.hypervisor, parts.log)


KIND: Final = CollectorKind(GROUP, defined, GROUP, DefinedOptions)

"""
Which domains run, their identity, and which of them must be described again.

Updated by events and confirmed by every complete list: an event may be lost, a list may be late, so
neither is trusted permanently by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from virtstatd.hypervisor.filter import GuestFilter, facts_of
from virtstatd.model import Domain, Labels, Reading


ENDED_KEPT = 10_000
"""Number of domains whose ended runs are remembered, so that a late answer cannot revive one."""

RUNS_KEPT = 16
"""Number of runs that are remembered per domain."""


@dataclass(slots=True)
class _Entry:
    """
    One run of a domain.

    `started` is the start time of its process, in ticks since the host's start, 0 if unknown;
    `announced` says that the next end that libvirt reports is that of this run: libvirt has
    reported its start, it ran when we connected, or no run was before it. A run that is `aside` is
    not monitored: the filter leaves it out, or its description must first be read; `decided` shows
    which.
    """

    domain: Domain
    since: float
    started: int = 0
    announced: bool = False
    described: tuple[Reading, ...] = ()
    tuned: tuple[Reading, ...] = ()
    aside: bool = False
    decided: bool = True


class Inventory:
    """
    The running domains by UUID. Safe to use from every thread.

    With `uuid` the UUID is among the labels that every series of a domain has. Domains that the
    filter leaves out are known, but no function except `described_as` returns them.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        uuid: bool = False,
        admission: GuestFilter | None = None,
    ) -> None:
        self._clock = clock
        self._admission = admission or GuestFilter()
        self._gone_to: list[Callable[[Domain], None]] = []
        self._stale_to: list[Callable[[], object]] = []
        self._uuid = uuid
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._refused: dict[str, tuple[str, int]] = {}
        self._aside = 0
        self._ended: dict[str, tuple[int, ...]] = {}
        self._stale: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._entries) - self._aside

    @property
    def filters(self) -> bool:
        """Whether there is a filter, which may leave guests out."""
        return not self._admission.everything

    def wants(self, uuid: str, name: str) -> bool:
        """Return whether a domain is monitored; one that does not run has only its name."""
        entry = self._entries.get(uuid)
        if entry is not None:
            return not entry.aside
        return uuid not in self._refused and bool(self._admission.admits(name, uuid, {}))

    def filtered(self) -> int:
        """Return how many running domains are not monitored."""
        return len(self._refused) + self._aside

    def on_gone(self, call: Callable[[Domain], None]) -> None:
        """Register `call` for each incarnation that ended, called on the thread that noticed."""
        self._gone_to.append(call)

    def on_stale(self, call: Callable[[], object]) -> None:
        """Register `call` for when a first domain must be described, called on any thread."""
        self._stale_to.append(call)

    def get(self, uuid: str) -> Domain | None:
        """Return a running domain that is monitored."""
        entry = self._entries.get(uuid)
        return entry.domain if entry and not entry.aside else None

    def described_as(self, uuid: str) -> Domain | None:
        """Return a running domain whose description matters, monitored or not."""
        entry = self._entries.get(uuid)
        return entry.domain if entry else None

    def uuids(self) -> list[str]:
        """Return the running domains, longest known first."""
        with self._lock:
            return [uuid for uuid, entry in self._entries.items() if not entry.aside]

    def domains(self) -> list[tuple[Domain, tuple[Reading, ...]]]:
        """Return the running domains with the facts of their XML, longest known first."""
        with self._lock:
            return [
                (entry.domain, entry.described)
                for entry in self._entries.values()
                if not entry.aside
            ]

    def labels(self, uuid: str, name: str) -> Labels:
        """Return the labels that every series of a domain has, running or not."""
        return (("domain", name), ("uuid", uuid)) if self._uuid else (("domain", name),)

    def see(self, uuid: str, name: str, number: int) -> Domain | None:
        """
        Return the domain, which is recorded if it is new.

        None is for an incarnation that has ended, and for one that is not monitored. A new name or
        number means a new incarnation: the previous one has ended.
        """
        entry = self._entries.get(uuid)  # without the lock: a dict look-up is atomic
        if entry is not None and entry.domain.id == number and entry.domain.name == name:
            return None if entry.aside else entry.domain
        if self._refused.get(uuid) == (name, number):
            return None
        return self._see(uuid, name, number, announced=False)

    def named(self, uuid: str, name: str, number: int) -> Domain:
        """Return a domain with the labels that one of this name has, without recording it."""
        return Domain(uuid, name, number, self.labels(uuid, name))

    def _see(self, uuid: str, name: str, number: int, *, announced: bool) -> Domain | None:
        admitted = self._admission.admits(name, uuid)
        with self._lock:
            before = self._entries.get(uuid)
            if before and before.domain.id == number and before.domain.name == name:
                before.announced |= announced
                return None if before.aside else before.domain  # another thread was faster
            ended = self._ended.get(uuid, ())
            if number in ended:
                return None
            if admitted is False:
                self._refused[uuid] = name, number
                self._forget(uuid)
                domain = None
            else:
                self._refused.pop(uuid, None)
                self._aside -= before.aside if before else 0
                domain = self._enter(uuid, name, number)
                entry = self._entries[uuid]
                entry.announced = announced or (before is None and not ended)
                entry.decided = admitted is True
                self._set_aside(entry, aside=admitted is None)
                self._outdate((uuid,))
        if before is not None and not before.aside:
            self._report(before.domain)
        return domain if admitted else None

    def _enter(self, uuid: str, name: str, number: int) -> Domain:
        domain = self.named(uuid, name, number)
        self._entries[uuid] = _Entry(domain, self._clock())
        return domain

    def begun(self, domain: Domain, started: int) -> Domain | None:
        """
        Record when the process of a run started, in ticks since the host's start.

        After a restart of libvirtd its numbers start again, and a guest may get the same number: a
        later start is another run, and the previous one has ended. Returns the run of the process;
        None for the rest of an earlier run, and for a run that has ended.
        """
        with self._lock:
            entry = self._entries.get(domain.uuid)
            if entry is None or entry.domain is not domain or entry.aside:
                return None
            if started < entry.started:
                return None
            if entry.started in (0, started):
                entry.started = started
                return domain
            run = replace(domain)
            self._entries[domain.uuid] = _Entry(run, self._clock(), started, entry.announced)
            self._outdate((domain.uuid,))
        self._report(domain)
        return run

    def started(self, uuid: str, name: str, number: int) -> None:
        """Record a start; an earlier end under the same number is forgotten."""
        with self._lock:
            if ended := self._ended.get(uuid):
                self._ended[uuid] = tuple(run for run in ended if run != number)
        self._see(uuid, name, number, announced=True)

    def end(self, uuid: str, *, before: float | None = None) -> None:
        """
        Record an end; with `before`, from a list, a run that was first seen later is kept.

        An end event that precedes the start event of the known run is about the previous run, which
        a poll has already ended.
        """
        with self._lock:
            self._refused.pop(uuid, None)
            entry = self._entries.get(uuid)
            if entry is None or (
                entry.since >= before if before is not None else self._late(entry)
            ):
                return
            self._forget(uuid)
            ended = self._ended.pop(uuid, ())
            self._ended[uuid] = (*ended[1 - RUNS_KEPT :], entry.domain.id)
            if len(self._ended) > ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
        if not entry.aside:
            self._report(entry.domain)

    def _forget(self, uuid: str) -> None:
        if entry := self._entries.pop(uuid, None):
            self._aside -= entry.aside
        self._stale.pop(uuid, None)

    def _set_aside(self, entry: _Entry, *, aside: bool) -> None:
        self._aside += aside - entry.aside
        entry.aside = aside

    @staticmethod
    def _late(entry: _Entry) -> bool:
        """Return whether an end is that of the previous run; only the first one can be."""
        late, entry.announced = not entry.announced, True
        return late

    def reconcile(self, running: Collection[str], asked_at: float) -> None:
        """End the domains that are missing in a complete list, requested at `asked_at`."""
        with self._lock:
            known = [*self._entries, *self._refused]
        for uuid in known:
            if uuid not in running:
                self.end(uuid, before=asked_at)

    def restart(self, running: Iterable[tuple[str, str, int]]) -> None:
        """Start again from a complete list after a connect: events were missed."""
        with self._lock:
            self._ended.clear()
        asked_at = self._clock()
        uuids = set()
        for uuid, name, number in running:
            self._see(uuid, name, number, announced=True)
            uuids.add(uuid)
        self.reconcile(uuids, asked_at)
        with self._lock:
            self._outdate(self._entries)

    # descriptions --------------------------------------------------------------------------

    def change(self, uuid: str) -> None:
        """Request a new description of a domain: its devices or its metadata changed."""
        with self._lock:
            if uuid in self._entries:
                self._outdate((uuid,))

    def take_stale(self, most: int) -> list[Domain]:
        """Return so many domains to be described, longest known first, or none."""
        with self._lock:
            taken = list(islice(self._stale, most))
            for uuid in taken:
                del self._stale[uuid]
            return [self._entries[uuid].domain for uuid in taken]

    def describe(self, domain: Domain, readings: tuple[Reading, ...] | None) -> None:
        """
        Store the facts of the XML of an incarnation that still runs; they may decide on it.

        None says that they cannot be read: where they are missing, that decides.
        """
        with self._lock:
            entry = self._entries.get(domain.uuid)
            if entry is None or entry.domain is not domain:
                return
            if readings is None and entry.decided:
                return
            entry.described = readings or ()
            aside = entry.aside
            facts = facts_of(entry.described) if self.filters else {}
            admitted = self._admission.admits(domain.name, domain.uuid, facts)
            self._set_aside(entry, aside=not admitted)
            entry.decided = True
            left = entry.aside and not aside
        if left:
            self._report(domain)

    def tune(self, domain: Domain, readings: tuple[Reading, ...]) -> None:
        """Store the limits of an incarnation that still runs."""
        with self._lock:
            entry = self._entries.get(domain.uuid)
            if entry is not None and entry.domain is domain:
                entry.tuned = readings

    def descriptions(self, of: Collection[str] | None = None) -> tuple[Reading, ...]:
        """Return XML and limits of the running domains, of all or of these."""
        with self._lock:
            return tuple(
                reading
                for uuid, entry in self._entries.items()
                if (of is None or uuid in of) and not entry.aside
                for reading in (*entry.described, *entry.tuned)
            )

    def _report(self, domain: Domain) -> None:
        for call in self._gone_to:
            call(domain)

    def _outdate(self, uuids: Iterable[str]) -> None:
        """Mark domains to be described; report it once until all of them have been taken."""
        first = not self._stale
        self._stale.update(dict.fromkeys(uuids))
        if first and self._stale:
            for call in self._stale_to:
                call()

"""The simulated host: its guests by name, UUID and id, and what happens to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from virtstatd_simulator.guests import events
from virtstatd_simulator.guests.events import Argument, Event
from virtstatd_simulator.guests.flavors import DEFAULT_RELEASE, VERSIONS, Release
from virtstatd_simulator.guests.guests import (
    BOOTED,
    DESTROYED,
    PAUSED,
    PAUSED_BY_USER,
    RUNNING,
    SHUT_OFF,
    Guest,
    random_guests,
    replayed_guests,
)
from virtstatd_simulator.guests.profiles import Profile
from virtstatd_simulator.guests.refusals import Refusal
from virtstatd_simulator.wire.rpc import FROM_QEMU, NO_DOMAIN, RpcError


@dataclass(slots=True, eq=False)
class Host:
    """
    Holds all guests of one daemon.

    `clock` is monotonic and in seconds, `epoch` Unix time; `emit` is called with every event.
    """

    profile: Profile
    seed: int = 1
    release: Release = DEFAULT_RELEASE
    cpus: int = 64
    percpu: bool = True
    name: str = "simulated"
    clock: Callable[[], float] = time.monotonic
    epoch: Callable[[], float] = time.time
    emit: Callable[[Event], None] = lambda _: None
    guests: dict[bytes, Guest] = field(default_factory=dict)
    by_name: dict[str, Guest] = field(default_factory=dict)
    by_id: dict[int, Guest] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    _last_id: int = 0
    _taps: int = 0
    _unborn: Iterator[Guest] = field(init=False)
    _moving: tuple[Callable[[], float], Callable[[], float]] | None = None

    def __post_init__(self) -> None:
        self._unborn = random_guests(self.profile.of_release(self.release), self.seed)

    @property
    def version(self) -> int:
        """Return the number of the libvirt that this host pretends to run."""
        return VERSIONS[self.release]

    def populate(self, domains: int) -> None:
        """Generate guests, without events: they ran before the daemon started."""
        for guest in islice(self._unborn, domains):
            self.adopt(guest)

    def replay(self, path: Path) -> None:
        """Add guests that were captured from a real daemon."""
        for guest in replayed_guests(path):
            self.adopt(guest)

    def adopt(self, guest: Guest) -> None:
        """Add a guest as it is; a running one gets an id unless it has one."""
        guest.since = self.clock()
        if guest.active:
            self._plug(guest)
        self.guests[guest.uuid] = guest
        self.by_name[guest.name] = guest

    def _plug(self, guest: Guest) -> None:
        if guest.id < 0:
            guest.id = self._last_id + 1
        self._last_id = max(self._last_id, guest.id)
        self.by_id[guest.id] = guest
        guest.taps = tuple(f"vnet{self._taps + n}" for n in range(guest.flavor.nics))
        self._taps += guest.flavor.nics

    def find(self, domain: bytes) -> Guest:
        """Look a guest up by UUID; raises libvirt's error if there is none."""
        guest = self.guests.get(domain)
        if guest is None:
            h = domain.hex()
            text = f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
            raise RpcError(NO_DOMAIN, FROM_QEMU, f"no domain with matching uuid '{text}'")
        return guest

    def send_event(self, guest: Guest, event: int, *arguments: Argument) -> None:
        """Send an event of a guest."""
        self.emit(Event(event, guest.uuid, guest.pack(), arguments))

    def start(self, guest: Guest | None = None) -> Guest:
        """Start a guest that is shut off, a new one when none is given."""
        if guest is None:
            guest = next(self._unborn)
            guest.aged = 0.0
            guest.state, guest.persistent = SHUT_OFF, False
            self.adopt(guest)
        guest.id = -1
        self._plug(guest)
        guest.change(RUNNING, BOOTED, self.clock())
        # in this order: measured on libvirt 9.0
        self.send_event(guest, events.LIFECYCLE, events.RESUMED, 0)
        self.send_event(guest, events.LIFECYCLE, events.STARTED, 0)
        return guest

    def destroy(self, guest: Guest) -> None:
        """End an active guest's QEMU; a transient guest is removed with it."""
        self.send_event(guest, events.LIFECYCLE, events.SHUTDOWN, 2)
        self.by_id.pop(guest.id, None)
        guest.change(SHUT_OFF, DESTROYED, self.clock())
        guest.id = -1
        self.release_monitor(guest)
        if not guest.persistent:
            self.guests.pop(guest.uuid, None)
            self.by_name.pop(guest.name, None)
        self.send_event(guest, events.LIFECYCLE, events.STOPPED, 1)

    def suspend(self, guest: Guest) -> None:
        """Pause an active guest."""
        if guest.state != PAUSED:
            guest.change(PAUSED, PAUSED_BY_USER, self.clock())
            self.send_event(guest, events.LIFECYCLE, events.SUSPENDED, 0)

    def resume(self, guest: Guest) -> None:
        """Continue a paused guest."""
        if guest.state != RUNNING:
            guest.change(RUNNING, 5, self.clock())
            self.send_event(guest, events.LIFECYCLE, events.RESUMED, 0)

    def set_metadata(self, guest: Guest, uri: str, element: str | None) -> None:
        """Set or remove a metadata element of a guest."""
        if element is None:
            guest.elements.pop(uri, None)
        else:
            guest.elements[uri] = element
        self.send_event(guest, events.METADATA_CHANGE, 2, uri)

    def stop_time(self) -> None:
        """Stop the guests' time, so that every poll gives the same numbers."""
        if self._moving is None:
            self._moving = self.clock, self.epoch
            now, epoch = self.clock(), self.epoch()
            self.clock, self.epoch = lambda: now, lambda: epoch

    def start_time(self) -> None:
        """Continue the guests' time from where it stopped."""
        if self._moving is not None:
            clock, self.epoch = self._moving
            behind = clock() - self.clock()
            self.clock = lambda: clock() - behind
            self._moving = None

    def heal(self) -> None:
        """End the faults of single guests in calls for statistics: refusals and invalid values."""
        self.refusals.clear()
        for guest in self.guests.values():
            if guest.spoiled:
                guest.spoil({})

    def hang(self, guest: Guest) -> None:
        """Stop a guest's monitor: it no longer answers."""
        if guest.hung is None:
            guest.hung = asyncio.Event()

    def release_monitor(self, guest: Guest) -> None:
        """Let a guest's monitor answer at once again, the calls that wait for it first."""
        guest.lag = 0.0
        if guest.hung is not None:
            guest.hung.set()
            guest.hung = None

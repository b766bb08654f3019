"""The simulated host: its guests by name, UUID and id, and what happens to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from virtstatd_simulator.guests import events
from virtstatd_simulator.guests.events import Argument, Event
from virtstatd_simulator.guests.flavors import VERSIONS, Release
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
from virtstatd_simulator.wire.rpc import FROM_QEMU, INVALID_OPERATION, NO_DOMAIN, RpcError


@dataclass(slots=True, eq=False)
class Host:
    """
    All guests of one daemon.

    `clock` is monotonic and in seconds, `emit` is told of every event. The host's own CPUs and
    memory are made up.
    """

    profile: Profile
    seed: int = 1
    release: Release = 9
    cpus: int = 64
    memory_kib: int = 1 << 30
    percpu: bool = True
    name: str = "simulated"
    clock: Callable[[], float] = time.monotonic
    epoch: Callable[[], float] = time.time
    emit: Callable[[Event], None] = lambda _: None
    guests: dict[bytes, Guest] = field(default_factory=dict)
    by_name: dict[str, Guest] = field(default_factory=dict)
    by_id: dict[int, Guest] = field(default_factory=dict)
    booted: float = 0.0
    _last_id: int = 0
    _taps: int = 0
    _unborn: Iterator[Guest] = field(init=False)
    _moving: tuple[Callable[[], float], Callable[[], float]] | None = None

    def __post_init__(self) -> None:
        self._unborn = random_guests(self.profile.of_release(self.release), self.seed)
        self.booted = self.clock()

    @property
    def version(self) -> int:
        """The libvirt that this host pretends to run."""
        return VERSIONS[self.release]

    def populate(self, domains: int) -> None:
        """Generate guests, silently: they were there before the daemon."""
        for guest in islice(self._unborn, domains):
            self.adopt(guest)

    def replay(self, path: Path) -> None:
        """Add guests that were captured from a real daemon."""
        for guest in replayed_guests(path):
            self.adopt(guest)

    def adopt(self, guest: Guest) -> None:
        """Add a guest as it is; a running one gets an id unless it brings its own."""
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
        """Look a guest up by UUID; raises libvirt's error when there is none."""
        guest = self.guests.get(domain)
        if guest is None:
            h = domain.hex()
            text = f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
            raise RpcError(NO_DOMAIN, FROM_QEMU, f"no domain with matching uuid '{text}'")
        return guest

    def named(self, names: Iterable[str]) -> list[Guest]:
        """Look guests up by name; raises `KeyError` for one that is not there."""
        return [self.by_name[name] for name in names]

    def tell(self, guest: Guest, event: int, *arguments: Argument) -> None:
        """Emit an event of a guest."""
        self.emit(Event(event, guest.uuid, guest.pack(), arguments))

    def start(self, guest: Guest | None = None) -> Guest:
        """Start a guest, a new one when none is given."""
        if guest is None:
            guest = next(self._unborn)
            guest.aged = 0.0
            guest.state, guest.persistent = SHUT_OFF, False
            self.adopt(guest)
        if guest.active:
            raise RpcError(INVALID_OPERATION, FROM_QEMU, "domain is already running")
        guest.id = -1
        self._plug(guest)
        guest.change(RUNNING, BOOTED, self.clock())
        # in this order: measured on libvirt 9.0
        self.tell(guest, events.LIFECYCLE, events.RESUMED, 0)
        self.tell(guest, events.LIFECYCLE, events.STARTED, 0)
        return guest

    def destroy(self, guest: Guest) -> None:
        """End a guest's QEMU; a transient one is forgotten with it."""
        self._alive(guest)
        self.tell(guest, events.LIFECYCLE, events.SHUTDOWN, 2)
        self.vanish(guest)
        self.tell(guest, events.LIFECYCLE, events.STOPPED, 1)

    def vanish(self, guest: Guest) -> None:
        """Take a guest away without a word."""
        self.by_id.pop(guest.id, None)
        guest.change(SHUT_OFF, DESTROYED, self.clock())
        guest.id = -1
        self.release_monitor(guest)
        if not guest.persistent:
            self.guests.pop(guest.uuid, None)
            self.by_name.pop(guest.name, None)

    def suspend(self, guest: Guest) -> None:
        """Pause a guest."""
        self._alive(guest)
        if guest.state != PAUSED:
            guest.change(PAUSED, PAUSED_BY_USER, self.clock())
            self.tell(guest, events.LIFECYCLE, events.SUSPENDED, 0)

    def resume(self, guest: Guest) -> None:
        """Let a paused guest run on."""
        self._alive(guest)
        if guest.state != RUNNING:
            guest.change(RUNNING, 5, self.clock())
            self.tell(guest, events.LIFECYCLE, events.RESUMED, 0)

    def set_metadata(self, guest: Guest, uri: str, element: str | None) -> None:
        """Set or remove a metadata element of a guest."""
        if element is None:
            guest.elements.pop(uri, None)
        else:
            guest.elements[uri] = element
        self.tell(guest, events.METADATA_CHANGE, 2, uri)

    def stop_time(self) -> None:
        """Let the guests' time stand still, so that whoever asks is told the same."""
        if self._moving is None:
            self._moving = self.clock, self.epoch
            now, epoch = self.clock(), self.epoch()
            self.clock, self.epoch = lambda: now, lambda: epoch

    def start_time(self) -> None:
        """Let the guests' time go on from where it stands."""
        if self._moving is not None:
            clock, self.epoch = self._moving
            behind = clock() - self.clock()
            self.clock = lambda: clock() - behind
            self._moving = None

    def hang(self, guest: Guest) -> None:
        """Let a guest's monitor answer no more."""
        if guest.hung is None:
            guest.hung = asyncio.Event()

    def release_monitor(self, guest: Guest) -> None:
        """Let a guest's monitor answer again; who waits for it goes on."""
        if guest.hung is not None:
            guest.hung.set()
            guest.hung = None

    def _alive(self, guest: Guest) -> None:
        if not guest.active:
            raise RpcError(INVALID_OPERATION, FROM_QEMU, "domain is not running")

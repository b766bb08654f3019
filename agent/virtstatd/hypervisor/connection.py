"""The event connection: it stays open, receives events, and knows whether libvirt is available."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import libvirt
from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Row, Up
from virtstatd.errors import VirtstatdError
from virtstatd.hypervisor.arrivals import (
    DEFINED,
    EVENTS,
    NUMBERS,
    STARTED,
    STOPPED,
    Arrival,
    Arrivals,
    event_name,
)
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lane, Open, Session
from virtstatd.model import Domain


DESCRIBED_ANEW = {"disk_change", "device_removed", "tunable", "device_added", "metadata_change"} | {
    "memory_device_size_change",
    "nic_mac_change",
    "vcpu_removed",
    "agent_lifecycle",
}
CLOSE_SECONDS = 1.0
"""Time for the thread to close; while inside libvirt it ends on return, or with the process."""

RETRY_SECONDS = (0.25, 3.0)
"""First and longest pause between attempts; the actual pause is random between zero and that."""


OnEvent = Callable[[Arrival, Domain], None]
"""Is called with an event and the domain that it is about, running or not."""


class Connection:
    """
    Keep a separate connection for events; reconnect until stopped, with full jitter.

    It sets `up`. Calls for statistics use other connections: an answer of megabytes must not delay
    an event.
    """

    def __init__(
        self, open_session: Open, inventory: Inventory, log: FilteringBoundLogger, up: Up
    ) -> None:
        self._open = open_session
        self._inventory = inventory
        self._log = log
        self._up = up
        self._failing = False
        self.version = ""
        """Libvirt's, as of the last connection; empty where it does not say."""
        self.connects = 0
        self.disconnects = 0
        self.events: Counter[str] = Counter()
        self.crowded: Counter[str] = Counter()
        """Events that were only counted: too many that differed came at once."""
        self._refused: list[str] = []
        self._tell: list[OnEvent] = []

    def on_event(self, call: OnEvent) -> None:
        """Register `call` for each event of a domain, on the loop; equal ones come together."""
        self._tell.append(call)

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until `stop` is set."""
        pause = RETRY_SECONDS[0]
        stopped = asyncio.create_task(stop.wait(), name="connection stop")
        try:
            while not stop.is_set():
                lane = Lane("events", self._open)
                try:
                    lost = await self._connect(lane, stopped)
                    if lost is not None:
                        pause = RETRY_SECONDS[0]
                        await _first(lost, stopped)
                        if not stop.is_set():
                            self._report(up=False, reason="the connection was closed")
                finally:
                    self._set(up=False)
                    lane.close()
                    await asyncio.wait({lane.ended}, timeout=CLOSE_SECONDS)
                await asyncio.wait({stopped}, timeout=random.uniform(0, pause))  # noqa: S311 - jitter
                pause = min(pause * 2, RETRY_SECONDS[1])
        finally:
            stopped.cancel()

    async def _connect(self, lane: Lane, stopped: asyncio.Task[Any]) -> asyncio.Future[None] | None:
        """Open, register and list; return the future that ends with the connection."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()

        def lose() -> None:
            if not lost.done():
                lost.set_result(None)

        def closed(*_: object) -> None:  # on the thread that noticed
            loop.call_soon_threadsafe(lose)

        arrivals = Arrivals(loop, self._happened, self.events, self.crowded)
        call = lane.call(lambda session: self._register(session, arrivals, closed))
        # no deadline: one thread waits for a frozen daemon, and is answered when it thaws
        await _first(call, stopped)
        if not call.done():
            call.cancel()
            return None
        try:
            running = call.result()
        except VirtstatdError as error:
            self._report(up=False, reason=str(error))
            return None
        self._inventory.restart(running)
        self.connects += 1
        self._report(up=True)
        self._set(up=True)
        return lost

    def _register(
        self, session: Session, arrivals: Arrivals, closed: Callable[..., None]
    ) -> list[tuple[str, str, int]]:
        connection = session.connection
        try:
            connection.registerCloseCallback(closed, None)
            session.on_close.append(connection.unregisterCloseCallback)
        except libvirt.libvirtError:  # a driver inside this process has no connection to lose
            self._log.debug("libvirt.close_callback_missing")

        def happened(_: object, domain: libvirt.virDomain, *details: Any) -> None:
            *values, name = details
            uuid = domain.UUIDString()
            arrivals.put(name, uuid, lambda: (domain.name(), domain.ID()), tuple(values))

        with suppress(libvirt.libvirtError):
            self.version = version_text(connection.getLibVersion())
        refused = []
        for number in NUMBERS:
            name = event_name(number)
            try:
                handle = connection.domainEventRegisterAny(None, number, happened, name)
            except libvirt.libvirtError:  # newer than this libvirt, or than the binding
                refused.append(name)
                continue
            session.on_close.append(partial(connection.domainEventDeregisterAny, handle))
        if refused != self._refused:
            self._refused = refused
            self._log.debug("libvirt.events_refused", events=refused)
        active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        return [(d.UUIDString(), d.name(), d.ID()) for d in active]

    def _happened(self, arrival: Arrival) -> None:
        name, uuid, number = arrival.name, arrival.uuid, arrival.number
        ran = self._inventory.get(uuid)
        wanted = self._inventory.wants(uuid, arrival.domain)
        if name == "lifecycle" and arrival.values:
            event = arrival.values[0]
            if event == STOPPED:
                self._inventory.end(uuid)
            elif event == STARTED and number > 0:
                self._inventory.started(uuid, arrival.domain, number)
            elif event == DEFINED:
                self._inventory.change(uuid)
        elif name in DESCRIBED_ANEW:
            self._inventory.change(uuid)
        domain = self._inventory.get(uuid) or ran
        if domain is None:
            if not (wanted and self._inventory.wants(uuid, arrival.domain)):
                return  # the filter leaves it out
            domain = self._inventory.named(uuid, arrival.domain, number)
        for call in self._tell:
            call(arrival, domain)

    def numbers(self) -> Iterator[Row]:
        """Yield how often it connected and was lost, and the number of events."""
        yield "domains", {}, len(self._inventory)
        yield "filtered_domains", {}, self._inventory.filtered()
        yield "connects", {}, self.connects
        yield "disconnects", {}, self.disconnects
        for event in dict.fromkeys((*EVENTS.values(), *self.events)):
            yield "events", {"event": event}, self.events[event]
        for event, count in sorted(self.crowded.items()):
            yield "events_crowded", {"event": event}, count

    def _set(self, *, up: bool) -> None:
        if self._up and not up:
            self.disconnects += 1
        self._up.turn(up=up)

    def _report(self, *, up: bool, reason: str = "") -> None:
        """Log the transition, not the attempts."""
        if up:
            self._log.info("libvirt.connected", domains=len(self._inventory))
        elif not self._failing:
            self._log.warning("libvirt.lost" if self._up else "libvirt.unreachable", reason=reason)
        self._failing = not up


def version_text(number: int) -> str:
    """Return a version as people write it: `9.0.0` of 9000000."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)

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
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lane, Open, Session


EVENTS = {
    0: "lifecycle",
    1: "reboot",
    3: "watchdog",
    6: "io_error",
    7: "control_error",
    9: "disk_change",
    13: "balloon_change",
    15: "device_removed",
    16: "block_job",
    17: "tunable",
    18: "agent_lifecycle",
    19: "device_added",
    21: "job_completed",
    22: "device_removal_failed",
    23: "metadata_change",
    24: "block_threshold",
    25: "memory_failure",
    26: "memory_device_size_change",
    27: "nic_mac_change",
    28: "vcpu_removed",
    29: "channel_lifecycle",
}
"""By number: the binding has only the names in the headers that it was built with."""

DESCRIBED_ANEW = {"disk_change", "device_removed", "tunable", "device_added", "metadata_change"} | {
    "memory_device_size_change",
    "nic_mac_change",
    "vcpu_removed",
    "agent_lifecycle",
}
DEFINED, STARTED, STOPPED = 0, 2, 5
CLOSE_SECONDS = 1.0
"""Time for the thread to close; while inside libvirt it ends on return, or with the process."""

RETRY_SECONDS = (0.25, 3.0)
"""First and longest pause between attempts; the actual pause is random between zero and that."""


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

        call = lane.call(lambda session: self._register(session, loop, closed))
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
        self, session: Session, loop: asyncio.AbstractEventLoop, closed: Callable[..., None]
    ) -> list[tuple[str, str, int]]:
        connection = session.connection
        try:
            connection.registerCloseCallback(closed, None)
            session.on_close.append(connection.unregisterCloseCallback)
        except libvirt.libvirtError:  # a driver inside this process has no connection to lose
            self._log.debug("libvirt.close_callback_missing")

        def happened(_: object, domain: libvirt.virDomain, *details: Any) -> None:
            *values, name = details
            known = (domain.UUIDString(), domain.name(), domain.ID())
            loop.call_soon_threadsafe(self._happened, name, known, values)

        with suppress(libvirt.libvirtError):
            self.version = version_text(connection.getLibVersion())
        for number, name in EVENTS.items():
            try:
                handle = connection.domainEventRegisterAny(None, number, happened, name)
            except libvirt.libvirtError:
                continue  # newer than this libvirt
            session.on_close.append(partial(connection.domainEventDeregisterAny, handle))
        active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        return [(d.UUIDString(), d.name(), d.ID()) for d in active]

    def _happened(self, name: str, known: tuple[str, str, int], values: list[Any]) -> None:
        self.events[name] += 1
        uuid, _, number = known
        if name == "lifecycle":
            event = values[0]
            if event == STOPPED:
                self._inventory.end(uuid)
            elif event == STARTED and number > 0:
                self._inventory.started(*known)
            elif event == DEFINED:
                self._inventory.change(uuid)
        elif name in DESCRIBED_ANEW:
            self._inventory.change(uuid)

    def numbers(self) -> Iterator[Row]:
        """Yield how often it connected and was lost, and the number of events."""
        yield "domains", {}, len(self._inventory)
        yield "filtered_domains", {}, self._inventory.filtered()
        yield "connects", {}, self.connects
        yield "disconnects", {}, self.disconnects
        for event in EVENTS.values():
            yield "events", {"event": event}, self.events[event]

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

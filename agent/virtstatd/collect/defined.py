"""How many domains are defined and do not run, and the version of libvirt's daemon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from virtstatd.catalog import Catalog
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collector import LIFETIME_INTERVALS, Emit, Health, Outcome, Row, Up
from virtstatd.errors import VirtstatdError
from virtstatd.hypervisor.connection import version_text
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch, Reading
from virtstatd.runtime.waiting import first_of


GROUP: Final = "defined"
INTERVAL_SECONDS: Final = 60.0
"""How often libvirt is asked, changed or not."""

CHANGES_SECONDS: Final = 2.0
"""After a domain started or ended, this long is waited for others to do so."""


class DefinedCollector:
    """Ask every minute, and soon after a domain has started or ended."""

    name = GROUP

    def __init__(
        self,
        catalog: Catalog,
        hypervisor: Hypervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._hypervisor = hypervisor
        self._clock = clock
        self._health = Health(clock)

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Ask until `stop`."""
        loop = asyncio.get_running_loop()
        inventory = self._hypervisor.inventory
        changed = libvirt.coming()

        def wake(*_: object) -> None:  # on the thread that noticed
            loop.call_soon_threadsafe(changed.set)

        inventory.on_gone(wake)
        inventory.on_stale(wake)
        due, running = self._clock(), -1
        while not stop.is_set():
            changed.clear()
            now = self._clock()
            if libvirt and (now >= due or len(inventory) != running):
                due, running = now + INTERVAL_SECONDS, len(inventory)
                await self.once(emit)
            await first_of(stop, changed, seconds=max(0.0, due - self._clock()))
            if changed.is_set():
                await first_of(stop, seconds=CHANGES_SECONDS)

    async def once(self, emit: Emit) -> Outcome:
        """Ask once; without an answer there is no number, and other collectors report why."""
        seconds = self._hypervisor.deadline_seconds
        begun, taken_at = self._clock(), time.time_ns()
        try:
            inactive, version = await self._hypervisor.lanes.run(_asked, seconds)
        except VirtstatdError as error:
            self._health.ended(begun, good=False)
            return Outcome(answered=None, reason=str(error))
        self._health.ended(begun, good=True)
        shape = self._catalog.shape(
            GROUP, [("inactive", ()), ("version", {"version": version_text(version)})]
        )
        emit(
            Batch(
                source=GROUP,
                taken_at=taken_at,
                readings=(Reading(None, shape, (inactive, 1)),),
                groups=frozenset({GROUP}),
                lifetime_seconds=LIFETIME_INTERVALS * INTERVAL_SECONDS,
            )
        )
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield how the rounds went."""
        yield from self._health.rows(self.name)


def _asked(session: Session) -> tuple[int, int]:
    """Ask for both; runs on a lane, and neither call waits for a guest."""
    return session.connection.numOfDefinedDomains(), session.connection.getLibVersion()


def defined(parts: Parts) -> DefinedCollector:
    """Build the collector."""
    return DefinedCollector(parts.catalog, parts.hypervisor)


KIND: Final = CollectorKind(GROUP, defined)

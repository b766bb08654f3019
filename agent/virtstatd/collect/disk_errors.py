"""
Disks whose requests fail, which libvirt reports one guest at a time.

For each guest it is checked first whether its monitor is free, and then for the errors:
libvirt-python makes two calls of that, one for the number of disks and one that queries the
monitor. A disk is in error until a request of it succeeds again, or for as long as its guest is
paused because of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Final

import libvirt
from msgspec import Meta, Struct
from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.collect.parts import CollectorKind, Parts, PollSeconds
from virtstatd.collect.tier import Tier
from virtstatd.collect.turns import TURN_SECONDS, UNSUPPORTED, GuestTurns, TurnAnswer, ask_each
from virtstatd.collector import Emit, Outcome, Row, Up
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Domain, Reading, Shape
from virtstatd.runtime.ticker import Ticker


SOURCE: Final = "disk_errors"
GROUPS: Final = frozenset({SOURCE})

ERRORS: Final = {1: "unspecified", 2: "no_space"}
"""virDomainDiskErrorCode; 0 is none, and later ones are shown as numbers."""


class DiskErrorsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Disks of guests whose requests fail, with the reason that libvirt knows."""

    enabled: Annotated[
        bool,
        Meta(description="Read these errors: a call for each guest, which queries its monitor."),
    ] = False
    interval_seconds: PollSeconds = 60.0


class DiskErrorsCollector:
    """Read the errors of all guests' disks at every tick, a turn at a time."""

    name = SOURCE

    def __init__(
        self,
        hypervisor: Hypervisor,
        catalog: Catalog,
        tier: Tier,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tiers = (tier,)
        self.turns = GuestTurns(
            self,
            hypervisor.inventory,
            hypervisor.lanes,
            tier,
            slice_domains=hypervisor.slice_domains,
            deadline_seconds=hypervisor.deadline_seconds,
        )
        self._inventory = hypervisor.inventory
        self._catalog = catalog
        self._log = log
        self._clock = clock
        self._refused = ""
        self._shape = lru_cache(256)(self._compiled)

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        await self.turns.run(emit, libvirt, stop)

    async def once(self, emit: Emit) -> Outcome:
        """Read every domain once; a driver without this call is no failure."""
        await self.turns.round(emit, asyncio.Event())
        if self._refused:
            return Outcome(answered=None, reason=self._refused)
        if not self.turns.tier.outcomes["ok"] and len(self._inventory):
            reason = self.turns.error or "libvirt answered no call"
            return Outcome(answered=False, reason=reason)
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield the outcomes of the polls."""
        yield from self.turns.tier.rows()
        yield from self.turns.health.rows(self.name)

    @property
    def asks(self) -> bool:
        """Whether libvirt has not refused."""
        return not self._refused

    def some(self, session: Session, uuids: Sequence[str], told: TurnAnswer) -> None:
        """Read as many of these domains as fit into a turn."""
        until = self._clock() + TURN_SECONDS

        def ask(domain: Domain) -> None:
            handle = session.domain(domain.uuid)
            if handle.controlInfo()[0]:
                told.silent.add(domain.uuid)  # the call would wait for what holds its monitor
                return
            try:
                found = handle.diskErrors()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in UNSUPPORTED:
                    raise
                told.refused = error.get_error_message() or str(error)
                return
            if self._inventory.get(domain.uuid) is domain:  # or these may be another run's
                told.readings.append(self._reading(domain, found))

        def enough() -> bool:
            return self._clock() >= until or bool(told.refused)

        ask_each(session, (self._inventory, uuids), told, ask, enough)

    def took(self, told: TurnAnswer) -> None:
        """Take note of a refusal, which is logged once."""
        if told.refused and told.refused != self._refused:
            self._refused = told.refused
            self._log.warning("disk_errors.refused", reason=told.refused)

    def reconnected(self) -> None:
        """Ask again, since it may be another libvirt."""
        self._refused = ""

    def _reading(self, domain: Domain, found: Mapping[str, int] | None) -> Reading:
        failed = tuple(
            (disk, ERRORS.get(code, str(code))) for disk, code in (found or {}).items() if code
        )
        return Reading(domain, self._shape(failed), (len(failed), *[1] * len(failed)))

    def _compiled(self, failed: tuple[tuple[str, str], ...]) -> Shape:
        rows = [("disk", {"target_device": disk, "error": error}) for disk, error in failed]
        return self._catalog.shape(SOURCE, [("disks", ()), *rows])


def disk_errors(options: DiskErrorsOptions, parts: Parts) -> DiskErrorsCollector | None:
    """Build the collector of disks' errors, None if it is not enabled."""
    if not options.enabled:
        return None
    ticker = Ticker(SOURCE, options.interval_seconds, time.monotonic())
    tier = Tier(SOURCE, 0, GROUPS, ticker, monitor=True)
    return DiskErrorsCollector(parts.hypervisor, parts.catalog, tier, parts.log)


KIND: Final = CollectorKind(SOURCE, disk_errors, SOURCE, DiskErrorsOptions)

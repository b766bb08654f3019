"""
Questions that libvirt answers for one guest at a time, in turns on a lane.

A turn is taken when no poll waits for a lane, and counts among the calls that may hang: if one of
these calls hangs, the last such call is left to the polls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import libvirt

from virtstatd.collect.tier import OUTCOME, Tier
from virtstatd.collector import Emit, Health, Up
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Domain, Reading
from virtstatd.runtime.ticker import ticks


TURN_SECONDS: Final = 0.25
"""Maximum time of one turn on a lane; other calls wait for it that long at most."""

UNSUPPORTED: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    }
)
"""What libvirt answers where a driver or a host cannot do something at all."""


@dataclass(slots=True)
class TurnAnswer:
    """
    The results of one turn, filled while it runs, so that those before a call that hangs are kept.

    `taken_at` is Unix time in nanoseconds before it; `silent` are those of `asked` without an
    answer; `refused` is libvirt's reason if this host does not know the answer of any guest.
    """

    taken_at: int = 0
    readings: list[Reading] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    refused: str = ""


class TurnSource(Protocol):
    """Asks about one guest after another; `some` and `ask_each` run on a lane."""

    name: str

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask on this host."""
        ...

    def some(self, session: Session, uuids: Sequence[str], told: TurnAnswer) -> None:
        """Ask about as many of these guests as fit into a turn."""
        ...

    def took(self, told: TurnAnswer) -> None:
        """Take note of a turn's results, on the event loop."""
        ...

    def reconnected(self) -> None:
        """Ask again for what was refused, since it may be another libvirt."""
        ...


class GuestTurns:
    """Asks about all guests at every tick, a turn at a time, and emits a batch for each turn."""

    def __init__(
        self,
        source: TurnSource,
        inventory: Inventory,
        lanes: Lanes,
        tier: Tier,
        *,
        slice_domains: int,
        deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tier = tier
        self.health = Health(clock)
        self.error = ""
        self._source = source
        self._inventory = inventory
        self._lanes = lanes
        self._slice = slice_domains
        self._deadline = deadline_seconds
        self._clock = clock
        self._suspects: set[str] = set()

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Ask until `stop`; each new connection may lead to another libvirt."""
        nudge = libvirt.coming()
        turns = libvirt.turns
        async for _ in ticks([self.tier.ticker], stop, nudge, self._clock):
            if not libvirt:
                self.tier.ticker.skip()
                continue
            if turns != libvirt.turns:
                turns = libvirt.turns
                self._source.reconnected()
            await self.round(emit, stop)

    async def round(self, emit: Emit, stop: asyncio.Event) -> None:
        """Ask about every guest once, and record how that went."""
        begun, self.tier.busy = self._clock(), True
        try:
            await self.ask_all(emit, stop)
        finally:
            self.health.ended(begun, good=(self.tier.good_at or 0.0) >= begun)
            self.tier.busy = False
            self.tier.asked += 1

    async def ask_all(self, emit: Emit, stop: asyncio.Event) -> None:
        """Ask about every guest once, a batch for each turn."""
        begun = self._clock()
        if not self._lanes.stuck:
            self._suspects.clear()
        uuids = self._inventory.uuids()
        missing = self._suspects.intersection(uuids)
        pending = [uuid for uuid in uuids if uuid not in missing]
        while pending and self._source.asks and not stop.is_set():
            told = await self._turn(pending[: self._slice])
            if not told.asked:
                missing.update(pending)
                break
            pending = pending[len(told.asked) :]
            missing |= told.silent
            self._source.took(told)
            if told.readings:
                readings, lifetime = tuple(told.readings), self.tier.lifetime()
                batch = (self._source.name, told.taken_at, readings, self.tier.groups, lifetime)
                emit(Batch(*batch))
        self.tier.missing = missing
        if not missing and self._source.asks:
            self.tier.good_at = begun

    async def _turn(self, uuids: list[str]) -> TurnAnswer:
        """Ask on a lane; if the call fails, the answers before it are kept."""
        told = TurnAnswer()

        def turn(session: Session) -> float:
            started = time.monotonic()
            told.taken_at = time.time_ns()
            self._source.some(session, uuids, told)
            return time.monotonic() - started

        try:
            seconds = await self._lanes.run(turn, self._deadline, monitor=True, patient=True)
        except (Crowded, Overdue, Refused, Disconnected) as error:
            self.tier.outcomes[OUTCOME.get(type(error), "withheld")] += 1
            self.error = str(error)
            told.silent.update(told.asked[-1:])
            if isinstance(error, Overdue):
                self._suspects.update(told.asked[-1:])
        else:
            self.tier.outcomes["ok"] += 1
            self.tier.observe(seconds)
        return told


def ask_each(
    session: Session,
    guests: tuple[Inventory, Sequence[str]],
    told: TurnAnswer,
    ask: Callable[[Domain], None],
    enough: Callable[[], bool],
) -> None:
    """Ask about one guest after another until it is enough, each independent of the others."""
    inventory, uuids = guests
    for uuid in uuids:
        domain = inventory.get(uuid)
        told.asked.append(uuid)
        if domain is not None:
            try:
                ask(domain)
            except libvirt.libvirtError:
                if not session.connection.isAlive():
                    raise
                told.silent.add(uuid)
        if enough():
            return

"""
Sets the period of balloon drivers that have none, where the configuration wants it.

Without a period a guest's driver reports nothing, and how much memory the guest uses is not known.
This changes the guest's configuration of its current run, and of no later one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import libvirt
from structlog.typing import FilteringBoundLogger

from virtstatd.collect.guest_agent.asking import AgentThread
from virtstatd.collect.guest_agent.options import GuestAgentOptions
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.model import Domain


LIVE_ONLY: Final = libvirt.VIR_DOMAIN_AFFECT_LIVE

AGAIN_SECONDS: Final = 3600.0
"""Pause before a guest is tried again, whether its description shows the period or not."""

TURN_DOMAINS: Final = 10
"""Guests in a row, before agents are queried again."""


class BalloonPeriods:
    """Sets the periods on the thread for guests' agents; `done` counts them."""

    def __init__(
        self,
        options: GuestAgentOptions,
        inventory: Inventory,
        thread: AgentThread,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        self._seconds = options.balloon_period_seconds
        self._limit = options.limit_seconds
        self._inventory = inventory
        self._thread = thread
        self._log = log
        self._clock = clock
        self._tried: dict[Domain, float] = {}

    async def put(self, domains: Sequence[Domain], stop: asyncio.Event) -> None:
        """Set the period of some of these guests; raises where no call can be made."""
        now = self._clock()
        of = frozenset(domains)
        self._tried = {each: at for each, at in self._tried.items() if each in of}
        waiting = [each for each in domains if self._tried.get(each, now) <= now]
        for domain in waiting[:TURN_DOMAINS]:
            if stop.is_set():
                return
            self._tried[domain] = now + AGAIN_SECONDS
            refused = await self._thread.change(domain.uuid, self._set, self._limit)
            known = {"domain": domain.name, "uuid": domain.uuid}
            if refused:
                self._log.warning("guest_agent.balloon_refused", **known, reason=refused)
            else:
                self.done += 1
                self._log.info("guest_agent.balloon_set", **known, seconds=self._seconds)
                self._inventory.change(domain.uuid)

    def _set(self, domain: libvirt.virDomain) -> None:
        domain.setMemoryStatsPeriod(self._seconds, LIVE_ONLY)

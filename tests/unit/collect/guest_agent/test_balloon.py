"""Balloon drivers without a period get one, where the configuration wants it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import libvirt
import structlog
from structlog.testing import capture_logs

from virtstatd.collect.guest_agent.asking import AgentThread
from virtstatd.collect.guest_agent.balloon import AGAIN_SECONDS, TURN_DOMAINS, BalloonPeriods
from virtstatd.collect.guest_agent.options import GuestAgentOptions
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Domain
from virtstatd.testing import FakeClock


@dataclass
class Libvirt:
    """A libvirt whose guests note what is set; `refuses` are some of them."""

    refuses: set[str] = field(default_factory=set)
    calls: list[tuple[str, int, int]] = field(default_factory=list)
    uuid: str = ""

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Tell that the connection lives."""
        return True

    def close(self) -> None:
        """Close."""

    def domainEventRegisterAny(self, *_: object) -> int:  # noqa: N802 - libvirt's name
        """Tell nobody."""
        return 1

    def domainEventDeregisterAny(self, _: int) -> None:  # noqa: N802 - libvirt's name
        """Tell nobody."""

    def lookupByUUIDString(self, uuid: str) -> Libvirt:  # noqa: N802 - libvirt's name
        """Return a guest."""
        return Libvirt(self.refuses, self.calls, uuid)

    def setMemoryStatsPeriod(self, seconds: int, flags: int) -> None:  # noqa: N802 - libvirt's
        """Set it."""
        self.calls.append((self.uuid, seconds, flags))
        if self.uuid in self.refuses:
            error = libvirt.libvirtError("no balloon")
            error.err = (55, 10, "no balloon", 2, None, None, None, -1, -1)
            raise error


async def test_each_guest_gets_it_once_and_live_only():
    """The run's configuration changes, not that of the next; a refusal is tried in an hour."""
    clock, there = FakeClock(), Libvirt(refuses={"u1"})
    inventory = Inventory(clock)
    session: Any = there
    thread = AgentThread(lambda: Session(session), 1)
    options = GuestAgentOptions(set_balloon_period=True, balloon_period_seconds=7)
    balloons = BalloonPeriods(options, inventory, thread, structlog.get_logger(), clock)
    several = [inventory.see(f"u{number}", f"vm-{number}", 1) for number in range(2)]
    domains = [each for each in several if each]
    inventory.take_stale(10)
    try:
        with capture_logs() as logs:
            for _ in range(2):
                await balloons.put(domains, asyncio.Event())
            assert there.calls == [("u0", 7, 1), ("u1", 7, 1)]
            clock.now += AGAIN_SECONDS
            await balloons.put(domains[1:], asyncio.Event())
        assert there.calls[2:] == [("u1", 7, 1)]
        assert balloons.done == 1
        assert inventory.take_stale(10) == domains[:1], "its description is read again"
        assert [each["event"] for each in logs] == [
            *("guest_agent.balloon_set", "guest_agent.balloon_refused"),
            "guest_agent.balloon_refused",
        ]
    finally:
        await thread.close(60)


async def test_many_guests_are_set_in_turns():
    """Some in a row, so that agents are asked between; all of them in the end."""
    there = Libvirt()
    inventory = Inventory()
    session: Any = there
    thread = AgentThread(lambda: Session(session), 1)
    balloons = BalloonPeriods(GuestAgentOptions(), inventory, thread, structlog.get_logger())
    domains = [Domain(f"u{number}", "vm", number, ()) for number in range(2 * TURN_DOMAINS + 1)]
    try:
        for turn in range(1, 4):
            await balloons.put(domains, asyncio.Event())
            assert len(there.calls) == min(turn * TURN_DOMAINS, len(domains))
    finally:
        await thread.close(60)
    assert {uuid for uuid, _, _ in there.calls} == {each.uuid for each in domains}

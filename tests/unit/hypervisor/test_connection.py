"""The event connection: what it registers, and what it does with what comes."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import libvirt
import structlog

from virtstatd.collector import Up
from virtstatd.hypervisor.arrivals import NUMBERS, STARTED, STOPPED, Arrival
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.filter import FilterOptions, GuestFilter, GuestRule
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Domain
from virtstatd.testing.clock import settle


UUID = "11111111-1111-4111-8111-111111111111"


class Libvirt:
    """A libvirt that knows some events, and refuses the others."""

    def __init__(self, *known: int) -> None:
        self.known = known
        self.callbacks: dict[int, tuple[Callable[..., None], str]] = {}
        self.asked: list[int] = []
        self.number = 1

    def __getattr__(self, name: str) -> Any:
        answers = {"isAlive": True, "getLibVersion": 9_000_000, "listAllDomains": [], "close": 0}
        return lambda *_: answers.get(name)

    def domainEventRegisterAny(  # noqa: N802 - libvirt's name
        self, _: None, number: int, call: Callable[..., None], name: str
    ) -> int:
        """Register, or refuse as the binding does."""
        self.asked.append(number)
        if number not in self.known:
            raise libvirt.libvirtError("virConnectDomainEventRegisterAny() failed")
        self.callbacks[number] = call, name
        return number

    def send(self, event: int, *values: object) -> None:
        """Have an event come of the one domain."""
        call, name = self.callbacks[event]
        call(self, self, *values, name)

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        """Return the domain's UUID."""
        return UUID

    def name(self) -> str:
        """Return the domain's name."""
        return "vm"

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        """Return the number of the domain's run."""
        return self.number


class Watched:
    """A connection that runs to that libvirt within a block, and the events that it tells of."""

    def __init__(self, there: Libvirt, *, exclude: str = "") -> None:
        rules = (GuestRule(name=exclude),) if exclude else ()
        admission = GuestFilter(FilterOptions(exclude=rules))
        self.up, self.inventory = Up(), Inventory(admission=admission)
        self.log = structlog.get_logger()
        session: Any = there
        self.connection = Connection(lambda: Session(session), self.inventory, self.log, self.up)
        self.told: list[tuple[Arrival, Domain]] = []
        self.came = asyncio.Event()
        self.connection.on_event(self._take)
        self._stop = asyncio.Event()

    def _take(self, arrival: Arrival, domain: Domain) -> None:
        self.told.append((arrival, domain))
        self.came.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.connection.run(self._stop))
        await self.up.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task

    async def next(self) -> tuple[Arrival, Domain]:
        """Return the event that comes next."""
        while not self.told:
            self.came.clear()
            await self.came.wait()
        return self.told.pop(0)


async def test_what_is_refused_costs_itself_alone():
    """Every number is tried, later ones too; the others are registered, and one line says which."""
    there = Libvirt(0, 1, 6, 33)
    with structlog.testing.capture_logs() as lines:
        async with Watched(there) as watched:
            assert there.asked == [*NUMBERS]
            assert [*there.callbacks] == [0, 1, 6, 33]
            there.send(33, "new", 7)
            arrival, _ = await watched.next()
            assert (arrival.name, arrival.values) == ("event_33", ("new", 7))
            rows = {(k, labels.get("event")): n for k, labels, n in watched.connection.numbers()}
            assert rows["events", "event_33"] == 1
            assert rows["events", "watchdog"] == 0
    (line,) = [each for each in lines if each["event"] == "libvirt.events_refused"]
    assert "watchdog" in line["events"]
    assert line["log_level"] == "debug"


async def test_an_end_is_told_of_the_run_that_ended():
    """Whoever counts gets the domain that ran, also for the event that ends it."""
    there = Libvirt(0)
    async with Watched(there) as watched:
        there.send(0, STARTED, 0)
        _, started = await watched.next()
        assert watched.inventory.get(UUID) is started
        there.number = -1
        there.send(0, STOPPED, 2)
        arrival, ended = await watched.next()
        assert ended is started
        assert arrival.values == (STOPPED, 2)
        assert watched.inventory.get(UUID) is None
        there.send(0, 1, 0)  # undefined
        _, inactive = await watched.next()
        assert (inactive.name, inactive.labels) == ("vm", (("domain", "vm"),))
        assert watched.inventory.get(UUID) is None


async def test_nothing_is_told_of_a_guest_that_the_filter_leaves_out():
    """Neither its start nor its end reaches a collector, only their number is counted."""
    there = Libvirt(0, 1)
    async with Watched(there, exclude="vm") as watched:
        there.send(0, STARTED, 0)
        there.send(1)
        there.number = -1
        there.send(0, STOPPED, 0)
        await settle()
        assert watched.connection.events == {"lifecycle": 2, "reboot": 1}
        assert not watched.told

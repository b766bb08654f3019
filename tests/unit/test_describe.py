"""When domains are described, and what a fault costs."""

import asyncio
from collections.abc import Callable

import structlog
from structlog.testing import capture_logs

from virtstatd.catalog import load
from virtstatd.errors import Overdue, Refused
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch
from virtstatd.sources.describe import AGAIN_SECONDS, Describer, DescriptionReader
from virtstatd.sources.tunables import Tunables
from virtstatd.testing import FakeClock


CATALOG = load()
XML = "<domain type='kvm'><uuid>u</uuid></domain>"


class World:
    """Some domains; every question is answered from here."""

    def __init__(self, domains: int) -> None:
        self.clock = FakeClock()
        self.stuck = 0
        self.xml = XML
        self.shares = 1024
        self.trouble: Callable[[], None] = lambda: None
        self.asked: list[str] = []
        self.batches: list[Batch] = []
        self.inventory = Inventory(self.clock, lambda _: None)
        for number in range(domains):
            self.inventory.see(f"u{number}", f"vm{number}", 1)
        self.reader = DescriptionReader(
            self.inventory,
            self,  # type: ignore[arg-type]
            Describer(CATALOG),
            Tunables(CATALOG),
            self.batches.append,
            structlog.get_logger(),
            5.0,
            self.clock,
        )

    async def run(
        self, function: Callable[[Session], object], _: float, *, monitor: bool, patient: bool
    ) -> object:
        """Call at once, as a lane."""
        assert monitor
        assert patient
        self.trouble()
        return function(Session(self))

    def lookupByUUIDString(self, uuid: str) -> "World":  # noqa: N802 - libvirt's name
        """Return a handle."""
        self.asked.append(uuid)
        return self

    def XMLDesc(self, _: int) -> str:  # noqa: N802 - libvirt's name
        """Describe the domain."""
        return self.xml

    def schedulerParametersFlags(self, _: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Tell its weight."""
        return {"cpu_shares": self.shares}

    def memoryParameters(self, _: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Tell nothing."""
        return {}

    blkioParameters = numaParameters = memoryParameters  # noqa: N815 - libvirt's names

    async def pass_by(self, seconds: float) -> list[str]:
        """Run for as long as the reader takes after some time has passed; return who was asked."""
        self.asked.clear()
        self.clock.now += seconds
        stop = asyncio.Event()
        run = asyncio.create_task(self.reader.run(stop))
        for _ in range(20):
            await asyncio.sleep(0)
        stop.set()
        await run
        return self.asked

    def groups(self, uuid: str = "u0") -> set[str]:
        """Return which groups the last batch has of a domain."""
        of = self.batches[-1].readings
        return {r.shape.group for r in of if r.domain and r.domain.uuid == uuid}


async def test_each_domain_is_read_once_and_again_after_a_while():
    """At the start, on a change, and at the latest after the time for changes without an event."""
    world = World(3)
    assert await world.pass_by(0) == ["u0", "u1", "u2"]
    assert await world.pass_by(AGAIN_SECONDS / 2 - 1) == []
    world.inventory.change("u1")
    assert await world.pass_by(0) == ["u1"]
    assert sorted(await world.pass_by(AGAIN_SECONDS)) == ["u0", "u1", "u2"]
    world.inventory.end("u1")
    assert sorted(await world.pass_by(AGAIN_SECONDS)) == ["u0", "u2"]
    assert world.reader.reads == 9


async def test_domains_are_not_all_read_again_at_once():
    """Each has its own time, so that libvirt is not asked about all of them in one go."""
    world = World(100)
    await world.pass_by(0)
    counts = [len(await world.pass_by(AGAIN_SECONDS / 20)) for _ in range(20)]
    assert sum(counts[:9]) == 0
    assert max(counts[9:]) < 40
    assert sum(counts) >= 90


async def test_limits_are_shown_with_the_description():
    """What a change event was about is in the batch that follows it, with all that was known."""
    world = World(2)
    await world.pass_by(0)
    assert world.groups() == {"domain", "tunable"}
    assert world.batches[-1].groups == {"domain", "tunable"}
    world.shares = 2048
    world.inventory.change("u0")
    await world.pass_by(0)
    values = {
        r.domain.uuid: r.values
        for r in world.batches[-1].readings
        if r.shape.group != "domain" and r.domain
    }
    assert values == {"u0": (2048,), "u1": (1024,)}


async def test_a_domain_whose_xml_cannot_be_read_has_its_limits():
    """The log says once what is wrong with the XML; nothing else is lost."""
    world = World(1)
    world.xml = "<!DOCTYPE domain><domain/>"
    with capture_logs() as logs:
        await world.pass_by(0)
        world.inventory.change("u0")
        await world.pass_by(0)
    assert world.groups() == {"tunable"}
    assert [entry["event"] for entry in logs] == ["domain.undescribed"]


async def test_a_call_that_hangs_is_asked_again_when_it_has_returned():
    """While calls hang nobody is asked; the domain is not forgotten, what is known stays shown."""
    world = World(1)
    await world.pass_by(0)

    def hang() -> None:
        world.stuck = 1
        raise Overdue

    world.trouble = hang
    world.inventory.change("u0")
    await world.pass_by(20)
    assert world.groups() == {"domain", "tunable"}
    world.trouble, world.stuck = lambda: None, 0
    assert await world.pass_by(0) == ["u0"]


async def test_a_refusal_is_counted_and_looked_at_later():
    """A domain that libvirt will not describe is not asked about in a loop."""
    world = World(1)

    def refuse() -> None:
        raise Refused

    world.trouble = refuse
    await world.pass_by(0)
    assert (world.reader.reads, world.reader.failures) == (1, 1)
    world.trouble = lambda: None
    assert await world.pass_by(0) == []
    assert await world.pass_by(AGAIN_SECONDS) == ["u0"]

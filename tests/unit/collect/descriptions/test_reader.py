"""When domains are described, and what a fault costs."""

import asyncio
import math
import threading
from collections.abc import Callable

import libvirt
import pytest
import structlog
from structlog.testing import capture_logs

from virtstatd.catalog import load
from virtstatd.collect.descriptions.limits import Tunables
from virtstatd.collect.descriptions.reader import (
    AGAIN_SECONDS,
    EMIT_SECONDS,
    HELD_SECONDS,
    LIMITS_AGAIN_SECONDS,
    LIMITS_SECONDS,
    TOGETHER_SECONDS,
    TURN_DOMAINS,
    DescriptionReader,
)
from virtstatd.collect.descriptions.xml import Describer, parsed_xml
from virtstatd.collector import Up
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused
from virtstatd.hypervisor.filter import FilterOptions, GuestFilter, GuestRule
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import UNPROVEN_STUCK_MAX, Session
from virtstatd.model import Batch
from virtstatd.testing import FakeClock


CATALOG = load()
XML = "<domain type='kvm'><uuid>u</uuid></domain>"


class World:
    """Some domains; every question is answered from here."""

    def __init__(
        self, domains: int, allowed: float = math.inf, admission: GuestFilter | None = None
    ) -> None:
        self.clock = FakeClock()
        self.stuck = 0
        self.turns = 0
        self.xml = XML
        self.shares = 1024
        self.tuned = 0
        self.tuning_seconds = 0.0
        self.trouble: Callable[[], None] = lambda: None
        self.hanging: set[str] = set()
        self.free: Callable[[], object] = lambda: None
        self.gone: set[str] = set()
        self.asked: list[str] = []
        self.refused: set[str] = set()
        self.batches: list[Batch] = []
        self.libvirt = Up(up=True)
        self.inventory = Inventory(self.clock, admission=admission)
        for number in range(domains):
            self.inventory.see(f"u{number}", f"vm{number}", 1)
        self.reader = DescriptionReader(
            self.inventory,
            self,  # type: ignore[arg-type]
            Describer(CATALOG),
            Tunables(CATALOG),
            structlog.get_logger(),
            5.0,
            allowed,
            self.clock,
        )

    async def run(
        self, function: Callable[[Session], object], _: float, *, monitor: bool, patient: bool
    ) -> object:
        """Call at once, as a lane."""
        assert monitor
        assert patient
        self.turns += 1
        if self.stuck >= UNPROVEN_STUCK_MAX:
            raise Crowded
        self.trouble()
        return function(Session(self))

    def on_return(self, call: Callable[[], object]) -> None:
        """Take note of whom to call when a call that hung returns."""
        self.free = call

    def lookupByUUIDString(self, uuid: str) -> "World":  # noqa: N802 - libvirt's name
        """Return a handle."""
        self.asked.append(uuid)
        if uuid in self.refused:
            raise libvirt.libvirtError("refused")
        if uuid in self.gone:
            error = libvirt.libvirtError("Domain not found")
            error.err = (libvirt.VIR_ERR_NO_DOMAIN, 10, "Domain not found", 2, "", "", "", -1, -1)
            raise error
        return self

    def controlInfo(self) -> tuple[int, int, int]:  # noqa: N802 - libvirt's name
        """Tell whether somebody waits for the monitor of who was asked for last."""
        return (2, 0, 3000) if self.asked[-1] in self.hanging else (0, 0, 0)

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Be there."""
        return True

    def XMLDesc(self, _: int) -> str:  # noqa: N802 - libvirt's name
        """Describe the domain, with its limits, as libvirt does."""
        return self.xml.replace(
            "<uuid>", f"<cputune><shares>{self.shares}</shares></cputune><uuid>"
        )

    def schedulerParametersFlags(self, _: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Tell its weight."""
        self.tuned += 1
        self.clock.now += self.tuning_seconds
        return {"cpu_shares": self.shares}

    def memoryParameters(self, _: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Tell nothing."""
        return {}

    blkioParameters = numaParameters = memoryParameters  # noqa: N815 - libvirt's names

    async def pass_by(self, seconds: float) -> list[str]:
        """Read as often as there is anything to read after some time; return who was asked."""
        self.asked.clear()
        self.clock.now += seconds
        stop = asyncio.Event()
        run = asyncio.create_task(self.reader.run(self.batches.append, self.libvirt, stop))
        for _ in range(5):
            await asyncio.sleep(0)
        stop.set()
        await run
        return list(dict.fromkeys(self.asked))

    async def settle(self) -> None:
        """Read the limits of everybody that waits, and send what changed."""
        await self.reader.tune(asyncio.Event(), len(self.inventory))
        self.reader.send(self.batches.append)

    def groups(self, uuid: str = "u0") -> set[str]:
        """Return which groups the last batch has of a domain."""
        of = self.batches[-1].readings
        return {r.shape.group for r in of if r.domain and r.domain.uuid == uuid}


@pytest.mark.parametrize("uuid", [False, True])
def test_no_label_occurs_twice(uuid: bool):
    """What the configuration puts on every series of a domain is not said again of the domain."""
    inventory = Inventory(FakeClock(), uuid=uuid)
    domain = inventory.see("u", "vm", 1)
    assert domain
    (reading,) = Describer(CATALOG).readings(domain, parsed_xml(XML))
    names = [name for name, _ in (*domain.labels, *reading.shape.series[0].labels)]
    assert sorted(names) == ["domain", "type", "uuid"]


async def test_each_domain_is_read_once_and_again_after_a_while():
    """At the start, on a change, and at the latest after the time for changes without an event."""
    world = World(3)
    assert await world.pass_by(0) == ["u0", "u1", "u2"]
    await world.settle()
    assert await world.pass_by(AGAIN_SECONDS / 2 - TOGETHER_SECONDS) == []
    world.inventory.change("u1")
    assert await world.pass_by(0) == ["u1"]
    assert sorted(await world.pass_by(AGAIN_SECONDS)) == ["u0", "u1", "u2"]
    world.inventory.end("u1")
    assert sorted(await world.pass_by(AGAIN_SECONDS)) == ["u0", "u2"]
    assert world.reader.reads == 9


@pytest.mark.parametrize("refused", [False, True])
async def test_whom_the_filter_leaves_out_is_asked_again_only_on_a_change(*, refused: bool):
    """By its name never; by its metadata once, without its limits, and once more by an event."""
    rule = GuestRule(labels={"title": "a"})
    options = FilterOptions(include=(rule,), exclude=(GuestRule(name="vm1"),))
    world = World(3, admission=GuestFilter(options))
    if refused:
        world.refused = {"u0", "u2"}
    assert await world.pass_by(0) == ["u0", "u2"]
    assert len(world.inventory) == 0
    await world.reader.tune(asyncio.Event(), 3)
    if not refused:
        assert await world.pass_by(AGAIN_SECONDS) == []
    world.refused.clear()
    world.xml = XML.replace("<uuid>", "<title>a</title><uuid>")
    assert world.tuned == 0
    world.inventory.change("u2")
    assert "u2" in await world.pass_by(0)
    assert "u2" in world.inventory.uuids()
    await world.reader.tune(asyncio.Event(), 3)
    assert world.tuned == len(world.inventory)


async def test_domains_are_not_all_read_again_at_once():
    """Each has its own time, so that libvirt is not asked about all of them in one go."""
    world = World(100)
    await world.pass_by(0)
    await world.settle()
    reads = []
    for _ in range(20):
        before = world.reader.reads
        await world.pass_by(AGAIN_SECONDS / 20)
        reads.append(world.reader.reads - before)
    assert sum(reads[:9]) == 0
    assert max(reads) < 40
    assert sum(reads) >= 100


async def test_limits_are_read_some_at_a_time_and_the_latest_change_first():
    """After the start everybody waits for its turn; whom an event tells of has the next one."""
    world = World(30)
    await world.pass_by(0)
    tuned = [uuid for uuid in world.inventory.uuids() if "tunable" in world.groups(uuid)]
    assert len(tuned) == TURN_DOMAINS
    assert "u5" not in tuned
    world.shares = 2048
    world.inventory.change("u5")
    await world.pass_by(TURN_DOMAINS * LIMITS_SECONDS)
    assert world.groups("u5") == {"domain", "tunable"}
    await world.settle()
    assert all(world.groups(uuid) == {"domain", "tunable"} for uuid in world.inventory.uuids())


async def test_limits_are_read_again_only_where_they_changed():
    """What the XML says of them decides, whatever the event was about; else once in an hour."""
    world = World(1)
    await world.pass_by(0)
    assert world.tuned == 1
    for _ in range(5):
        world.inventory.change("u0")
        await world.pass_by(LIMITS_AGAIN_SECONDS / 10)
    assert (world.tuned, world.reader.reads) == (1, 6)
    world.shares = 2048
    await world.pass_by(AGAIN_SECONDS)
    assert world.tuned == 2
    await world.pass_by(LIMITS_AGAIN_SECONDS)
    assert world.tuned == 3
    world.inventory.see("u0", "vm0", 2)
    await world.pass_by(1)
    assert world.tuned == 4


async def test_a_change_sends_what_changed_alone():
    """New limits are sent at once, and nobody else's; all are sent again after a while."""
    world = World(3)
    await world.pass_by(0)
    await world.settle()
    world.shares = 2048
    world.inventory.change("u1")
    await world.pass_by(3 * LIMITS_SECONDS)
    changed = world.batches[-1]
    assert {r.domain.uuid for r in changed.readings if r.domain} == {"u1"}
    assert [r.values for r in changed.readings if r.shape.group == "tunable"] == [(2048,)]
    assert changed.groups == {"domain", "tunable"}
    await world.pass_by(EMIT_SECONDS)
    shown = {r.domain.uuid for r in world.batches[-1].readings if r.domain}
    assert shown == {"u0", "u1", "u2"}


async def test_what_did_not_change_is_not_sent_before_its_time():
    """XML that reads as before costs a question and nothing else."""
    world = World(1)
    await world.pass_by(0)
    await world.settle()
    sent, described = len(world.batches), world.inventory.descriptions()
    world.inventory.change("u0")
    assert await world.pass_by(EMIT_SECONDS / 2) == ["u0"]
    assert len(world.batches) == sent
    (before, *_), (after, *_) = described, world.inventory.descriptions()
    assert after is before


async def test_limits_take_a_tenth_of_the_budget_at_most():
    """Those of some, then nobody's until that was little enough; a change alone is read soon."""
    world = World(TURN_DOMAINS + 2, allowed=0.004)  # 0.2 % of two CPUs
    world.tuning_seconds = 0.003
    await world.pass_by(0)
    for _ in range(7):
        assert world.tuned == TURN_DOMAINS
        await world.pass_by(10)
    await world.pass_by(10)
    assert world.tuned == TURN_DOMAINS + 2
    world.shares = 2048
    world.inventory.change("u0")
    await world.pass_by(16)
    assert world.tuned == TURN_DOMAINS + 3


async def test_limits_of_many_travel_together():
    """While more of them wait they are not sent turn by turn; news of the XML does not wait."""
    world = World(100)
    await world.pass_by(0)
    sent = len(world.batches)
    for _ in range(int(TOGETHER_SECONDS) - 1):
        await world.pass_by(1)
    turns = 1 + int((TOGETHER_SECONDS - 1) / (TURN_DOMAINS * LIMITS_SECONDS))
    assert (world.tuned, len(world.batches)) == (turns * TURN_DOMAINS, sent)
    world.inventory.see("new", "new", 1)
    await world.pass_by(0)
    assert "new" in {r.domain.uuid for r in world.batches[-1].readings if r.domain}
    assert len(world.batches) == sent + 1


async def test_a_domain_whose_xml_cannot_be_read_has_its_limits():
    """The log says once what is wrong with the XML; nothing else is lost."""
    world = World(1)
    world.xml = "<!DOCTYPE domain><domain/>"
    with capture_logs() as logs:
        await world.pass_by(0)
        world.inventory.change("u0")
        await world.pass_by(1)
    assert world.groups() == {"tunable"}
    assert [entry["event"] for entry in logs] == ["domain.undescribed"]


def described(world: World) -> set[str]:
    """Return who is described."""
    return {r.domain.uuid for r in world.inventory.descriptions() if r.domain}


async def test_while_a_call_of_others_hangs_all_but_its_guest_are_described():
    """Whose monitor is held is seen without asking it; it is described when the call returns."""
    world = World(25)
    world.stuck, world.hanging = 1, {"u3"}
    await world.pass_by(0)
    assert described(world) == set(world.inventory.uuids()) - {"u3"}
    await world.settle()
    assert await world.pass_by(HELD_SECONDS - 1) == []
    world.inventory.see("new", "new", 1)
    assert await world.pass_by(0) == ["new"]
    assert "new" in described(world)
    world.stuck, world.hanging = 0, set()
    world.free()
    assert await world.pass_by(0) == ["u3"]
    assert "u3" in described(world)


async def test_a_call_of_ours_that_hangs_costs_one_guest():
    """What came before it is kept, who stands behind it is asked next, and it is left alone."""
    world = World(4)
    tuned = world.tuned
    ends = threading.Event()
    hung = threading.Event()
    threads: list[threading.Thread] = []

    async def run(function: Callable[[Session], object], _: float, **__: bool) -> object:
        if world.stuck or function.func != world.reader._read:  # type: ignore[attr-defined]
            return function(Session(world))
        world.stuck = 1
        threads.append(threading.Thread(target=function, args=(Session(world),)))
        threads[0].start()
        while not hung.is_set():
            await asyncio.sleep(0)
        raise Overdue

    def xml(_: int) -> str:
        if world.asked[-1] == "u1" and not ends.is_set():
            hung.set()
            ends.wait(10)
        return XML

    world.run, world.XMLDesc = run, xml  # type: ignore[method-assign]
    try:
        await world.reader.read_all(asyncio.Event())
        assert described(world) == {"u0", "u2", "u3"}
        assert world.asked == ["u0", "u1", "u2", "u3"]
        await world.pass_by(HELD_SECONDS + 1)
        assert "u1" not in world.asked[tuned:], "it is not asked while the call hangs"
    finally:
        ends.set()
        threads[0].join(10)
    assert world.asked[-1] != "u2", "a call that was given up goes no further"
    world.free()
    assert "u1" in await world.pass_by(0)
    assert "u1" in described(world)


async def test_where_too_much_hangs_nothing_is_asked_in_a_loop():
    """What is not described stays so until a call returns, which wakes; nobody looks meanwhile."""
    world = World(3)
    world.stuck = UNPROVEN_STUCK_MAX
    for _ in range(5):
        await world.pass_by(1)
    assert world.turns == 1
    await world.pass_by(HELD_SECONDS)
    assert world.turns == 2
    world.stuck = 0
    world.free()
    await world.pass_by(0)
    assert described(world) == {"u0", "u1", "u2"}


async def test_a_domain_that_has_ended_is_no_fault():
    """Nothing is said of a short life, nothing is counted, and nothing is kept of it."""
    world = World(500)
    world.gone = set(world.inventory.uuids())
    with capture_logs() as logs:
        await world.reader.read_all(asyncio.Event())
    assert (logs, world.reader.failures, world.reader.reads) == ([], 0, 0)
    await world.settle()
    assert world.tuned == 0
    for uuid in world.inventory.uuids():
        world.inventory.end(uuid)
    await world.pass_by(0)
    assert world.reader._guests == {}


async def test_limits_leave_a_call_that_may_hang_to_the_polls():
    """With two calls hanging no limits are asked for, and afterwards they are."""
    world = World(1)
    await world.reader.read_all(asyncio.Event())
    world.asked.clear()
    world.stuck = 2
    await world.settle()
    assert world.asked == []
    world.stuck = 0
    await world.settle()
    assert world.groups() == {"domain", "tunable"}


@pytest.mark.parametrize("error", [Disconnected, Crowded])
async def test_limits_are_asked_for_again_after_a_loss(error: type[Exception]):
    """A connection that is lost in between costs no domain its limits."""
    world = World(2)
    await world.reader.read_all(asyncio.Event())

    def fail() -> None:
        raise error

    world.trouble = fail
    await world.settle()
    world.trouble = lambda: None
    await world.settle()
    assert world.groups("u0") == world.groups("u1") == {"domain", "tunable"}


async def test_a_domain_that_libvirt_does_not_tell_of_costs_itself_alone():
    """Those that were asked for in the same turn are described."""
    world = World(3)
    world.refused = {"u1"}
    with capture_logs() as logs:
        await world.reader.read_all(asyncio.Event())
    world.reader.send(world.batches.append)
    shown = {r.domain.uuid for r in world.batches[-1].readings if r.domain}
    assert shown == {"u0", "u2"}
    assert [(entry["event"], entry["uuid"]) for entry in logs] == [("domain.undescribed", "u1")]


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

"""Agents in guests are asked at their intervals, and one that hangs costs the others nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import libvirt
import pytest
import structlog
from structlog.testing import capture_logs

from virtstatd.catalog import shipped
from virtstatd.collect.descriptions.xml import Describer, parsed_xml
from virtstatd.collect.guest_agent.asking import AgentThread
from virtstatd.collect.guest_agent.collector import (
    KIND,
    LOOK_SECONDS,
    RETRY_SECONDS,
    GuestAgentCollector,
)
from virtstatd.collect.guest_agent.guests import (
    BACKOFF_MAX_SECONDS,
    CAME_SECONDS,
    REFUSED_SECONDS,
)
from virtstatd.collect.guest_agent.options import GuestAgentOptions
from virtstatd.collect.parts import Parts
from virtstatd.collector import Up
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch
from virtstatd.testing import FakeClock, settle


XML = """
<domain type='kvm'><name>{name}</name><devices>{channel}</devices></domain>
"""
CHANNEL = "<channel><target type='virtio' name='org.qemu.guest_agent.0' state='{}'/></channel>"
FILESYSTEM = {
    "fs.count": 1,
    "fs.0.mountpoint": "/",
    "fs.0.total-bytes": 100,
    "fs.0.used-bytes": 40,
}
ANSWERS: dict[int, dict[str, Any]] = {
    1: {"user.count": 0},
    2: {"os.id": "debian"},
    4: {"timezone.name": "UTC", "timezone.offset": 0},
    8: {"hostname": "web"},
    16: FILESYSTEM,
    32: {"disk.count": 0},
    64: {"if.count": 0},
    128: {"load.1m": 0.5, "load.5m": 0.25, "load.15m": 0.125},
}
OFTEN = {1, 128}
ASKS = GuestAgentOptions(enabled=True)


def error(code: int, message: str = "it says no") -> libvirt.libvirtError:
    """Return libvirt's error."""
    made = libvirt.libvirtError(message)
    made.err = (code, 0, message, 0, "", "", "", 0, 0)
    return made


def each_asked(*uuids: str, of: Collection[int] = tuple(ANSWERS)) -> dict[str, set[int]]:
    """Return these questions for each of these guests."""
    return {uuid: set(of) for uuid in uuids}


@dataclass
class Handle:
    """A guest as libvirt's binding shows it; `trouble` raises, or hangs."""

    trouble: Callable[[int], object] = lambda _: None
    asked: list[int] = field(default_factory=list)
    timeouts: list[int] = field(default_factory=list)
    refuses_timeouts: bool = False

    def agentSetResponseTimeout(self, seconds: int) -> None:  # noqa: N802 - libvirt's name
        """Set how long libvirt waits for the agent."""
        if self.refuses_timeouts:
            raise error(libvirt.VIR_ERR_NO_SUPPORT, "not by this driver")
        self.timeouts.append(seconds)

    def guestInfo(self, bit: int) -> dict[str, Any]:  # noqa: N802 - libvirt's name
        """Answer one question."""
        self.asked.append(bit)
        self.trouble(bit)
        return ANSWERS[bit]

    def guestVcpus(self) -> dict[str, str]:  # noqa: N802 - libvirt's name
        """Answer how many CPUs there are."""
        return {"vcpus": "0-1", "online": "0", "offlinable": "1"}


class NoPatience(AgentThread):
    """A thread whose limit has passed as soon as a call is known to hang."""

    def __init__(self, world: World, hanging_max: int) -> None:
        super().__init__(world.open, hanging_max, world.came)
        self._world = world

    async def _wait(self, call: asyncio.Future[Any], seconds: float) -> None:
        hangs = asyncio.ensure_future(self._world.hangs.acquire())
        await asyncio.wait({call, hangs}, return_when=asyncio.FIRST_COMPLETED)
        hangs.cancel()


class World:
    """A host with guests whose agents are connected."""

    def __init__(
        self,
        guests: int,
        *,
        hanging: int = 2,
        version: int = 11_002_000,
        options: GuestAgentOptions = ASKS,
    ) -> None:
        self.clock = FakeClock()
        self.version = version
        self.opened = 0
        self.closed_door = ""
        self.hangs = asyncio.Semaphore(0)
        self.thaw = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.inventory = Inventory(self.clock)
        self.handles: dict[str, Handle] = {}
        self.batches: list[Batch] = []
        self.told: list[Any] = []
        for number in range(guests):
            self.start(f"u{number}")
        up, log = Up(up=True), structlog.get_logger()
        connection = Connection(self.open, self.inventory, log, up)
        lanes = Lanes(self.open, 1, up)
        self.there = Hypervisor(up, self.inventory, lanes, connection, None, "", 25, 5.0, self.open)
        self.collector = GuestAgentCollector(
            options,
            self.there,
            shipped(),
            log,
            thread=NoPatience(self, hanging),
            clock=self.clock,
            rest=self.rest,
        )

    def came(self, uuid: str) -> None:
        """Tell the collector of an agent that has opened its channel."""
        self.collector.came(uuid)

    async def rest(self, _: asyncio.Event, seconds: float) -> None:
        """Let the time of a pause pass."""
        self.clock.now += seconds

    def open(self) -> Session:
        """Open a connection, unless it is refused."""
        if self.closed_door:
            raise error(libvirt.VIR_ERR_AUTH_FAILED, self.closed_door)
        self.opened += 1
        session: Any = self
        return Session(session)

    def start(self, uuid: str, *, number: int = 1, state: str = "connected") -> None:
        """Start a guest and describe it."""
        self.handles[uuid] = Handle()
        domain = self.inventory.see(uuid, uuid, number)
        assert domain
        channel = CHANNEL.format(state) if state else ""
        root = parsed_xml(XML.format(name=uuid, channel=channel))
        self.inventory.describe(domain, Describer(shipped()).readings(domain, root))

    def hang(self, _: int = 0) -> None:
        """Hang in libvirt until the test thaws it; after that it is no call that hangs."""
        if self.thaw.is_set():
            return
        self._loop.call_soon_threadsafe(self.hangs.release)
        assert self.thaw.wait(60)

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Tell that the connection lives."""
        return True

    def close(self) -> None:
        """Close the connection."""

    def domainEventRegisterAny(self, _: None, event: int, call: Any, __: None) -> int:  # noqa: N802
        """Note who is told of agents."""
        assert event == 18
        self.told.append(call)
        return 1

    def domainEventDeregisterAny(self, _: int) -> None:  # noqa: N802 - libvirt's name
        """Tell nobody any more."""
        self.told.pop()

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        """Tell libvirt's version."""
        return self.version

    def lookupByUUIDString(self, uuid: str) -> Handle:  # noqa: N802 - libvirt's name
        """Return a guest."""
        return self.handles[uuid]

    async def ask(self, seconds: float = 0.0) -> float:
        """Let time pass and ask the guests that are due; return the pause until the next."""
        self.clock.now += seconds
        self.batches.clear()
        for handle in self.handles.values():
            handle.asked.clear()
        return await self.collector.ask_due(self.batches.append, asyncio.Event())

    def asked(self) -> dict[str, set[int]]:
        """Return what was asked of each guest."""
        return {uuid: set(each.asked) for uuid, each in self.handles.items() if each.asked}

    def shown(self, uuid: str) -> dict[str, float]:
        """Return what was sent of a guest, by metric."""
        return {
            series.field.family.removeprefix("libvirt_domain_guest_"): value
            for batch in self.batches
            for reading in batch.readings
            if reading.domain and reading.domain.uuid == uuid
            for series, value in zip(reading.shape.series, reading.values, strict=True)
        }

    def own(self, key: str) -> dict[str, float]:
        """Return the collector's own numbers under a key, by their label."""
        return {
            next(iter(labels.values()), ""): number
            for of, labels, number in self.collector.numbers()
            if of == key and isinstance(number, int | float)
        }


@asynccontextmanager
async def hosting(guests: int, **options: Any) -> AsyncIterator[World]:
    """Make a world, and end its threads."""
    world = World(guests, **options)
    try:
        yield world
    finally:
        world.thaw.set()
        await world.collector._thread.close(60)


async def test_file_systems_are_asked_less_often_than_load():
    """All questions first, then load and users each minute, everything each five minutes."""
    async with hosting(2) as world:
        await world.ask()
        assert world.asked() == each_asked("u0", "u1")
        shown = world.shown("u0")
        assert shown["filesystem_size_bytes"] == 100
        assert shown["filesystem_used_bytes"] == 40
        assert (shown["load_1m"], shown["agent_responsive"]) == (0.5, 1)
        assert (shown["vcpus"], shown["vcpus_online"]) == (2, 1)
        await world.ask(59)
        assert world.asked() == {}
        await world.ask(1)
        assert world.asked() == each_asked("u0", "u1", of=OFTEN)
        await world.ask(240)
        assert world.asked() == each_asked("u0", "u1")
        assert world.own("agent_domains") == {"answering": 2, "silent": 0, "disconnected": 0}
        assert world.opened == 1


async def test_an_older_libvirt_is_asked_what_it_knows():
    """What a version does not have is not asked, so that nothing is refused."""
    async with hosting(1, version=9_000_000) as world:
        await world.ask()
        assert world.asked() == {"u0": set(ANSWERS) - {128}}
        assert world.own("agent_calls")["refused"] == 0


async def test_only_guests_with_a_connected_agent_are_asked():
    """A guest without a channel, or with one that nobody holds open, costs no call at all."""
    async with hosting(0) as world:
        world.start("none", state="")
        world.start("away", state="disconnected")
        await world.ask()
        assert world.asked() == {}
        assert world.opened == 0
        assert world.own("agent_domains") == {"answering": 0, "silent": 0, "disconnected": 1}
        world.start("away")
        await world.ask()
        assert world.asked() == {"away": set(ANSWERS)}
        world.start("away", state="disconnected")
        await world.ask(300)
        assert world.asked() == {}
        assert world.shown("away") == {"agent_responsive": 0}
        assert all("guest_filesystem" in batch.groups for batch in world.batches)


async def test_a_refusal_costs_its_own_numbers_alone():
    """The rest is asked; the refused question comes again after a while; the log has one line."""
    async with hosting(3) as world:

        def refuse(bit: int) -> None:
            if bit == 2:
                raise error(libvirt.VIR_ERR_INTERNAL_ERROR)

        for handle in world.handles.values():
            handle.trouble = refuse
        with capture_logs() as logs:
            await world.ask()
            assert "os_info" not in world.shown("u0")
            assert world.shown("u0")["filesystem_size_bytes"] == 100
            await world.ask(300)
            assert 2 not in world.asked()["u0"]
            await world.ask(REFUSED_SECONDS)
            assert 2 in world.asked()["u0"]
        assert [each["question"] for each in logs if each["event"] == "guest_agent.refused"] == [
            "os"
        ]
        assert world.own("agent_calls")["refused"] == 6


async def test_what_cannot_be_read_is_a_refusal():
    """An answer that the binding cannot decode costs its question alone."""
    async with hosting(1) as world:

        def garble(bit: int) -> None:
            if bit == 8:
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

        world.handles["u0"].trouble = garble
        await world.ask()
        assert "hostname_info" not in world.shown("u0")
        assert world.shown("u0")["agent_responsive"] == 1
        assert world.own("agent_calls")["refused"] == 1


async def test_a_silent_agent_is_asked_less_and_less():
    """After each error the pause doubles, up to a limit; an answer ends that; two lines say so."""
    async with hosting(1) as world:

        def silent(_: int) -> None:
            raise error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "agent is not there")

        world.handles["u0"].trouble = silent
        with capture_logs() as logs:
            pauses = []
            await world.ask()
            assert world.handles["u0"].asked == [16], "nothing else after the first error"
            assert world.shown("u0") == {"agent_responsive": 0}
            for _ in range(7):
                pause = 0
                while True:
                    pause += 30
                    await world.ask(30)
                    if world.asked():
                        break
                pauses.append(pause)
            assert pauses == [60, 120, 240, 480, *[BACKOFF_MAX_SECONDS] * 3]
            world.handles["u0"].trouble = lambda _: None
            await world.ask(BACKOFF_MAX_SECONDS)
            assert world.shown("u0")["agent_responsive"] == 1
            await world.ask(60)
            assert world.asked() == {"u0": OFTEN}
        events = [each["event"] for each in logs]
        assert events == ["guest_agent.opened", "guest_agent.silent", "guest_agent.answers"]


async def test_an_agent_that_starts_again_is_asked_soon():
    """Its event ends the pause and what was refused; one that starts all the time waits 10 s."""
    async with hosting(2) as world:
        handle = world.handles["u0"]

        def silent(_: int) -> None:
            raise error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "agent is not there")

        handle.trouble = silent
        for seconds in (0.0, 60.0, 120.0, 240.0):
            await world.ask(seconds)
        handle.trouble = lambda _: None
        await world.ask(60)
        assert "u0" not in world.asked()
        (told,) = world.told
        for state, asked in ((2, False), (1, True)):
            told(None, Guest("u0"), state, 0, None)
            await settle()
            await world.ask()
            assert ("u0" in world.asked()) is asked
        for seconds, asked in ((0.0, False), (CAME_SECONDS - 1, False), (1.0, True)):
            told(None, Guest("u0"), 1, 0, None)
            await settle()
            await world.ask(seconds)
            assert ("u0" in world.asked()) is asked
    assert world.told == []


@dataclass
class Guest:
    """A guest as an event names it."""

    uuid: str

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        """Return its UUID."""
        return self.uuid


async def test_a_call_that_hangs_leaves_the_others_their_turn():
    """It is left behind at its limit, its guest gets no other call, and comes back at once."""
    async with hosting(3) as world:
        world.handles["u1"].trouble = world.hang
        await world.ask()
        assert world.asked() == {"u0": set(ANSWERS), "u1": {16}, "u2": set(ANSWERS)}
        assert world.shown("u1") == {"agent_responsive": 0}
        assert world.own("agent_hanging") == {"": 1}
        await world.ask(3600)
        assert world.asked() == each_asked("u0", "u2")
        world.thaw.set()
        while world.collector._thread.hanging:
            await asyncio.sleep(0)
        await world.ask()
        assert world.asked() == {"u1": set(ANSWERS)}
        assert world.shown("u1")["agent_responsive"] == 1


async def test_so_many_calls_hang_and_no_more():
    """At the limit no guest is asked, which is logged once; then everything goes on."""
    async with hosting(4, hanging=2) as world:
        for uuid in ("u0", "u1"):
            world.handles[uuid].trouble = world.hang
        with capture_logs() as logs:
            pause = await world.ask()
            assert pause == LOOK_SECONDS
            assert world.asked() == {"u0": {16}, "u1": {16}}
            await world.ask(60)
            assert world.asked() == {}
            world.thaw.set()
            while world.collector._thread.hanging:
                await asyncio.sleep(0)
            await world.ask(60)
            assert world.asked() == each_asked(*world.handles)
        events = [each["event"] for each in logs]
        assert events.count("guest_agent.crowded") == events.count("guest_agent.asking") == 1


async def test_libvirts_own_timeout_is_set_once_in_a_guests_run_and_only_if_wanted():
    """A refusal is logged and costs no answer; the next run of the guest gets the time again."""
    async with hosting(1) as world:
        await world.ask()
        assert world.handles["u0"].timeouts == []
    limited = GuestAgentOptions(enabled=True, response_timeout_seconds=30)
    async with hosting(2, options=limited) as world:
        world.handles["u1"].refuses_timeouts = True
        with capture_logs() as logs:
            await world.ask()
            await world.ask(3600)
            assert world.asked() == each_asked("u0", "u1")
            assert [each.timeouts for each in world.handles.values()] == [[30], []]
            world.start("u0", number=2)
            await world.ask(3600)
            assert world.handles["u0"].timeouts == [30]
        of = [(each["event"], each["uuid"]) for each in logs if "timeout" in each["event"]]
        told = ["guest_agent.timeout_set", "guest_agent.timeout_refused", "guest_agent.timeout_set"]
        assert of == list(zip(told, ("u0", "u1", "u0"), strict=True))


async def test_a_connection_that_is_refused_is_logged_once_and_tried_again():
    """Nobody is asked meanwhile; the reason is in the log, and in the outcome of `once`."""
    async with hosting(2) as world:
        world.closed_door = "authentication unavailable: no polkit agent"
        with capture_logs() as logs:
            assert await world.ask() == RETRY_SECONDS
            assert await world.ask() == RETRY_SECONDS
            outcome = await world.collector.once(world.batches.append)
            assert outcome.answered is False
            assert "authentication" in outcome.reason
            world.closed_door = ""
            await world.ask()
        assert world.asked() == each_asked("u0", "u1")
        events = [each["event"] for each in logs]
        assert events == ["guest_agent.unavailable", "guest_agent.opened"]


async def test_a_guest_that_ends_while_it_is_asked_sends_nothing():
    """Its answers may be another run's."""
    async with hosting(1) as world:
        world.handles["u0"].trouble = lambda _: world.inventory.end("u0")
        await world.ask()
        assert world.batches == []


async def test_thousands_of_guests_are_asked_in_rounds_of_seconds():
    """Descriptions are looked at between, and the pause after each guest is as long as its turn."""
    async with hosting(100) as world:

        def slowly(_: int) -> None:
            world.clock.now += 0.01

        for handle in world.handles.values():
            handle.trouble = slowly
        begun = world.clock.now
        rounds = 0
        seen: set[str] = set()
        while len(seen) < 100:
            await world.ask()
            seen |= world.asked().keys()
            rounds += 1
            assert world.clock.now - begun < LOOK_SECONDS * rounds + 1
        assert rounds > 2
        assert world.clock.now - begun > 2 * 100 * 0.079


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (GuestAgentOptions(), ""),
        (GuestAgentOptions(enabled=True), "never does"),
        (GuestAgentOptions(set_balloon_period=True), "sets balloon periods"),
        (GuestAgentOptions(cpu=True, limit_seconds=1.0), ""),
    ],
)
async def test_what_is_off_is_not_there(options: GuestAgentOptions, note: str):
    """Without a switch there is no collector, so no call and no connection; `check` says which."""
    world = World(1)
    log, catalog = structlog.get_logger(), shipped()
    parts = Parts(catalog, world.there, log, frozenset(), 1.0, asyncio.Event())
    made = KIND.built(options, parts)
    assert (made is None) is (not note)
    assert note in KIND.note(options)
    assert bool(KIND.note(options)) is bool(note)
    assert world.opened == 0


async def test_only_the_switch_for_balloons_asks_no_guest():
    """Where agents are not to be asked they are not, whatever else is on."""
    world = World(2, options=GuestAgentOptions(set_balloon_period=True))
    await world.ask()
    await world.collector.once(world.batches.append)
    assert world.asked() == {}
    assert world.batches == []
    assert world.opened == 0, "their balloons have no missing period"

"""Guests that libvirt knows, running or not."""

import asyncio
from functools import partial
from typing import Any, ClassVar

import libvirt
import pytest
import structlog

from virtstatd.catalog import shipped
from virtstatd.collect.defined.asking import COUNTED_GUESTS, LISTS
from virtstatd.collect.defined.collector import DefinedCollector, DefinedOptions, defined
from virtstatd.collect.parts import Parts
from virtstatd.collector import Up
from virtstatd.hypervisor.connection import Connection, version_text
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch
from virtstatd.testing import FakeClock


SHUTOFF, CRASHED, RUNNING = 5, 6, 1


def refusal(code: int, text: str = "refused") -> libvirt.libvirtError:
    """Return an error of libvirt's with this code."""
    error = libvirt.libvirtError(text)
    error.err = (code, 10, text, 2, None, None, None, -1, -1)
    return error


class Guest:
    """A guest of a libvirt that is made up; a negative number does not run."""

    def __init__(self, name: str, number: int = -1, state: int = SHUTOFF, **has: int) -> None:
        self.given, self.number, self.now = name, number, state
        self.has = {"persistent": 1} | has

    def name(self) -> str:
        """Return its name."""
        return self.given

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's
        """Return a UUID of its name."""
        return f"uuid-{self.given}"

    def ID(self) -> int:  # noqa: N802 - libvirt's
        """Return its number."""
        return self.number

    def state(self) -> list[int]:
        """Return its state and a reason."""
        return [self.now, 1]

    def snapshotNum(self, _: int) -> int:  # noqa: N802 - libvirt's
        """Count."""
        return self.has["snapshots"]

    def listAllCheckpoints(self, _: int) -> list[int]:  # noqa: N802 - libvirt's
        """List."""
        return [0] * self.has["checkpoints"]


class Libvirt:
    """A connection that answers, counts its calls, and refuses what it is told to."""

    FLAGS: ClassVar = {
        1 << 2: "persistent",
        1 << 8: "managed_save",
        1 << 10: "autostart",
        1 << 12: "snapshots",
        1 << 14: "checkpoints",
    }

    def __init__(self, *guests: Guest) -> None:
        self.guests = list(guests)
        self.refused: dict[str, int] = {}
        self.calls: list[str] = []
        self.asked = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def isAlive(self) -> int:  # noqa: N802 - libvirt's
        """Live."""
        return 1

    def close(self) -> None:
        """Close."""

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's
        """Return a version."""
        return 9_001_002

    def getAllDomainStats(self, _: int, flags: int) -> list[Any]:  # noqa: N802 - libvirt's
        """Return states of all guests, or those that run."""
        self._called("stats")
        self.loop.call_soon_threadsafe(self.asked.set)
        return [(g, {"state.state": g.now, "state.reason": 1}) for g in self.guests]

    def listAllDomains(self, flags: int) -> list[Guest]:  # noqa: N802 - libvirt's
        """List those with something."""
        name = self.FLAGS.get(flags, "all")
        self._called(name)
        return [guest for guest in self.guests if name == "all" or guest.has.get(name)]

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.refused:
            raise refusal(self.refused[name], f"{name} is refused")


def collector(there: Libvirt) -> tuple[DefinedCollector, Hypervisor]:
    """Return a collector with this libvirt."""
    up, inventory, log = Up(up=True), Inventory(), structlog.get_logger()
    session: Any = there
    opened = partial(Session, session)
    lanes = Lanes(opened, 1, up)
    connection = Connection(opened, inventory, log, up)
    hypervisor = Hypervisor(up, inventory, lanes, connection, None, "", 25, 5.0, opened)
    made = DefinedCollector(DefinedOptions(), shipped(), hypervisor, log, FakeClock())
    return made, hypervisor


def shown(batches: list[Batch]) -> dict[tuple[str, str, str], float]:
    """Return what batches say, by guest, metric and state, and what ended as None of it."""
    found: dict[tuple[str, str, str], float] = {}
    for batch in batches:
        for gone in batch.gone:
            found = {key: value for key, value in found.items() if key[0] != gone.name}
        for reading in batch.readings:
            name = reading.domain.name if reading.domain else ""
            for series, value in zip(reading.shape.series, reading.values, strict=True):
                state = dict(series.labels).get("state", "")
                found[name, series.field.family, state] = value
    return found


async def test_states_and_facts_of_all():
    """Guests that do not run have a state, all have facts, and the host has them counted."""
    there = Libvirt(
        Guest("off", autostart=1, snapshots=3),
        Guest("dead", state=CRASHED, managed_save=1, checkpoints=2),
        Guest("odd", state=77),
        Guest("on", 7, RUNNING, persistent=0),
    )
    it, hypervisor = collector(there)
    hypervisor.inventory.see("uuid-on", "on", 7)
    batches: list[Batch] = []
    assert (await it.once(batches.append)).answered
    await hypervisor.lanes.close(5.0)
    found = shown(batches)
    assert found["off", "libvirt_domain_info_state", "shutoff"] == SHUTOFF
    assert found["dead", "libvirt_domain_info_state", "crashed"] == CRASHED
    assert found["odd", "libvirt_domain_info_state", "77"] == 77
    assert ("on", "libvirt_domain_info_state", "running") not in found
    facts = ("autostart", "persistent", "managed_save", "snapshots", "checkpoints")
    assert {
        name: [found[name, f"libvirt_domain_{fact}", ""] for fact in facts]
        for name in ("off", "dead", "on")
    } == {"off": [1, 1, 0, 3, 0], "dead": [0, 1, 1, 0, 2], "on": [0, 0, 0, 0, 0]}
    counts = {state: n for (_, name, state), n in found.items() if name.endswith("_in_state")}
    assert {state: n for state, n in counts.items() if n} == {
        "running": 1,
        "shutoff": 1,
        "crashed": 1,
        "77": 1,
    }
    assert found["", "libvirt_inactive_domains", ""] == 3


async def test_a_list_that_is_refused_costs_itself_alone():
    """What a driver or an old libvirt does not have is absent, not zero, and the rest is there."""
    there = Libvirt(Guest("off", snapshots=1))
    there.refused = {"checkpoints": 8, "persistent": 3, "stats": libvirt.VIR_ERR_NO_SUPPORT}
    it, hypervisor = collector(there)
    batches: list[Batch] = []
    assert (await it.once(batches.append)).answered
    await hypervisor.lanes.close(5.0)
    names = {name for of, name, _ in shown(batches) if of == "off"}
    assert names == {
        "libvirt_domain_info_state",
        "libvirt_domain_info_state_reason",
        "libvirt_domain_autostart",
        "libvirt_domain_managed_save",
        "libvirt_domain_snapshots",
    }


async def test_without_an_answer_there_is_nothing():
    """Libvirt that refuses all lists is no failure here: others report it."""
    there = Libvirt()
    there.refused = {"stats": 38}
    it, hypervisor = collector(there)
    batches: list[Batch] = []
    outcome = await it.once(batches.append)
    await hypervisor.lanes.close(5.0)
    assert (outcome.answered, outcome.reason, batches) == (None, "stats is refused", [])


async def test_a_guest_is_shown_once():
    """One that starts is left to others at once, one that is undefined or renamed is gone."""
    moving, gone, renamed = Guest("moving"), Guest("gone"), Guest("before")
    there = Libvirt(moving, gone, renamed)
    it, hypervisor = collector(there)
    batches: list[Batch] = []
    await it.once(batches.append)
    there.guests = [moving, renamed]
    renamed.given = "after"
    renamed.UUIDString = lambda: "uuid-before"  # type: ignore[method-assign]
    hypervisor.inventory.see("uuid-moving", "moving", 5)  # the list is older than its start
    await it.once(batches.append)
    await hypervisor.lanes.close(5.0)
    states = {of for of, name, _ in shown(batches) if name == "libvirt_domain_info_state"}
    assert states == {"after"}
    ended = [domain for batch in batches for domain in batch.gone]
    assert {(each.name, each.id) for each in ended} == {
        ("moving", -1),
        ("gone", -1),
        ("before", -1),
    }


async def test_a_transient_guest_that_ends_is_not_shown():
    """Until libvirt has removed it, it is listed as one that does not run; nothing reports when."""
    there = Libvirt(Guest("off"), Guest("ends", persistent=0))
    it, hypervisor = collector(there)
    batches: list[Batch] = []
    await it.once(batches.append)
    await hypervisor.lanes.close(5.0)
    found = shown(batches)
    assert {of for of, _, _ in found} == {"", "off"}
    assert found["", "libvirt_inactive_domains", ""] == 1


async def test_counting_is_spread_over_rounds():
    """Of many guests with snapshots some are counted in a round, and all in the end."""
    there = Libvirt(*(Guest(f"g{n}", snapshots=n + 1) for n in range(2 * COUNTED_GUESTS)))
    it, hypervisor = collector(there)
    known = []
    for _ in range(3):
        batches: list[Batch] = []
        await it.once(batches.append)
        found = shown(batches)
        known.append(sum(name == "libvirt_domain_snapshots" for _, name, _ in found))
        assert all(
            value == int(of[1:]) + 1
            for (of, name, _), value in found.items()
            if name == "libvirt_domain_snapshots"
        )
    await hypervisor.lanes.close(5.0)
    assert known == [COUNTED_GUESTS, 2 * COUNTED_GUESTS, 2 * COUNTED_GUESTS]


async def test_it_asks_for_states_when_a_guest_has_started():
    """A change of the running guests is followed by states, and who stays, not by all lists."""
    there = Libvirt(Guest("off"))
    it, hypervisor = collector(there)
    stop = asyncio.Event()
    task = asyncio.create_task(it.run(lambda _: None, hypervisor.up, stop))
    try:
        async with asyncio.timeout(30):
            await there.asked.wait()
            there.asked.clear()
            hypervisor.inventory.see("uuid-vm", "vm", 1)
            await there.asked.wait()
    finally:
        stop.set()
        await task
        await hypervisor.lanes.close(5.0)
    assert there.calls == ["stats", *LISTS, "stats", "persistent"]


@pytest.mark.parametrize("enabled", [True, False])
async def test_off_is_not_built(enabled: bool):
    """Without the collector there is nothing that could call."""
    _, hypervisor = collector(Libvirt())
    log = structlog.get_logger()
    parts = Parts(shipped(), hypervisor, log, frozenset(), 1.0, asyncio.Event())
    assert (defined(DefinedOptions(enabled=enabled), parts) is not None) is enabled
    await hypervisor.lanes.close(5.0)


def test_versions_as_people_write_them():
    """Libvirt's number of a version has three digits for each part."""
    assert version_text(9_000_000) == "9.0.0"
    assert version_text(11_010_002) == "11.10.2"

"""Errors of disks: what fails and why, of each guest alone."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import libvirt
import structlog
from structlog.testing import capture_logs

from virtstatd.catalog import load
from virtstatd.collect.disk_errors import GROUPS, KIND, DiskErrorsCollector, DiskErrorsOptions
from virtstatd.collect.tier import Tier
from virtstatd.errors import Overdue
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch
from virtstatd.runtime.ticker import Ticker


CATALOG = load()


def error(code: int, message: str) -> libvirt.libvirtError:
    """Make an error as libvirt raises it."""
    made = libvirt.libvirtError(message)
    made.err = (code, 10, message, 2, None, None, None, -1, -1)
    return made


@dataclass
class Guest:
    """A domain's handle; `trouble` may raise when it is asked."""

    errors: dict[str, int] | None = field(default_factory=dict)
    control: int = 0
    trouble: Callable[[], object] = lambda: None
    asked: int = 0

    def controlInfo(self) -> tuple[int, int, int]:  # noqa: N802 - libvirt's
        """Tell whether the monitor is free."""
        return self.control, 0, 0

    def diskErrors(self) -> dict[str, int] | None:  # noqa: N802 - libvirt's
        """Answer."""
        self.asked += 1
        self.trouble()
        return self.errors


class World:
    """A host with some guests, its connection and the lane that asks it."""

    deadline_seconds = 5.0
    slice_domains = 10
    stuck = 0

    def __init__(self, **guests: Guest) -> None:
        self.guests = guests
        self.inventory = Inventory()
        self.lanes = self
        for uuid in guests:
            self.inventory.see(uuid, uuid, 1)
        self.tier = Tier("disk_errors", 0, GROUPS, Ticker("disk_errors", 60.0, 0.0))
        there: Any = self
        self.reader = DiskErrorsCollector(there, CATALOG, self.tier, structlog.get_logger())

    async def run(self, function: Callable[[Session], object], _: float, **__: bool) -> object:
        """Call at once, as a lane."""
        return function(Session(self))

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Tell that the connection lives."""
        return True

    def lookupByUUIDString(self, uuid: str) -> Guest:  # noqa: N802 - libvirt's name
        """Return a handle."""
        return self.guests[uuid]

    async def read(self) -> dict[str, dict[str, float]]:
        """Read once; return each guest's numbers by metric and labels' values."""
        batches: list[Batch] = []
        await self.reader.turns.round(batches.append, asyncio.Event())
        return {
            reading.domain.uuid: {
                " ".join((series.field.name, *(text for _, text in series.labels))): value
                for series, value in zip(reading.shape.series, reading.values, strict=True)
            }
            for batch in batches
            for reading in batch.readings
            if reading.domain
        }


async def test_disks_in_error_are_counted_and_named():
    """A guest without errors has zero; a code of a later libvirt is shown as a number."""
    world = World(
        well=Guest({}),
        none=Guest(None),
        full=Guest({"vda": 2, "vdb": 1, "vdc": 7, "vdd": 0}),
    )
    assert await world.read() == {
        "well": {"disks_in_error": 0},
        "none": {"disks_in_error": 0},
        "full": {
            "disks_in_error": 3,
            "error_info vda no_space": 1,
            "error_info vdb unspecified": 1,
            "error_info vdc 7": 1,
        },
    }


async def test_a_guest_that_fails_or_hangs_costs_itself():
    """One that ended, one whose call hangs: the others are asked; a busy monitor is left alone."""

    def ended() -> None:
        raise error(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")

    def hangs() -> None:
        raise Overdue

    busy = Guest(control=2)
    world = World(
        a=Guest(), gone=Guest(trouble=ended), b=Guest(), hung=Guest(trouble=hangs), busy=busy
    )
    assert set(await world.read()) == {"a", "b"}
    assert world.tier.missing == {"gone", "hung", "busy"}
    assert busy.asked == 0
    world.stuck = 1
    assert set(await world.read()) == {"a", "b"}
    assert world.guests["hung"].asked == 1, "not again while its call hangs"


async def test_a_driver_without_the_call_is_asked_once():
    """Its refusal is logged, and stands until libvirt is connected anew."""

    def refuse() -> None:
        raise error(libvirt.VIR_ERR_NO_SUPPORT, "this function is not supported")

    world = World(a=Guest(trouble=refuse), b=Guest(trouble=refuse))
    with capture_logs() as logs:
        assert await world.read() == await world.read() == {}
    assert [entry["event"] for entry in logs] == ["disk_errors.refused"]
    assert [guest.asked for guest in world.guests.values()] == [1, 0]
    outcome = await world.reader.once(lambda _: None)
    assert outcome.answered is None
    world.reader.reconnected()
    await world.read()
    assert world.guests["a"].asked == 2


def test_it_is_off_unless_it_is_wanted():
    """By default there is no collector, and so no call."""
    parts: Any = None
    assert DiskErrorsOptions() == DiskErrorsOptions(enabled=False, interval_seconds=60.0)
    assert KIND.built(DiskErrorsOptions(), parts) is None

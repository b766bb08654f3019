"""CPU time per CPU of the host, from guests that answer what the test says."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import libvirt
import pytest
import structlog
from structlog.testing import capture_logs

from virtstatd.catalog import load
from virtstatd.collect.cpu_stats import GROUPS, CpuStats, CpuStatsCollector
from virtstatd.collect.tier import Tier
from virtstatd.collect.turns import TURN_SECONDS
from virtstatd.errors import Crowded, Disconnected, Overdue
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import UNPROVEN_STUCK_MAX, Session
from virtstatd.model import Batch
from virtstatd.runtime.ticker import Ticker
from virtstatd.testing import FakeClock


CATALOG = load()
PREFIX = "libvirt_domain_cpu_stats_"
REFUSAL = "operation 'getCpuacctPercpuUsage' not supported for backend 'cgroup V2'"
TOTAL = {"cpu_time": 50, "user_time": 20, "system_time": 30}


def error(code: int, message: str) -> libvirt.libvirtError:
    """Make an error as libvirt raises it."""
    made = libvirt.libvirtError(message)
    made.err = (code, 10, message, 2, None, None, None, -1, -1)
    return made


@dataclass
class Guest:
    """A domain's handle; `trouble` may raise when it is asked."""

    cpus: list[dict[str, int]]
    trouble: Callable[[bool], object] = lambda _: None
    asked: list[bool] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=lambda: TOTAL)

    def getCPUStats(self, total: bool) -> list[dict[str, int]]:  # noqa: N802 - libvirt's
        """Answer for all CPUs, or for each."""
        self.asked.append(total)
        self.trouble(total)
        return [self.totals] if total else self.cpus


class World:
    """A host with some guests, its connection and the lane that asks it."""

    def __init__(self, guests: int, *, totals: bool = False) -> None:
        self.clock = FakeClock()
        self.stuck = 0
        self.alive = True
        self.online = [True, True]
        self.batches: list[Batch] = []
        self.inventory = Inventory(self.clock)
        self.guests = {f"u{number}": Guest(times(7, 9)) for number in range(guests)}
        for uuid in self.guests:
            self.inventory.see(uuid, uuid, 1)
        self.tier = Tier("cpu_stats", 0, GROUPS, Ticker("cpu_stats", 60.0, 0.0))
        self.reader = CpuStatsCollector(
            CpuStats(self.inventory, CATALOG, totals=totals, clock=self.clock),
            self.inventory,
            self,  # type: ignore[arg-type]
            self.tier,
            structlog.get_logger(),
            slice_domains=10,
            deadline_seconds=5.0,
        )

    async def run(
        self, function: Callable[[Session], object], _: float, *, monitor: bool, patient: bool
    ) -> object:
        """Call at once, as a lane; one that hangs stays stuck."""
        assert monitor
        assert patient
        if self.stuck >= UNPROVEN_STUCK_MAX:
            raise Crowded
        try:
            return function(Session(self))
        except Overdue:
            self.stuck += 1
            raise
        except libvirt.libvirtError as failed:
            raise Disconnected(str(failed)) from None

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Tell whether the connection lives."""
        return self.alive

    def getCPUMap(self) -> tuple[int, list[bool], int]:  # noqa: N802 - libvirt's name
        """Tell which CPUs are switched on."""
        if not self.alive:
            raise error(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed")
        return len(self.online), self.online, sum(self.online)

    def lookupByUUIDString(self, uuid: str) -> Guest:  # noqa: N802 - libvirt's name
        """Return a handle."""
        return self.guests[uuid]

    async def read(self) -> dict[str, dict[str, float]]:
        """Read once; return each guest's numbers by series."""
        self.batches.clear()
        await self.reader.turns.ask_all(self.batches.append, asyncio.Event())
        shown: dict[str, dict[str, float]] = {}
        for batch in self.batches:
            for reading in batch.readings:
                assert reading.domain
                numbers = shown.setdefault(reading.domain.uuid, {})
                for series, value in zip(reading.shape.series, reading.values, strict=True):
                    labels = ",".join(text for _, text in series.labels)
                    name = series.field.family.removeprefix(PREFIX)
                    numbers[f"{name} {labels}".strip()] = value
        return shown


def times(*pairs: int) -> list[dict[str, int]]:
    """Make the CPUs' times: each used so much, and its vCPUs two less."""
    return [{"cpu_time": used, "vcpu_time": used - 2} for used in pairs]


async def test_each_cpu_has_three_numbers():
    """Time of the guest, of its vCPUs, and what their difference has grown by: the overhead."""
    world = World(1)
    assert await world.read() == {
        "u0": {
            "cpu_time_seconds 0": 7,
            "cpu_time_seconds 1": 9,
            "vcpu_time_seconds 0": 5,
            "vcpu_time_seconds 1": 7,
            "overhead_seconds 0": 0,
            "overhead_seconds 1": 0,
        }
    }
    assert world.reader.supported is True
    assert world.tier.outcomes["ok"] == 1
    assert world.tier.good_at is not None


async def test_a_cpu_that_is_off_is_absent():
    """Libvirt says 0 of a CPU that is switched off; here it is not there at all."""
    world = World(1)
    world.guests["u0"].cpus = times(7, 2, 5)
    world.online = [True, False, True]
    shown = (await world.read())["u0"]
    assert [name for name in shown if name.startswith("cpu_time")] == [
        "cpu_time_seconds 0",
        "cpu_time_seconds 2",
    ]


async def test_overhead_never_falls():
    """The vCPUs' time is read later than the whole, so that the difference may seem to shrink."""
    world = World(1)

    async def overheads(*differences: int) -> tuple[float, ...]:
        world.guests["u0"].cpus = [{"cpu_time": 20, "vcpu_time": 20 - n} for n in differences]
        shown = (await world.read())["u0"]
        return shown["overhead_seconds 0"], shown["overhead_seconds 1"]

    assert await overheads(1000, 2) == (0, 0)
    assert await overheads(1005, 11) == (5, 9)
    assert await overheads(1004, 12) == (5, 10)
    assert await overheads(1006, 11) == (6, 10)

    world.inventory.started("u0", "u0", 2)
    assert await overheads(3, 11) == (0, 0), "another run"
    assert await overheads(4, 11) == (1, 0)
    world.inventory.end("u0")
    world.reader._source.forget()
    assert not world.reader._source._overheads


async def test_a_refusal_is_said_once_and_not_asked_for_again():
    """One guest's answer stands for the host, until libvirt is connected anew."""
    world = World(3)

    def refuse(_: bool) -> None:
        raise error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, REFUSAL)

    for guest in world.guests.values():
        guest.trouble = refuse
    with capture_logs() as logs:
        assert await world.read() == {}
        assert await world.read() == {}
        supported = [world.reader.supported]
        world.reader.reconnected()
        supported.append(world.reader.supported)
        assert supported == [False, None]
        assert await world.read() == {}
    assert [entry["event"] for entry in logs] == ["cpu_stats.refused"]
    assert REFUSAL in logs[0]["reason"]
    assert world.guests["u0"].asked == [False, False]
    assert world.guests["u1"].asked == []


@pytest.mark.parametrize(
    "trouble",
    [
        error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, REFUSAL),
        error(libvirt.VIR_ERR_OPERATION_INVALID, "cgroup CPUACCT controller is not mounted"),
        LookupError('Type value "0" not recognized'),
    ],
    ids=["version 2", "not mounted", "without some CPU"],
)
async def test_totals_are_kept_where_the_rest_is_refused(trouble: Exception):
    """Asked for totals as well, a host without times per CPU still gives those, under one name."""
    world = World(3, totals=True)

    def refuse(total: bool) -> None:
        if not total:
            raise trouble

    for guest in world.guests.values():
        guest.trouble = refuse
    with capture_logs() as logs:
        first, second = await world.read(), await world.read()
    totals = {
        "libvirt_domain_info_cpu_time_seconds": 50,
        "libvirt_domain_info_cpu_user_seconds": 20,
        "libvirt_domain_info_cpu_system_seconds": 30,
    }
    assert first == second == dict.fromkeys(world.guests, totals)
    assert len(logs) == 1
    assert world.guests["u0"].asked == [False, True, True]
    assert world.guests["u1"].asked == [True, True]


async def test_a_driver_that_tells_less():
    """Without the vCPUs' time there is no overhead, and of the totals what there is."""
    world = World(1, totals=True)
    guest = world.guests["u0"]
    guest.cpus = [{"cpu_time": 7}, {"cpu_time": 9}]
    guest.totals = {"cpu_time": 16}
    assert await world.read() == {
        "u0": {
            "cpu_time_seconds 0": 7,
            "cpu_time_seconds 1": 9,
            "libvirt_domain_info_cpu_time_seconds": 16,
        }
    }


async def test_a_failure_costs_one_guest():
    """A guest that has ended, or fails in its own way, is missing; the others are there."""
    world = World(3)

    def fail(_: bool) -> None:
        raise error(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")

    world.guests["u1"].trouble = fail
    assert set(await world.read()) == {"u0", "u2"}
    assert world.tier.missing == {"u1"}
    assert world.reader.supported is True


async def test_a_turn_ends_in_time_and_each_has_its_own():
    """However slow the host, a lane is given back soon; each turn's batch says when it began."""
    world = World(5)

    def take_long(_: bool) -> None:
        world.clock.now += TURN_SECONDS / 2

    for guest in world.guests.values():
        guest.trouble = take_long
    await world.read()
    assert [[r.domain.name for r in batch.readings if r.domain] for batch in world.batches] == [
        ["u0", "u1"],
        ["u2", "u3"],
        ["u4"],
    ]
    taken = [batch.taken_at for batch in world.batches]
    assert taken == sorted(set(taken))


async def test_a_call_that_hangs_costs_one_guest():
    """What came before it is kept, the others are asked on; it is left out until it returns."""
    world = World(4)

    def hang(_: bool) -> None:
        raise Overdue

    world.guests["u1"].trouble = hang
    assert set(await world.read()) == {"u0", "u2", "u3"}
    assert world.tier.missing == {"u1"}
    assert set(await world.read()) == {"u0", "u2", "u3"}
    assert world.guests["u1"].asked == [False]
    world.stuck, world.guests["u1"].trouble = 0, lambda _: None
    assert set(await world.read()) == {"u0", "u1", "u2", "u3"}
    assert world.tier.missing == set()


async def test_a_call_that_may_hang_is_left_to_the_polls():
    """With two calls hanging in libvirt nothing is asked: the third belongs to the polls."""
    world = World(2)
    world.stuck = 2
    assert await world.read() == {}
    assert world.tier.missing == {"u0", "u1"}
    assert world.tier.outcomes["withheld"] == 1


async def test_numbers_of_another_run_are_dropped():
    """A guest that restarts while it is asked gets none of the old run's numbers."""
    world = World(1)
    world.guests["u0"].trouble = lambda _: world.inventory.see("u0", "u0", 2)
    assert await world.read() == {}


async def test_a_lost_connection_ends_the_poll():
    """When the connection dies what was told is kept, and nobody else is asked."""
    world = World(3)

    def die(_: bool) -> None:
        world.alive = False
        raise error(38, "End of file while reading data")

    world.guests["u1"].trouble = die
    assert set(await world.read()) == {"u0"}
    assert world.guests["u2"].asked == []
    assert world.tier.missing == {"u1", "u2"}
    assert world.tier.good_at is None


async def test_guests_share_a_shape():
    """However many guests there are, encoders compile one shape per set of CPUs."""
    world = World(20)
    await world.read()
    assert len({id(r.shape) for batch in world.batches for r in batch.readings}) == 1
    assert len(world.batches) == 2

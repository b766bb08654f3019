"""Jobs: what is asked of whom, what runs, how it ended, and what hangs."""

import asyncio
from typing import Any

import libvirt
import pytest
import structlog

from virtstatd.catalog import shipped
from virtstatd.collect.jobs.collector import JobsCollector, JobsOptions, jobs_followed
from virtstatd.collect.jobs.following import PASSES, Convergence
from virtstatd.collect.jobs.words import ended_how
from virtstatd.collect.parts import Parts
from virtstatd.collector import Up
from virtstatd.errors import Overdue
from virtstatd.hypervisor.arrivals import Arrival
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Domain, Reading
from virtstatd.testing import HOSTILE_NAMES, FakeClock


MIGRATION = {
    "type": 2,
    "operation": 5,
    "time_elapsed": 1500,
    "downtime": 300,
    "data_total": 1 << 34,
    "data_processed": 1 << 33,
    "data_remaining": 1 << 33,
    "memory_remaining": 1 << 33,
    "memory_iteration": 1,
    "memory_dirty_rate": -1,
    "auto_converge_throttle": 20,
}
AT = 1_700_000_000_000_000_000
Numbers = dict[tuple[str, ...], float]


class Handle:
    """A guest as libvirt has it: a job, jobs of disks, the last one, or what it raises."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {"type": 0}
        self.blocks: dict[str, dict[str, int]] = {}
        self.last: dict[str, Any] = {"type": 0}
        self.fault: Exception | None = None
        self.asked: list[tuple[object, ...]] = []

    def jobStats(self, flags: int = 0) -> dict[str, Any]:  # noqa: N802 - libvirt's name
        """Return the job, or with flags the last one."""
        self.asked.append(("jobStats", flags))
        if self.fault:
            raise self.fault
        return self.last if flags else self.job

    def blockJobInfo(self, disk: str, flags: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Return the job of a disk."""
        self.asked.append(("blockJobInfo", disk, flags))
        return self.blocks.get(disk, {})


class Direct(Lanes):
    """Lanes that call at once, or say that a call hangs."""

    def __init__(self, up: Up, session: Session) -> None:
        super().__init__(lambda: session, 1, up)
        self.session = session
        self.hangs = ""

    async def run(self, function: Any, *_: object, **__: object) -> Any:
        """Call; a guest that hangs ends the call after those before it."""
        try:
            return function(self.session)
        except TimeoutError:
            raise Overdue("no answer") from None


class World:
    """A collector with three guests of one disk each, and everything that it has sent."""

    def __init__(self) -> None:
        self.up, self.inventory, self.clock = Up(up=True), Inventory(), FakeClock()
        self.handles = {f"uuid-{n}": Handle() for n in range(3)}
        connection: Any = type("Alive", (), {"isAlive": lambda _: True})()
        handles: Any = self.handles
        session = Session(connection, domains=handles)
        log = structlog.get_logger()
        self.connection = Connection(lambda: session, self.inventory, log, self.up)
        self.lanes = Direct(self.up, session)
        self.there = Hypervisor(
            self.up, self.inventory, self.lanes, self.connection, None, "", 25, 5.0, lambda: session
        )
        self.it = JobsCollector(JobsOptions(), shipped(), self.there, log, self.clock)
        self.batches: list[Batch] = []
        self.vms = [self.see(n, 1) for n in range(3)]

    def see(self, number: int, run: int) -> Domain:
        """Have a guest run."""
        domain = self.inventory.see(f"uuid-{number}", f"vm-{number}", run)
        assert domain
        labels = {"target_device": "vda"}
        shape = shipped().shape("domain", [("disk", labels)])
        self.inventory.describe(domain, (Reading(domain, shape, (1,)),))
        return domain

    def handle(self, number: int = 0) -> Handle:
        """Return a guest as libvirt has it."""
        return self.handles[f"uuid-{number}"]

    async def look(self) -> None:
        """Have it look for jobs, as each minute."""
        self.batches.clear()
        await self.it.once(self.batches.append)

    async def follow(self) -> None:
        """Have it ask those that are due."""
        self.batches.clear()
        due = self.it._following.due(self.clock())
        await self.it._ask(due, {}, self.batches.append)
        self.it._send(self.batches.append)

    def come(self, name: str, *values: object, domain: Domain | None = None) -> None:
        """Have an event come."""
        of = domain or self.vms[0]
        self.it._following.take(Arrival(name, of.uuid, of.name, of.id, values, AT), of)

    def sent(self, domain: Domain | None, group: str) -> Numbers:
        """Return what was sent of a guest or of the host under a group."""
        for batch in reversed(self.batches):
            for reading in batch.readings:
                if reading.domain is domain and reading.shape.group == group:
                    series = reading.shape.series
                    names = [(s.field.name, *(v for _, v in s.labels)) for s in series]
                    return dict(zip(names, reading.values, strict=True))
        return {}

    def ended(self, operation: str, outcome: str) -> float:
        """Return how many jobs have ended so."""
        reading = self.it._results.host()
        at = (("operation", operation), ("outcome", outcome))
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            if series.field.name == "jobs" and series.labels == at:
                return value
        raise AssertionError(at)


async def test_a_job_that_nobody_announced_is_found_and_followed():
    """One that began before the agent did is found at the first look, with every number."""
    world = World()
    world.handle().job = MIGRATION
    world.handle(1).blocks = {"vda": {"type": 2, "bandwidth": 0, "cur": 3, "end": 9}}
    await world.look()
    found = world.sent(world.vms[0], "job")
    assert found["type",] == 2
    assert found["operation", "migration_out"] == 5
    assert found["data_remaining",] == 1 << 33
    assert found["memory_dirty_rate_pages",] == 2**32 - 1
    assert len(found) == len(MIGRATION) + 1
    disk = world.sent(world.vms[1], "job")
    assert (disk["processed", "vda"], disk["total", "vda"]) == (3, 9)
    assert disk["type", "vda", "block_copy"] == 2
    assert not world.sent(world.vms[2], "job")
    asked = [len(world.handle(n).asked) for n in range(3)]
    await world.clock.advance(15)
    await world.follow()
    assert [len(world.handle(n).asked) - asked[n] for n in range(3)] == [1, 2, 0]


async def test_what_is_not_known_is_passed_on():
    """Numbers and texts of a later libvirt are sent under their keys, in a bounded number."""
    world = World()
    more = {f"new_{n}": n for n in range(1000)}
    world.handle().job = {"type": 1, "hint": "a\nb", "wrong": float("nan"), **more}
    await world.look()
    assert world.sent(world.vms[0], "job") == {("type",): 1}
    unknown = world.sent(world.vms[0], "unknown")
    assert unknown["unknown_text_info", "job", "hint", "a�b"] == 1
    assert unknown["unknown_stat", "job", "new_0"] == 0
    assert len(unknown) <= 65


@pytest.mark.parametrize("name", HOSTILE_NAMES)
async def test_hostile_texts_are_texts(name: str):
    """A message or a key of any kind neither raises nor has controls in it."""
    world = World()
    world.handle().job = {"type": 1, name: 7, "errmsg": name, "operation": 99}
    await world.look()
    assert world.sent(world.vms[0], "job")["operation", "99"] == 99
    for label in world.sent(world.vms[0], "unknown"):
        assert all(part.isprintable() for part in label)


async def test_an_end_that_libvirt_reports_is_counted_once():
    """The event has the numbers; the last job is shown of the guest, and its job is over."""
    world = World()
    world.handle().job = MIGRATION
    await world.look()
    world.come("job_completed", {**MIGRATION, "success": 1, "errmsg": ""})
    world.handle().job = {"type": 0}
    world.handle().last = {**MIGRATION, "type": 3}
    for _ in range(3):
        await world.clock.advance(2)
        await world.follow()
        if batches := [each for each in world.batches if "job" in each.groups]:
            assert batches[0].readings[0].shape.group == "last_job"
            break
    assert world.ended("migration_out", "completed") == 1
    last = world.sent(world.vms[0], "last_job")
    assert last["duration", "migration_out", "completed"] == 1500
    assert len(world.it._following) == 0


async def test_an_end_that_libvirt_does_not_report_is_asked():
    """A dump has no event: once it is over, and none came within a second, libvirt is asked."""
    world = World()
    world.handle().job = {"type": 2, "operation": 8}
    await world.look()
    world.handle().job = {"type": 0}
    world.handle().last = {"type": 3, "operation": 8, "time_elapsed": 70, "memory_processed": 9}
    await world.clock.advance(15)
    await world.follow()
    assert world.ended("dump", "completed") == 0
    await world.clock.advance(1)
    await world.follow()
    assert world.ended("dump", "completed") == 1
    assert ("jobStats", 3) in world.handle().asked
    assert world.sent(None, "jobs")["last_job_processed", "dump", "completed"] == 9


async def test_a_job_right_after_another_is_another():
    """The first one ended somehow, which nobody has seen; it is counted so."""
    world = World()
    world.handle().job = {"type": 2, "operation": 8}
    await world.look()
    world.handle().job = MIGRATION
    await world.clock.advance(15)
    await world.follow()
    assert world.ended("dump", "unknown") == 1
    assert world.ended("migration_out", "completed") == 0


@pytest.mark.parametrize(
    ("job", "outcome"),
    [
        ({}, "completed"),
        ({"success": 1}, "completed"),
        ({"success": 0}, "failed"),
        ({"success": 1, "errmsg": "Operation canceled"}, "canceled"),
        ({"errmsg": "no space"}, "failed"),
        ({"type": 4}, "failed"),
        ({"type": 5}, "canceled"),
        ({"type": 3}, "completed"),
    ],
)
def test_how_it_ended(job: dict[str, Any], outcome: str):
    """As libvirt 9 says it: an aborted backup has success and a message, a save has neither."""
    assert ended_how(job) == outcome


async def test_jobs_of_disks_end_with_their_event():
    """Those of a backup are part of the guest's job, and not counted twice."""
    world = World()
    for kind, status in (2, 0), (1, 1), (4, 2), (9, 0), (5, 0):
        world.come("block_job", "vda", kind, status)
    assert world.ended("block_copy", "completed") == world.ended("block_pull", "failed") == 1
    assert (
        world.ended("block_active_commit", "canceled") == world.ended("block_9", "completed") == 1
    )
    assert world.ended("block_backup", "completed") == 0
    world.come("block_job", "vdz", 2, 3)
    await world.follow()
    assert ("blockJobInfo", "vdz", 1) in world.handle().asked


async def test_malformed_events_change_nothing():
    """Whatever comes in an event, none raises, and a guest that ended is not asked."""
    world = World()
    for name in "job_completed", "block_job", "migration_iteration", "lifecycle", "reboot":
        for values in (), (None,), ({},), ({"operation": "x"},), (1, 2), (None, None, None):
            world.come(name, *values)
    ended = world.vms[0]
    world.inventory.end(ended.uuid)
    world.come("job_completed", {"operation": 5}, domain=ended)
    await world.follow()
    assert ended.uuid not in world.it._following


async def test_a_guest_that_hangs_costs_itself_alone():
    """The others of its turn are asked, and it is left out while the call hangs."""
    world = World()
    world.handle(1).job = MIGRATION
    await world.look()
    world.handle(1).fault = TimeoutError()
    await world.look()
    assert [("jobStats", 0) in world.handle(n).asked for n in range(3)] == [True] * 3
    world.lanes.stuck = 1
    before = len(world.handle(1).asked)
    for handle in world.handles.values():
        handle.controlInfo = lambda _=0: [0, 0, 0]  # type: ignore[attr-defined]
    await world.look()
    assert len(world.handle(1).asked) == before
    assert world.it.tier.missing == {"uuid-1"}
    world.lanes.stuck, world.handle(1).fault = 0, None
    await world.look()
    assert world.sent(world.vms[1], "job")


async def test_a_driver_without_jobs_is_asked_once():
    """It is logged, and nothing is asked again before the next connect."""

    class Unsupported(libvirt.libvirtError):  # type: ignore[misc]
        def get_error_code(self) -> int:
            return int(libvirt.VIR_ERR_NO_SUPPORT)

        def get_error_message(self) -> str:
            return "not supported"

    world = World()
    for handle in world.handles.values():
        handle.fault = Unsupported("no")
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await world.look()
    asked = [each for handle in world.handles.values() for each in handle.asked]
    assert asked.count(("jobStats", 0)) == 1
    assert [each["call"] for each in lines if each["event"] == "jobs.refused"] == ["jobStats"]


async def test_events_of_a_guest_make_no_more_than_a_call_a_second():
    """Iterations of a migration may come faster than it is asked."""
    world = World()
    await world.follow()
    for _ in range(100):
        world.come("migration_iteration", 7)
        await world.follow()
    assert world.handle().asked == [("jobStats", 0)] * 1
    await world.look()
    asked = len(world.handle().asked)
    world.handle().job = MIGRATION
    for _ in range(100):
        world.come("migration_iteration", 7)
        await world.clock.advance(0.1)
        await world.follow()
    assert len(world.handle().asked) - asked <= 11


def test_a_migration_that_does_not_converge():
    """Passes that stay as large as before stall; smaller ones, and the first one, do not."""
    it = Convergence()
    for now in range(0, 600, 15):
        assert it.take({"memory_iteration": 1, "memory_remaining": 10**10 - now}, now) == 0
    for number in range(2, 20):
        shrinking = {"memory_iteration": number, "memory_remaining": int(10**9 * 0.8**number)}
        assert it.take(shrinking, 600 + 10 * number) == 0
    since = 600 + 10 * 19
    stalled = [
        it.take({"memory_iteration": n, "memory_remaining": 10**8}, since + 10 * (n - 19))
        for n in range(20, 40)
    ]
    assert stalled[: PASSES - 1] == [0, 0]
    assert stalled[-1] == 200
    assert it.take({"memory_iteration": 1, "memory_remaining": 10**9}, 5000) == 0
    assert it.take({"memory_iteration": "x"}, 5000) == it.take({}, 5000) == 0


def test_off_is_no_call_and_no_event():
    """Switched off, nothing is built."""

    async def built() -> None:
        world = World()
        told = len(world.connection._tell)
        log = structlog.get_logger()
        parts = Parts(shipped(), world.there, log, frozenset(), 1.0, asyncio.Event())
        assert jobs_followed(JobsOptions(enabled=False), parts) is None
        assert len(world.connection._tell) == told

    asyncio.run(built())

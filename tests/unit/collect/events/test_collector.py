"""Events as counters and records."""

import asyncio
from typing import Any

import structlog

from virtstatd.catalog import shipped
from virtstatd.collect.events.collector import (
    RECORDS,
    RECORDS_OF_GUEST,
    EventsCollector,
    EventsOptions,
    events_counted,
)
from virtstatd.collect.events.tallies import DETAILS_MAX, HOST_MAX
from virtstatd.collect.parts import Parts
from virtstatd.collector import Up
from virtstatd.hypervisor.arrivals import Arrival
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes
from virtstatd.model import Batch, Domain, Happening
from virtstatd.testing import FakeClock


AT = 1_700_000_000_123_000_000

Numbers = dict[tuple[str, ...], float]
"""Values by field and labels."""


class World:
    """A collector with two guests, and everything that it has sent."""

    def __init__(self) -> None:
        self.up, self.inventory = Up(up=True), Inventory()
        none: Any = lambda: None  # noqa: E731 - a session that nobody opens
        connection = Connection(none, self.inventory, structlog.get_logger(), self.up)
        lanes = Lanes(none, 1, self.up)
        self.there = Hypervisor(self.up, self.inventory, lanes, connection, None, "", 25, 5.0, none)
        self.clock = FakeClock()
        self.it = EventsCollector(shipped(), self.there, self.clock)
        self.batches: list[Batch] = []
        self.records: list[Happening] = []
        self.it.on_happening(self.records.append)
        self.vms = [self.see(n) for n in range(2)]

    def see(self, number: int) -> Domain:
        """Have a guest run."""
        domain = self.inventory.see(f"uuid-{number}", f"vm-{number}", number + 1)
        assert domain
        return domain

    def come(self, domain: Domain, name: str, *values: object, count: int = 1) -> None:
        """Have an event come."""
        known = domain.uuid, domain.name, domain.id
        self.it.take(Arrival(name, *known, values, AT, count), domain)

    def sent(self, domain: Domain | None) -> Numbers:
        """Send everything; return the numbers of a guest, or of the host."""
        self.it.send(self.batches.append)
        return numbers(self.batches[-1], domain)


def numbers(batch: Batch, domain: Domain | None) -> Numbers:
    """Return what a batch has of a guest or of the host."""
    (reading,) = [each for each in batch.readings if each.domain is domain]
    series = [
        (each.field.name, *(value for _, value in each.labels)) for each in reading.shape.series
    ]
    return dict(zip(series, reading.values, strict=True))


async def test_a_guest_counts_what_happened_to_it():
    """By kind, and by kind, detail and device, each with the time of the last one."""
    world = World()
    vm = world.vms[0]
    world.come(vm, "io_error", "/d", "virtio-disk0", 1, "enospc", count=3)
    world.come(vm, "reboot")
    found = world.sent(vm)
    assert found["domain_events", "io_error"] == 3
    assert found["domain_events", "reboot"] == 1
    assert found["domain_event_details", "io_error", "enospc", "virtio-disk0"] == 3
    at = AT // 1_000_000
    assert found["domain_event_last_timestamp", "io_error"] == at
    assert found["domain_event_details_last_timestamp", "io_error", "enospc", "virtio-disk0"] == at
    assert ("domain_event_details", "reboot", "", "") not in found


async def test_what_an_alert_must_not_miss_begins_with_zero():
    """A quiet guest has the alarms at 0 and nothing else; no time is made up."""
    world = World()
    alarms = {"io_error", "watchdog", "memory_failure", "crashed"}
    assert world.sent(world.vms[1]) == {("domain_events", each): 0 for each in alarms}
    host = world.sent(None)
    assert host["events", "lifecycle", "stopped_crashed"] == 0
    assert host["events", "io_error", "enospc"] == 0
    assert not [key for key in host if key[0] == "events_last_timestamp"]


async def test_a_panic_that_the_guest_survives_is_an_alarm():
    """It is counted as crashed, and as an event of the lifecycle."""
    world = World()
    world.come(world.vms[0], "lifecycle", 8, 0)
    found = world.sent(world.vms[0])
    assert found["domain_events", "crashed"] == found["domain_events", "lifecycle"] == 1
    assert found["domain_event_details", "lifecycle", "crashed_panicked", ""] == 1


async def test_what_ends_a_guest_is_counted_by_the_host():
    """The host's counter lives on; the next run of the guest begins anew."""
    world = World()
    vm = world.vms[0]
    world.come(vm, "io_error", "/d", "virtio-disk0", 1, "")
    world.inventory.end(vm.uuid)
    world.come(vm, "lifecycle", 5, 2)
    assert world.sent(None)["events", "lifecycle", "stopped_crashed"] == 1
    assert not [each for each in world.batches[-1].readings if each.domain is vm]
    again = world.inventory.see(vm.uuid, vm.name, 9)
    assert again
    world.come(again, "lifecycle", 2, 0)
    assert world.sent(again)["domain_events", "io_error"] == 0
    host = world.sent(None)
    assert host["events", "lifecycle", "started_booted"] == 1
    assert host["events", "io_error", "other"] == 1
    assert [each.event for each in world.records] == ["io_error", "lifecycle", "lifecycle"]


async def test_series_are_bounded_and_the_rest_is_counted():
    """Ten thousand aliases and reasons make so many series; what is beyond has a number."""
    world = World()
    vm = world.vms[0]
    for number in range(10_000):
        world.come(vm, "io_error", "/d", f"disk{number}", 1, f"reason{number}")
    found = world.sent(vm)
    assert found["domain_events", "io_error"] == 10_000
    details = [key for key in found if key[0] == "domain_event_details"]
    assert len(details) == DETAILS_MAX
    host = {key: value for key, value in world.sent(None).items() if key[0] == "events"}
    assert len(host) <= HOST_MAX + 1
    assert sum(value for key, value in host.items() if key[1] == "io_error") == 10_000
    (unlisted,) = [value for key, _, value in world.it.numbers() if key == "events_unlisted"]
    assert isinstance(unlisted, int)
    assert unlisted > 10_000 - DETAILS_MAX


async def test_records_are_bounded_by_guest_and_second():
    """A storm of one guest leaves room for the others, and what is left out is counted."""
    world = World()
    for _ in range(1000):
        world.come(world.vms[0], "reboot", count=5)
    world.come(world.vms[1], "reboot")
    assert len(world.records) == RECORDS_OF_GUEST + 1
    (left_out,) = [value for key, _, value in world.it.numbers() if key == "events_unrecorded"]
    assert left_out == 5 * (1000 - RECORDS_OF_GUEST)
    for number in range(2, 500):
        world.come(world.see(number), "reboot")
    assert len(world.records) == RECORDS
    await world.clock.advance(1)
    world.come(world.vms[0], "reboot")
    assert len(world.records) == RECORDS + 1


async def test_changes_are_sent_together_and_soon():
    """After an event only the guest that had it is sent, without waiting for the minute."""
    world = World()
    stop, sent = asyncio.Event(), asyncio.Event()

    def emit(batch: Batch) -> None:
        world.batches.append(batch)
        sent.set()

    running = asyncio.create_task(world.it.run(emit, world.up, stop))
    await sent.wait()
    assert {each.domain for each in world.batches[0].readings} == {None, *world.vms}
    sent.clear()
    for _ in range(100):
        world.come(world.vms[0], "reboot")
    await sent.wait()
    assert len(world.batches) == 2
    assert {each.domain for each in world.batches[1].readings} == {None, world.vms[0]}
    assert numbers(world.batches[1], world.vms[0])["domain_events", "reboot"] == 100
    stop.set()
    await running


async def test_off_is_nothing_at_all():
    """Without it nothing is registered with the connection."""
    world = World()
    connection = world.there.connection
    parts = Parts(shipped(), world.there, structlog.get_logger(), frozenset(), 1.0, asyncio.Event())
    told = len(connection._tell)
    assert events_counted(EventsOptions(enabled=False), parts) is None
    assert len(connection._tell) == told

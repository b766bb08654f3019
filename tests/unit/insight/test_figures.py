"""Rates and states of guests, from their newest readings."""

from dataclasses import replace

import pytest

from support.insight import START, VM, Item, World, control, cpu, disk, disks, read, state
from virtstatd.model import Number
from virtstatd.testing import make_domain


def test_a_rate_needs_two_readings():
    """Nothing is known of a rate after one reading, and null is not 0."""
    world = World()
    world.put(cpu(VM, ran=100.0), state(VM))
    assert world.row(VM)["cpu_ratio"] is None
    world.go(5)
    world.put(cpu(VM, ran=102.5, waited=0.5), state(VM))
    assert world.row(VM)["cpu_ratio"] == pytest.approx(0.5)
    assert world.row(VM)["steal_ratio"] == pytest.approx(0.1)


def test_a_stale_reading_is_null():
    """What has outlived its batch's lifetime is null, the guest is still there."""
    world = World()
    for ran in 1.0, 2.0:
        world.put(cpu(VM, ran), state(VM), lifetime_seconds=10.0)
        world.go(5)
    assert world.row(VM)["cpu_ratio"] == pytest.approx(0.2)
    world.go(5.1)
    row = world.row(VM)
    assert row["cpu_ratio"] is None
    assert row["state"] == "unknown"
    assert row["vcpus"] is None
    assert row["age_seconds"] == pytest.approx(10.1)


def test_a_rate_is_over_some_seconds():
    """With a reading each second a rate is over 3 to 5 of them, else over one interval."""
    world = World()
    ran = 0.0
    for second in range(40):
        ran += 2.0 * (second % 4 == 0)  # all of a vCPU's four seconds' work in one
        world.put(cpu(VM, ran, vcpus=1), source="local", lifetime_seconds=5.0)
        if second > 5:
            assert world.row(VM)["cpu_ratio"] in (pytest.approx(2 / 3), 0.5, 0.4, pytest.approx(0))
        world.go(1)
    world = World()
    for ran in 0.0, 1.0, 6.0:
        world.put(cpu(VM, ran, vcpus=1))
        world.go(5)
    assert world.row(VM)["cpu_ratio"] == pytest.approx(1.0)


@pytest.mark.parametrize("lower", [0.0, 99.0])
def test_a_counter_that_falls_has_no_rate(lower: float):
    """A counter that begins anew within a run gives null once, never a negative number."""
    world = World()
    for ran in 100.0, lower, lower + 5.0:
        world.go(5)
        world.put(cpu(VM, ran))
        if ran == lower:
            assert world.row(VM)["cpu_ratio"] is None
    assert world.row(VM)["cpu_ratio"] == pytest.approx(1.0)


def test_the_next_run_of_a_guest_begins_anew():
    """A restarted guest shares nothing with its last run, but for what happened to it."""
    world = World()
    world.put(cpu(VM, 100.0), state(VM))
    world.go(60)
    again = replace(VM, id=77)
    world.put(cpu(again, 200.0), gone=[VM])
    guest = world.insight.figures.guests[VM.uuid]
    assert world.row(again)["cpu_ratio"] is None
    assert guest.domain is again
    assert [each.event for each in guest.events] == ["started"]
    assert world.row(again)["state"] == "unknown"


def test_a_late_reading_brings_no_guest_back():
    """What was read before a guest ended and comes after that is dropped."""
    world = World()
    world.put(cpu(VM, 1.0))
    world.put(gone=[VM])
    world.put(cpu(VM, 2.0))
    assert world.insight.figures.guests == {}


def test_a_renamed_guest_keeps_its_numbers():
    """Another name of the same run does not interrupt its rates."""
    world = World()
    world.put(cpu(VM, 1.0))
    world.go(5)
    renamed = replace(VM, name="new", labels=(("domain", "new"),))
    world.put(cpu(renamed, 2.0))
    row = world.row(renamed)
    assert (row["name"], row["cpu_ratio"]) == ("new", pytest.approx(0.2))


def test_a_group_that_is_absent_is_forgotten():
    """A group that was asked and not returned does not exist any more."""
    world = World()
    world.put(cpu(VM, 1.0), state(VM))
    world.put(state(VM), groups=["vcpu", "state"])
    assert world.row(VM)["vcpus"] is None
    assert world.row(VM)["state"] == "running"


def test_the_kernel_goes_before_libvirt():
    """As long as the kernel's reading is current, it is shown, whatever came last."""
    world = World()
    for ran in 1.0, 2.0:
        world.put(cpu(VM, ran), lifetime_seconds=30.0)
        world.put(cpu(VM, 3 * ran), source="local", lifetime_seconds=5.0)
        world.go(1)
    assert world.row(VM)["cpu_ratio"] == pytest.approx(3.0)
    world.go(4.5)
    assert world.row(VM)["cpu_ratio"] == pytest.approx(1.0)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_step_of_the_wall_clock_changes_no_rate(step: float):
    """Rates are by a clock that does not step."""
    world = World()
    world.put(cpu(VM, 1.0))
    world.go(5)
    world.step = step
    world.put(cpu(VM, 2.0))
    assert world.row(VM)["cpu_ratio"] == pytest.approx(0.2)


def test_what_happened_to_a_guest_is_kept():
    """A monitor that stops answering and a change of state are events."""
    world = World()
    for name, responsive in (("running", True), ("paused", False), ("running", True)):
        world.put(state(VM, name), control(VM, responsive=responsive))
        assert world.row(VM)["stuck"] is not responsive
        assert world.row(VM)["state"] == name
    guest = world.insight.figures.guests[VM.uuid]
    assert [each.event for each in guest.events] == [
        *("paused", "unresponsive"),
        *("running", "responsive"),
    ]


def test_the_slowest_disk_is_named():
    """Latency is that of the slowest disk that completed anything."""
    world = World()
    other = make_domain(1)
    for requests, seconds in ((0, 0.0), (100, 2.0)):
        world.go(5)
        world.put(disk(VM, requests, seconds, "vdb"), disk(other, 7, 1.0))
    row = world.row(VM)
    assert row["disk_latency_device"] == "vdb"
    assert row["disk_latency_seconds"] == pytest.approx(0.02)
    assert row["disk_iops"] == pytest.approx(20)
    assert world.row(other)["disk_latency_seconds"] is None
    assert world.row(other)["disk_iops"] == 0


GIB = 1 << 30
BALLOON: dict[Item, Number] = {
    ("maximum", ()): 8 * GIB,
    ("current", ()): 6 * GIB,
    ("available", ()): 5 * GIB,
    ("unused", ()): 1 * GIB,
    ("usable", ()): 3 * GIB,
    ("rss", ()): 4 * GIB,
}


@pytest.mark.parametrize(
    ("without", "used", "cache", "unused"),
    [
        ((), 2, 2, 1),
        (("usable",), 4, None, 1),
        (("unused",), 2, None, None),
        (("available",), None, 2, 1),
    ],
)
def test_parts_of_the_memory(
    without: tuple[str, ...], used: int | None, cache: int | None, unused: int | None
):
    """What is used, cached and unused adds up to what the guest has; what is not known is null."""
    world = World()
    known = {key: value for key, value in BALLOON.items() if key[0] not in without}
    known["last-update", ()] = START + round(world.clock.now)
    world.put(read(VM, "balloon", known), state(VM), lifetime_seconds=3600)
    row = world.row(VM)
    parts = [row[f"memory_{part}_bytes"] for part in ("used", "cache", "unused", "current", "max")]
    wanted = [used, cache, unused, 6, 8]
    assert parts == [None if each is None else each * GIB for each in wanted]
    world.go(700)
    world.put(state(VM))
    parts = [world.row(VM)[f"memory_{part}_bytes"] for part in ("used", "cache", "unused", "max")]
    assert parts == [None, None, None, 8 * GIB], "the driver has said nothing for too long"


def test_each_disk_has_a_history():
    """The last hour has what each disk did, beside the sums of the guest."""
    world = World()
    for second in range(0, 61, 5):
        world.put(disks(VM, {"vda": (100 * second, 0.2 * second), "vdb": (0, 0.0)}), state(VM))
        world.look()
        world.go(5)
    history = world.insight.history_of(VM.uuid)
    of = history["disks"]
    assert history["series"]["disk_iops"][-1] == pytest.approx(100)
    assert of["vda"]["read_iops"][-1] == pytest.approx(100)
    assert of["vda"]["read_bytes_per_second"][-1] == pytest.approx(409600)
    assert of["vda"]["read_latency_seconds"][-1] == pytest.approx(0.002)
    assert of["vda"]["write_latency_seconds"][-1] is None, "nothing was written"
    assert of["vdb"]["read_iops"][-1] == 0
    assert {len(row) for each in of.values() for row in each.values()} == {
        len(history["series"]["cpu_ratio"])
    }


def test_a_stuck_guest_has_one_beginning():
    """What needs no monitor stays new; since when the guest is stuck, its finding and event say."""
    world = World()
    for second in range(0, 60, 5):
        world.put(cpu(VM, second), state(VM), control(VM, responsive=second < 20))
        world.look()
        world.go(5)
    row = world.row(VM)
    assert (row["stuck"], row["age_seconds"]) == (True, 5.0)
    (finding,) = world.insight.judge.documents()
    document = world.insight.documents.guest(VM.uuid)
    assert document
    began = [each["time"] for each in document["events"] if each["event"] == "unresponsive"]
    assert [finding["since"]] == began


def test_guests_that_do_not_run_are_no_guests_that_run():
    """They are rows where a state is asked for, count nowhere else, and end when they start."""
    world = World()
    off = replace(VM, id=-1)
    world.put(state(off, "shutoff"), source="defined", lifetime_seconds=120.0)
    documents = world.insight.documents
    assert not [*documents.rows()]
    assert world.insight.figures.at is None
    (row,) = documents.stopped_rows()
    assert (row["name"], row["state"], row["cpu_ratio"]) == (VM.name, "shutoff", None)
    found = documents.guest(VM.uuid)
    assert found
    assert found["guest"]["state"] == "shutoff"
    world.put(state(VM))
    assert not [*documents.stopped_rows()]
    assert [each["state"] for each in documents.rows()] == ["running"]
    world.put(gone=[VM])
    world.put(state(off, "shutoff"), source="defined")
    assert not [*documents.rows()]
    world.put(gone=[replace(off)])  # an earlier one of the same name
    assert [*documents.stopped_rows()]
    world.put(gone=[off])
    assert not [*documents.stopped_rows()]


def test_the_project_of_any_cloud():
    """The column has what Nova wrote, else the project in other metadata, else nothing."""
    world = World()
    world.put(state(VM))
    assert world.row(VM)["project"] is None
    other = ("metadata", (("project_name", "users"),))
    world.put(state(VM), read(VM, "domain", {other: 1}))
    assert world.row(VM)["project"] == "users"
    nova = ("openstack", (("project_id", "7"),))
    world.put(state(VM), read(VM, "domain", {nova: 1, other: 1}))
    assert world.row(VM)["project"] == "7"

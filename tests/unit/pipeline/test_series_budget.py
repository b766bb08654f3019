"""The limits on series: what is left out, in which order, and that it does not come and go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from virtstatd.catalog import load
from virtstatd.collect.kernel.shapes import CGROUP_GROUPS, DETAIL_GROUPS, SUMMARY_GROUPS
from virtstatd.collect.kernel.shapes import GROUPS as GROUPS_OF_KERNEL
from virtstatd.collect.storage.collector import DISKS, SHARES
from virtstatd.formats.lifetimes import Staleness
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.pipeline.series_budget import (
    KEPT,
    LOOK_SECONDS,
    ORDER,
    RETURN_SECONDS,
    VCPU_KVM,
    SeriesBudget,
)
from virtstatd.testing import FakeClock, make_domain


HOST_GROUPS = {"agent", "event", "finding", "jobs", "network", "node", "partition", "storage"} | {
    "storage_pool"
}
GROUPS = ("unknown", "made_up", "vm", "perf", "iothread", "block", "net", "domain", *sorted(KEPT))
SHAPES: dict[tuple[str, int], Shape] = {}


def shape(group: str, size: int) -> Shape:
    """Return a shape of so many series."""
    if (group, size) not in SHAPES:
        of = Field("libvirt_domain", group, Kind.COUNTER, "", "Some.")
        series = tuple(Series(of, (("n", str(number)),)) for number in range(size))
        SHAPES[group, size] = Shape(group, series)
    return SHAPES[group, size]


@dataclass
class World:
    """A budget, its clock, and what comes out."""

    per_guest: int = 0
    per_host: int = 0
    clock: FakeClock = field(default_factory=FakeClock)
    batches: list[Batch] = field(default_factory=list)
    passed: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.budget = SeriesBudget(
            self.per_guest, self.per_host, [self.batches.append], structlog.get_logger(), self.clock
        )

    def put(self, sizes: dict[str, int], *guests: Domain) -> Batch:
        """Have guests read, all groups in one batch, and return what is left of it."""
        readings = tuple(
            Reading(guest, shape(group, size), tuple(range(size)))
            for guest in guests or (make_domain(0),)
            for group, size in sizes.items()
            if size
        )
        self.budget(Batch("bulk", 1, readings, frozenset(sizes)))
        return self.batches[-1]

    def rows(self) -> dict[str, Any]:
        """Return its numbers, those by group under the group's name."""
        return {labels.get("group", key): number for key, labels, number in self.budget.numbers()}


def sizes_of(batch: Batch) -> Counter[str]:
    """Return how many numbers a batch has by group."""
    return Counter(
        {r.shape.group: len(r.values) for r in batch.readings if r.domain == make_domain(0)}
    )


sizes = st.dictionaries(st.sampled_from(GROUPS), st.sampled_from([0, 1, 5, 20, 60, 200]))


@settings(max_examples=200)
@given(st.lists(sizes, min_size=1, max_size=12), st.sampled_from([1, 30, 100, 300]))
def test_a_guest_has_no_more_series_than_it_may(steps: list[dict[str, int]], limit: int):
    """Whatever comes: the first groups of the order are left out, whole, and no important one."""
    world = World(per_guest=limit)
    for some in steps:
        step = {**dict.fromkeys(GROUPS, 0), **some, "state": 2}
        left, every = sizes_of(world.put(step)), Counter({k: v for k, v in step.items() if v})
        assert all(left[group] in (0, every[group]) for group in every), "a group is whole"
        assert all(left[group] == every[group] for group in KEPT)
        assert left.total() <= limit or not left.keys() - KEPT
        out = [ORDER.index(_unit(group)) for group in every if not left[group]]
        kept = [ORDER.index(_unit(group)) for group in left if group not in KEPT and left[group]]
        assert max(out, default=-1) < min(kept, default=len(ORDER))
        rows = world.rows()
        assert rows.pop("guest_series") == left.total()
        assert sum(rows.values()) == every.total() - left.total()


def _unit(group: str) -> str:
    return group if group in ORDER else "others"


def test_within_the_limit_nothing_is_copied():
    """A batch of guests that have enough room is the same object."""
    world = World(per_guest=100, per_host=1000)
    batch = Batch("bulk", 1, (Reading(make_domain(0), shape("block", 100), (0,) * 100),))
    world.budget(batch)
    assert world.batches[-1] is batch


def test_what_goes_up_and_down_about_the_limit_does_not_flap():
    """An hour between 91 and 110 of 100: once left out, and back only after ten quiet minutes."""
    world = World(per_guest=100)
    seen = []
    for number in range(360):
        left = world.put({"state": 2, "block": 50, "perf": 39 + 19 * (number % 2)})
        seen.append(bool(sizes_of(left)["perf"]))
        world.clock.now += 10
    assert seen[:2] == [True, False]
    assert not any(seen[1:])
    quiet = 0.0
    while not sizes_of(world.put({"state": 2, "block": 50, "perf": 30}))["perf"]:
        world.clock.now += 10
        quiet += 10
    assert RETURN_SECONDS <= quiet <= RETURN_SECONDS + LOOK_SECONDS + 10


def test_a_peak_in_the_quiet_time_begins_it_anew():
    """Ten minutes below are ten minutes in one piece."""
    world = World(per_guest=100)
    world.put({"state": 2, "perf": 120})
    for perf in (10, 95, 10):
        for _ in range(30):
            left = world.put({"state": 2, "perf": perf})
            world.clock.now += 10
    assert not sizes_of(left)["perf"]


@pytest.mark.parametrize(
    ("group", "more"), [("block", 500 * 30), ("unknown", 10_000), ("made_up", 10_000)]
)
def test_a_flood_is_cut_and_named(group: str, more: int):
    """500 disks or 10,000 made-up fields: gone, counted, logged once; state and steal stay."""
    world = World(per_guest=1000)
    with capture_logs() as log:
        for _ in range(5):
            left = sizes_of(world.put({"state": 2, "vcpu": 40, "balloon": 12, group: more}))
            world.clock.now += LOOK_SECONDS
    assert left == {"state": 2, "vcpu": 40, "balloon": 12}
    unit = _unit(group)
    assert world.rows() == {"guest_series": 54, unit: more}
    (line,) = log
    assert (line["event"], line["group"], line["limit"]) == ("series.cut", unit, "series_per_guest")
    assert line["domains"] == [make_domain(0).name]
    with capture_logs() as log:
        for _ in range(100):
            world.put({"state": 2, "vcpu": 40, "balloon": 12, group: 10})
            world.clock.now += LOOK_SECONDS
    assert [line["event"] for line in log] == ["series.restored"]


def test_the_statistics_of_kvm_are_a_group_of_their_own():
    """Of vCPUs with many counters of KVM the times stay, steal among them."""
    catalog = load()
    labels = [{"vcpu": str(number)} for number in range(8)]
    items: list[Any] = [("{vcpu}.delay", each) for each in labels]
    items += [
        ("{vcpu}.{stat}.sum", {**each, "stat": f"s{n}"}) for each in labels for n in range(60)
    ]
    made = catalog.shape("vcpu", items)
    world = World(per_guest=100)
    reading = Reading(make_domain(0), made, tuple(range(len(items))))
    world.budget(Batch("bulk", 1, (reading,), frozenset({"vcpu"})))
    (left,) = world.batches[-1].readings
    assert [series.field.name for series in left.shape.series] == ["delay"] * 8
    assert left.values == tuple(range(8))
    assert world.rows() == {"guest_series": 8, VCPU_KVM: 480}


@pytest.mark.parametrize("group", ["state", "balloon", "vcpu", "block"])
def test_made_up_fields_are_left_out_in_whatever_group_they_come(group: str):
    """Unknown keys of the groups that always stay are the first to go, and nothing else is."""
    catalog, whole = load(), shape(group, 10)
    unknown = [
        catalog.series("unknown", "stat", {"group": group, "key": f"made_up_{number}"})
        for number in range(5000)
    ]
    flooded = Shape(group, (*whole.series, *unknown))
    world = World(per_guest=100)
    reading = Reading(make_domain(0), flooded, tuple(range(len(flooded.series))))
    world.budget(Batch("bulk", 1, (reading,), frozenset({group})))
    (left,) = world.batches[-1].readings
    assert left.shape.series == whole.series
    assert left.values == tuple(range(10))
    assert world.rows() == {"guest_series": 10, "unknown": 5000}


def test_a_host_cuts_the_same_groups_of_every_guest():
    """Beyond the host's limit each guest lacks the same; what is of no guest stays."""
    world = World(per_host=100)
    guests = [make_domain(number) for number in range(10)]
    batch = world.put({"state": 2, "perf": 4, "block": 6}, *guests)
    groups = {
        guest.name: {r.shape.group for r in batch.readings if r.domain is guest} for guest in guests
    }
    assert set(map(frozenset, groups.values())) == {frozenset({"state", "block"})}
    own = Reading(None, shape("agent", 500), tuple(range(500)))
    world.budget(Batch("agent", 1, (own,)))
    assert world.batches[-1].readings == (own,)
    with capture_logs() as log:
        world.clock.now += LOOK_SECONDS
        world.put({"state": 2})
    (line,) = log
    assert (line["group"], line["limit"], line["others"]) == ("perf", "series_per_host", 5)
    assert line["domains"] == [guest.name for guest in guests[:5]]


def test_what_is_cut_ends_for_receivers():
    """Its group stays among those that were asked, so that marks are made of its series."""
    world, ends = World(per_guest=100), Staleness()
    ends.settle(ends.plan(world.put({"state": 2, "perf": 50})))
    plan = ends.plan(world.put({"state": 2, "perf": 200}))
    assert {s.field.name for each in plan.ended for s in each.series} == {"perf"}
    assert len(plan.ended[0].series) == 50


def test_nothing_is_kept_of_guests_that_ended():
    """A guest that ends, or starts anew, is counted no longer; late readings do no harm."""
    world = World(per_guest=10, per_host=15)
    guests = [make_domain(number) for number in range(3)]
    world.put({"state": 2, "perf": 20}, *guests)
    assert world.rows()["guest_series"] == 6
    world.budget(
        Batch("inventory", 1, (Reading(guests[0], shape("perf", 5), (0,) * 5),), gone=tuple(guests))
    )
    assert world.rows() == {"guest_series": 0}
    again = Domain(guests[0].uuid, guests[0].name, 99, guests[0].labels)
    world.put({"state": 2}, guests[0])
    world.put({"state": 2}, again)
    world.budget(Batch("inventory", 1, (), gone=(guests[0],)))
    assert world.rows() == {"guest_series": 2}


def test_a_group_that_is_not_there_any_more_is_not_counted():
    """A guest whose flood has gone is whole again, also if nothing else of it changes."""
    world = World(per_guest=100)
    for _ in range(100):
        left = world.put({"state": 2, "block": 20, "unknown": 0 if world.clock.now else 5000})
        world.clock.now += LOOK_SECONDS
    assert sizes_of(left) == {"state": 2, "block": 20}
    assert world.rows() == {"guest_series": 22}


def test_every_group_of_guests_has_a_place():
    """A new group of the catalog is put into the order, or among those that are kept."""
    placed = (KEPT | set(ORDER)) - {"others", VCPU_KVM}
    made = GROUPS_OF_KERNEL | CGROUP_GROUPS | DETAIL_GROUPS | SUMMARY_GROUPS | {DISKS, SHARES}
    assert placed == (load().groups.keys() | made) - HOST_GROUPS
    assert not KEPT & set(ORDER)

"""Two sources of one series: never both, never backwards, and held against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog

from virtstatd.catalog import Catalog, load
from virtstatd.model import Batch, Domain, Number, Reading, Shape
from virtstatd.pipeline.one_source import OneSource


TICK = 10_000_000
SECOND = 1_000_000_000
TIME = "libvirt_domain_vcpu_time_seconds"
VM = Domain("u1", "vm", 1, (("domain", "vm"),))
OTHER = Domain("u2", "other", 2, (("domain", "other"),))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Load the package's catalog."""
    return load()


class Scene:
    """What stands between two sources and one sink, and the clocks of all."""

    def __init__(self, catalog: Catalog) -> None:
        self.now = 100.0
        self.set = 0.0
        self.sent: list[Batch] = []
        self.cover = OneSource(
            [self.sent.append], structlog.get_logger(), lambda: self.now, self.wall
        )
        vcpu = [{"vcpu": str(number)} for number in range(2)]
        self.lane = catalog.shape(
            "local", [catalog.series("vcpu", "{vcpu}.time", labels) for labels in vcpu]
        )
        self.smaller = catalog.shape("local", [catalog.series("vcpu", "{vcpu}.time", vcpu[0])])
        self.bulk = catalog.shape(
            "vcpu", [("current", {}), *(("{vcpu}.time", labels) for labels in vcpu)]
        )

    def wall(self) -> int:
        """Return Unix time in nanoseconds."""
        return int((self.now + self.set) * SECOND)

    def lane_says(self, *values: Number, domain: Domain = VM, shape: Shape | None = None) -> None:
        """Let a second pass and the lane read."""
        self.now += 1
        reading = Reading(domain, shape or self.lane, values)
        self.cover(Batch("local", self.wall(), (reading,), frozenset({"local"}), 5.0))

    def bulk_says(
        self, *values: Number, domain: Domain = VM, asked: float = 0.0
    ) -> dict[str, Number]:
        """Let libvirt answer what it was asked `asked` seconds ago; return what passed."""
        reading = Reading(domain, self.bulk, values)
        taken_at = self.wall() - int(asked * SECOND)
        self.cover(Batch("bulk", taken_at, (reading,), frozenset({"vcpu"})))
        return shown(self.sent[-1])


@pytest.fixture
def scene(catalog: Catalog) -> Scene:
    """Make a scene."""
    return Scene(catalog)


def shown(batch: Batch) -> dict[str, Number]:
    """Return a batch's numbers by family and vCPU."""
    return {
        " ".join((series.field.family, *(text for _, text in series.labels))): number
        for reading in batch.readings
        for series, number in zip(reading.shape.series, reading.values, strict=True)
    }


def test_without_the_lane_libvirts_numbers_pass(scene: Scene):
    """A domain that the lane does not read loses nothing, not even an object."""
    reading = Reading(VM, scene.bulk, (2, 1, 2))
    batch = Batch("bulk", 1, (reading,))
    scene.cover(batch)

    assert scene.sent == [batch]
    scene.lane_says(1, 1, domain=OTHER)
    assert scene.bulk_says(2, 1, 2) == {
        "libvirt_domain_vcpu_current": 2,
        f"{TIME} 0": 1,
        f"{TIME} 1": 2,
    }


def test_the_lane_wins_while_it_is_fresh(scene: Scene):
    """A series has one source; what the lane does not have still comes from libvirt."""
    scene.lane_says(1, 2)
    scene.lane_says(3, 4)

    assert shown(scene.sent[-1]) == {f"{TIME} 0": 3, f"{TIME} 1": 4}
    assert scene.bulk_says(2, 0, 0) == {"libvirt_domain_vcpu_current": 2}


def test_domains_alike_share_what_is_left(scene: Scene):
    """Encoders compile once per shape, so two domains that are alike have one."""
    for domain in (VM, OTHER):
        scene.lane_says(1, 2, domain=domain)
        scene.lane_says(1, 2, domain=domain)
        scene.bulk_says(2, 0, 0, domain=domain)

    first, second = (b.readings[0].shape for b in scene.sent if b.source == "bulk")
    assert first is second


def test_the_first_reading_is_held_back(scene: Scene):
    """Libvirt's numbers go on until the second one, which may be minutes away: none is absent."""
    passed = scene.bulk_says(2, 5 * TICK, 0)
    scene.lane_says(5 * TICK + 1, 1)

    assert passed[f"{TIME} 0"] == 5 * TICK
    assert shown(scene.sent[-1]) == {}
    scene.now += 299
    assert scene.bulk_says(2, 6 * TICK, 0)[f"{TIME} 0"] == 6 * TICK
    scene.lane_says(7 * TICK, 1)
    assert shown(scene.sent[-1])[f"{TIME} 0"] == 7 * TICK
    assert f"{TIME} 0" not in scene.bulk_says(2, 8 * TICK, 0)


def test_a_reading_from_before_libvirts_last_number_is_held_back(scene: Scene):
    """What libvirt said after the kernel was read may be higher; the next reading is not lower."""
    scene.lane_says(1, 1)
    scene.now += 1
    taken_at = scene.wall()
    scene.now += 0.1
    scene.bulk_says(2, 5 * TICK, 0)
    reading = Reading(VM, scene.lane, (5 * TICK - 1, 1))
    scene.cover(Batch("local", taken_at, (reading,), frozenset({"local"}), 5.0))
    assert shown(scene.sent[-1]) == {}
    assert scene.bulk_says(2, 5 * TICK, 0)[f"{TIME} 0"] == 5 * TICK
    scene.lane_says(5 * TICK + 7, 1)
    assert shown(scene.sent[-1])[f"{TIME} 0"] == 5 * TICK + 7
    scene.now += 6
    scene.bulk_says(2, 6 * TICK, 0)
    scene.cover(Batch("local", scene.wall() - 1, (reading,), frozenset({"local"}), 5.0))
    assert shown(scene.sent[-1]) == {}, "nor where it was silent for a while"


def test_a_counter_never_goes_backwards(scene: Scene):
    """When the lane ceases, libvirt's coarser number is not below it and not from before it."""
    scene.lane_says(7 * TICK, 7)
    scene.lane_says(7 * TICK + 5, 7)
    scene.now += 6

    late = scene.bulk_says(2, 7 * TICK, 0, asked=6.5)
    assert late == {"libvirt_domain_vcpu_current": 2}
    assert scene.bulk_says(2, 7 * TICK, TICK) == {
        "libvirt_domain_vcpu_current": 2,
        f"{TIME} 0": 7 * TICK + 5,
        f"{TIME} 1": TICK,
    }


@pytest.mark.parametrize(
    ("last", "number", "passed"),
    [
        (7 * TICK + 5, 7 * TICK, 7 * TICK + 5),
        (9 * TICK, 7 * TICK, 9 * TICK),
        (9 * TICK + 1, 7 * TICK, 7 * TICK),
        (1_000 * SECOND, 700, 700),
    ],
)
def test_a_counter_that_begins_anew_is_passed_on(scene: Scene, last: int, number: int, passed: int):
    """Libvirt's precision explains a difference of two ticks; one that is larger is a reset."""
    scene.lane_says(last, 0)
    scene.lane_says(last, 0)
    scene.now += 6
    assert scene.bulk_says(2, number, 0)[f"{TIME} 0"] == passed


def test_a_number_of_libvirts_that_means_another_thing_is_held(scene: Scene, catalog: Catalog):
    """Libvirt's 0 for the wait of a vCPU is no counter that begins anew: the last one stands."""
    wait = catalog.shape("local", [catalog.series("vcpu", "{vcpu}.wait", {"vcpu": "0"})])
    scene.bulk = catalog.shape("vcpu", [("current", {}), ("{vcpu}.wait", {"vcpu": "0"})])
    scene.lane_says(400 * SECOND, shape=wait)
    scene.lane_says(500 * SECOND, shape=wait)
    scene.now += 10
    assert scene.bulk_says(2, 0) == {
        "libvirt_domain_vcpu_current": 2,
        "libvirt_domain_vcpu_wait_seconds 0": 500 * SECOND,
    }


def test_what_is_not_a_time_is_exact(scene: Scene, catalog: Catalog):
    """A NIC plugged anew counts from zero, however little the one before it had counted."""
    key = "{target_device}.rx.bytes"
    nic = [{"target_device": "tap0"}]
    lane = catalog.shape("local_net", [catalog.series("net", key, labels) for labels in nic])
    bulk = catalog.shape("net", [(key, labels) for labels in nic])
    for _ in range(2):
        scene.lane_says(701, shape=lane)
    scene.now += 6
    scene.cover(Batch("bulk", scene.wall(), (Reading(VM, bulk, (700,)),), frozenset({"net"})))
    assert list(shown(scene.sent[-1]).values()) == [700]


def test_a_clock_that_is_set_back_keeps_nothing_back(scene: Scene):
    """What the lane read last seems to lie ahead; libvirt's numbers pass all the same."""
    scene.lane_says(7 * TICK, 7)
    scene.lane_says(7 * TICK, 7)
    scene.now += 6
    scene.set = -60.0
    assert f"{TIME} 1" in scene.bulk_says(2, 8 * TICK, 8)


def test_one_series_that_ceases_returns_to_libvirt(scene: Scene):
    """A device that the lane no longer sees comes from libvirt, the others do not."""
    scene.lane_says(1, 2)
    scene.lane_says(1, 9)
    scene.lane_says(5, shape=scene.smaller)

    assert scene.bulk_says(2, 0, 8) == {"libvirt_domain_vcpu_current": 2, f"{TIME} 1": 9}
    scene.lane_says(5, 11)
    assert scene.bulk_says(2, 0, 8) == {"libvirt_domain_vcpu_current": 2}


def test_a_new_incarnation_begins_anew(scene: Scene):
    """Neither the end of a domain nor its restart leaves anything behind."""
    scene.lane_says(100, 100)
    scene.lane_says(100, 100)
    again = Domain(VM.uuid, VM.name, 2, VM.labels)
    assert scene.bulk_says(2, 1, 1, domain=again)[f"{TIME} 0"] == 1

    scene.cover(Batch("inventory", scene.wall(), (), gone=(VM,)))
    assert scene.bulk_says(2, 3, 3)[f"{TIME} 0"] == 3
    same = replace(VM)
    scene.lane_says(1, 1, domain=same)
    scene.cover(Batch("inventory", scene.wall(), (), gone=(VM,)))
    assert scene.cover._layers["local"]._covered, "a later run under the same number is another one"
    scene.cover(Batch("inventory", scene.wall(), (), gone=(same,)))
    assert not scene.cover._layers["local"]._covered


@pytest.mark.parametrize(
    ("number", "disagreements"),
    [
        (5 * SECOND, 0),
        (6 * SECOND, 0),
        (5 * SECOND - 2 * TICK, 0),
        (7 * SECOND, 1),
        (4 * SECOND, 1),
    ],
)
def test_libvirt_must_lie_between_two_readings(scene: Scene, number: int, disagreements: int):
    """A number that is outside the readings around it, by more than its precision, is counted."""
    scene.lane_says(4 * SECOND, 0)
    scene.lane_says(5 * SECOND, 0)
    scene.now += 0.5
    scene.bulk_says(2, number, 0)
    scene.lane_says(6 * SECOND, 0)

    assert scene.cover._layers["local"].disagreements[TIME] == disagreements


def test_only_readings_around_the_call_are_compared(scene: Scene):
    """A call from before the last reading proves nothing, nor a reading from before the answer."""
    scene.lane_says(4 * SECOND, 0)
    scene.lane_says(5 * SECOND, 0)
    scene.bulk_says(2, SECOND, 0, asked=0.5)
    scene.lane_says(6 * SECOND, 0)
    assert not scene.cover._layers["local"].disagreements

    scene.bulk_says(2, 9 * SECOND, 0)
    early = Reading(VM, scene.lane, (6 * SECOND, 0))
    scene.cover(Batch("local", scene.wall() - 1, (early,), lifetime_seconds=5.0))
    assert not scene.cover._layers["local"].disagreements
    scene.lane_says(9 * SECOND, 0)
    assert not scene.cover._layers["local"].disagreements

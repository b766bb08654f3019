"""Records: fields in libvirt's order and of its types, compiled to bytes."""

import re
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.simulator import records
from support.truth import RULES, VCPU
from virtstatd_simulator.guests.fields import (
    EVERY_GROUP,
    MONITOR_GROUPS,
    Field,
    Group,
    counter,
    parse_field,
    text,
)
from virtstatd_simulator.guests.flavors import VERSIONS, Flavor, Release
from virtstatd_simulator.guests.guests import random_guests
from virtstatd_simulator.guests.layout import Layout, Record
from virtstatd_simulator.guests.load import UNIT, Driver
from virtstatd_simulator.guests.profiles import PROFILES
from virtstatd_simulator.wire.xdr import pack_uint


Param = Any  # name, type and value

GOLDEN = Path(__file__).parents[3] / "golden" / "simulator"
REAL = records((GOLDEN / "libvirt-9.0-all.bin").read_bytes())
BACKING = records((GOLDEN / "libvirt-9.0-backing.bin").read_bytes())
# what libvirt 9.0 leaves of `captured-kvm` while its QEMU is stopped and the job is taken
WITHOUT_JOB = """balloon.current balloon.maximum block.0.backingIndex block.0.name block.0.path
block.1.backingIndex block.1.name block.1.path block.count cpu.cache.monitor.count cpu.system
cpu.time cpu.user net.0.name net.0.rx.bytes net.0.rx.drop net.0.rx.errs net.0.rx.pkts
net.0.tx.bytes net.0.tx.drop net.0.tx.errs net.0.tx.pkts net.count state.reason state.state
vcpu.0.delay vcpu.0.state vcpu.0.time vcpu.0.wait vcpu.1.delay vcpu.1.state vcpu.1.time
vcpu.1.wait vcpu.current vcpu.maximum"""


def real(name: str, of: list[dict[str, Any]] = REAL) -> list[Param]:
    """Return the fields of a captured guest."""
    return next(record["params"] for record in of if record["name"] == name)


def unpack(record: Record, drivers: Sequence[int]) -> dict[str, Any]:
    """Decode what a record packs."""
    (found,) = records(pack_uint(1) + record.pack(drivers))
    return found


def keys(params: list[Param]) -> list[tuple[str, int]]:
    """Return names and types alone."""
    return [(name, type_) for name, type_, _ in params]


def without_second_nic(params: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Leave out what a NIC without a tap does not have; the captured guest's second is one."""
    return [pair for pair in params if not pair[0].startswith("net.1.")]


def test_a_generated_guest_reports_what_a_real_one_does():
    """Same names, same types, same order as KVM's record of libvirt 9.0."""
    flavor = Flavor(vcpus=2, disks=2, nics=2, iothreads=2, backing=1, kvm=True, balloon=False)
    made = [(f.name, f.type) for f in flavor.active]
    assert without_second_nic(made) == keys(real("captured-kvm"))
    made = [(f.name, f.type) for f in flavor.active_with_backing]
    assert without_second_nic(made) == keys(real("captured-kvm", BACKING))


def test_a_guest_that_is_shut_off_reports_what_a_real_one_does():
    """Same names, types and order as an inactive domain of libvirt 9.0."""
    flavor = Flavor(vcpus=2, disks=2)
    assert [(f.name, f.type) for f in flavor.inactive] == keys(real("captured-off"))


def test_what_survives_without_the_job_was_measured():
    """A field is left out without the job exactly when libvirt 9.0 left it out."""
    fields = [parse_field(*param) for param in real("captured-kvm")]
    assert sorted(f.name for f in fields if not f.needs_job) == WITHOUT_JOB.split()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("release", [9, 11, 12])
def test_groups_are_asked_apart_or_together(profile: str, release: Release):
    """All groups give the fields of each, in libvirt's order; without a job they give fewer."""
    guest = next(random_guests(PROFILES[profile].of_release(release), 3))
    guest.taps = tuple(f"vnet{n}" for n in range(guest.flavor.nics))
    drivers = guest.drivers(5.0, 1700000000)

    def ask(groups: int, *, job: bool = True) -> list[Param]:
        record = guest.record(groups, job=job, backing=False)
        blob = record.pack(drivers)
        assert len(blob) == record.size
        params: list[Param] = unpack(record, drivers)["params"]
        assert len(params) == record.params
        return params

    apart = [param for group in Group for param in ask(int(group))]
    assert ask(EVERY_GROUP) == apart
    assert len({name for name, _, _ in apart}) == len(apart)
    poor = ask(EVERY_GROUP, job=False)
    assert len(poor) < len(apart)
    assert all(param in apart for param in poor)
    quiet = EVERY_GROUP & ~MONITOR_GROUPS
    assert ask(quiet, job=False) == ask(quiet)


def test_later_versions_add_fields():
    """A later libvirt reports all that its forerunner does, and more."""
    names = [{f.name for f in Flavor(iothreads=1, release=release).active} for release in VERSIONS]
    assert names[0] < names[1] < names[2]
    assert "block.0.timed_group.0.rd_queue_depth_avg" in names[1] - names[0]
    assert "block.0.latency_histogram.read.bin.0.start" in names[2] - names[1]


def test_the_complete_profile_has_every_statistic():
    """All that virsh may show of a guest on x86 is simulated; only s390 knows halted vCPUs."""
    flavors = [flavor for _, flavor in PROFILES["complete"].of_release(12).flavors]
    names = {field.name for flavor in flavors for field in flavor.active}
    assert [
        pattern for pattern, _, _ in RULES if not any(re.fullmatch(pattern, name) for name in names)
    ] == [rf"{VCPU}\.halted", rf"{VCPU}\.(?P<stat>\w+)\.max"]


@pytest.mark.parametrize("seed", range(3))
def test_counters_never_fall(seed: int):
    """Over an hour no counter of any generated guest goes back."""
    gauges = ("balloon.", "latency_", "state.", "perf.cmt", "perf.mbm")
    for guest in islice(random_guests(PROFILES["mixed"].of_release(12), seed), 12):
        guest.taps = ("a",) * guest.flavor.nics
        record = guest.record(EVERY_GROUP, job=True, backing=True)
        polls = [unpack(record, guest.drivers(now, 0))["params"] for now in range(0, 3600, 97)]
        for before, after in pairwise(polls):
            for (name, type_, old), (_, _, new) in zip(before, after, strict=True):
                if type_ == 4 and not any(word in name for word in gauges):
                    assert new >= old, name


@given(st.lists(st.tuples(st.booleans(), st.text("abc", min_size=1, max_size=9)), max_size=12))
def test_any_mixture_of_text_and_numbers_is_packed(parts: list[tuple[bool, str]]):
    """Constant, moving and the guest's own fields come out in their order, whatever it is."""
    fields = [
        counter(f"state.{n}", n + 1) if moves else text(f"state.{n}", word)
        for n, (moves, word) in enumerate(parts)
    ]
    own = Field("net.0.name", 7, 1, slot="tap")
    dom = Layout([*fields, own]).bind(b"\0" * 24, ["no", "vnet7"], [])
    found = unpack(dom, [3 * UNIT] * len(Driver))["params"]
    expected = [
        [f"state.{n}", 4, 3 * (n + 1)] if moves else [f"state.{n}", 7, word]
        for n, (moves, word) in enumerate(parts)
    ]
    assert found == [*expected, ["net.0.name", 7, "vnet7"]]


def test_a_seed_gives_the_same_guests():
    """Names, UUIDs, hardware and counters depend on the seed alone."""

    def some(seed: int) -> list[tuple[Any, ...]]:
        rng = islice(random_guests(PROFILES["mixed"], seed), 30)
        return [(g.name, g.uuid, g.flavor, g.load, g.aged) for g in rng]

    assert some(5) == some(5)
    assert some(5) != some(6)


@pytest.mark.parametrize(
    ("name", "type_", "value"),
    [("cpu.time", 4, -1), ("a", 9, 1), ("a", 2, 1 << 32), ("a", 4, "x"), ("a", 1, 1 << 31)],
)
def test_a_captured_field_that_cannot_be_is_refused(name: str, type_: int, value: float | str):
    """Type and value of a captured field must fit each other."""
    with pytest.raises(ValueError, match=name):
        parse_field(name, type_, value)


def test_the_binding_s_negative_numbers_are_taken_back():
    """An unsigned number that the binding handed out as negative is the large one it was."""
    assert parse_field("state.x", 2, -1).base == (1 << 32) - 1


@pytest.mark.parametrize("order", [(9, 12), (12, 9)])
def test_releases_do_not_share_records(order: tuple[Release, Release]) -> None:
    """What one libvirt reports of some hardware is not what another one in the process does."""

    def params(release: Release) -> int:
        ((_, flavor),) = PROFILES["hundred"].of_release(release).flavors
        return flavor.layout(EVERY_GROUP, active=True, job=True, backing=False).params

    counts = {release: params(release) for release in order}
    assert counts[9] < counts[12]

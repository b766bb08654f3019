import gc
import json
import math
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtstatd.catalog import Line, load
from virtstatd.catalog.decode import Decoder
from virtstatd.catalog.lines import Role
from virtstatd.model import Domain, Reading, Shape


Record = dict[str, Any]

CATALOG = load()
GOLDEN = Path(__file__).parents[2] / "golden"
RECORDS = sorted(path.stem for path in (GOLDEN / "records").glob("*.json"))
DOMAIN = Domain("u-1", "one", 1, (("domain", "one"),))
OTHER = Domain("u-2", "two", 2, (("domain", "two"),))


def golden(name: str) -> Record:
    """Return a record that real libvirt gave."""
    record: Record = json.loads((GOLDEN / "records" / f"{name}.json").read_text())
    return record


def fresh(record: Record) -> tuple[Reading, ...]:
    """Decode one record on a decoder that has seen none."""
    return Decoder(CATALOG, lambda _: None).readings(DOMAIN, record)


def shown(readings: Iterable[Reading]) -> list[str]:
    """Return a line of text per series and number."""
    lines = []
    for reading in readings:
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            labels = ",".join(f'{name}="{text}"' for name, text in series.labels)
            part = f":{series.part}" if series.part else ""
            lines.append(f"{series.field.family}{part}{{{labels}}} {value!r}")
    return lines


def check_shape(shape: Shape) -> None:
    """Hold a shape to what the model promises of it."""
    series = shape.series
    families = [family for family, _ in groupby(one.field.family for one in series)]
    assert len(families) == len(set(families))
    assert len({(one.field.family, one.labels, one.part) for one in series}) == len(series)
    for one in series:
        names = [name for name, _ in one.labels]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", RECORDS)
def test_golden(name: str):
    """A record that real libvirt gave decodes to the series and numbers that were reviewed."""
    readings = fresh(golden(name))
    for reading in readings:
        check_shape(reading.shape)
    assert shown(readings) == (GOLDEN / "readings" / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("name", RECORDS)
def test_golden_known(name: str):
    """Real libvirt's records hold no key that the catalog does not know."""
    unknown: list[str] = []
    Decoder(CATALOG, unknown.append).readings(DOMAIN, golden(name))
    assert unknown == []


def test_steady_state():
    """The second poll of an unchanged guest has the very same shapes, and its own numbers."""
    decoder = Decoder(CATALOG, lambda _: None)
    record = golden("kvm_running")
    before = decoder.readings(DOMAIN, record)
    after = decoder.readings(DOMAIN, record | {"cpu.time": 5, "vcpu.1.exits.sum": 6})
    assert all(a.shape is b.shape for a, b in zip(before, after, strict=True))
    changed = set(shown(after)) - set(shown(before))
    assert changed == {
        "libvirt_domain_info_cpu_time_seconds{} 5",
        'libvirt_domain_vcpu_kvm{vcpu="1",stat="exits"} 6',
    }


def test_tiers_alternate():
    """Records of several tiers take turns for one guest without compiling again."""
    compiled: list[str] = []
    decoder = Decoder(CATALOG, compiled.append)
    tiers = [{"state.state": 1, "state.x": 1}, {"cpu.time": 1, "cpu.x": 1}, {"vm.x": 1}]
    for _ in range(5):
        for record in tiers:
            decoder.readings(DOMAIN, dict(record))
    assert compiled == ["state.x", "cpu.x", "vm.x"]


def test_shapes_shared():
    """Guests with equal keys and strings share their shapes, and forgetting them frees these."""
    decoder = Decoder(CATALOG, lambda _: None)
    record = golden("kvm_paused")
    mine = {one.shape.group: one.shape for one in decoder.readings(DOMAIN, record)}
    renamed = record | {"net.1.name": "vnet9"}
    theirs = {one.shape.group: one.shape for one in decoder.readings(OTHER, renamed)}
    assert {group for group in mine if mine[group] is not theirs[group]} == {"net"}
    decoder.forget(DOMAIN.uuid)
    decoder.forget(OTHER.uuid)
    decoder.forget("never seen")
    del mine, theirs
    gc.collect()
    assert len(decoder._recipes) == 0
    assert decoder._plans == {}


def test_plans_bounded():
    """A guest whose keys change at every poll does not make the decoder grow."""
    decoder = Decoder(CATALOG, lambda _: None)
    for index in range(50):
        decoder.readings(DOMAIN, {f"vcpu.{index}.time": 1})
    assert len(decoder._plans[DOMAIN.uuid]) == 8
    assert len(decoder._recipes) == 8


def test_enumerations():
    """A number that means something keeps its value, and its names follow it."""
    decoder = Decoder(CATALOG, lambda _: None)
    record = {"state.state": 1, "state.reason": 1, "vcpu.0.state": 2, "dirtyrate.calc_status": 1}
    assert shown(decoder.readings(DOMAIN, record)) == [
        'libvirt_domain_info_state{state="running",state_desc="the domain is running"} 1',
        'libvirt_domain_info_state_reason{reason="booted"} 1',
        'libvirt_domain_vcpu_state{vcpu="0",state="blocked"} 2',
        'libvirt_domain_dirtyrate_calc_status{status="measuring"} 1',
    ]
    paused = record | {"state.state": 3, "state.reason": 5, "vcpu.0.state": 77}
    assert shown(decoder.readings(DOMAIN, paused))[:3] == [
        'libvirt_domain_info_state{state="paused",state_desc="the domain is paused by user"} 3',
        'libvirt_domain_info_state_reason{reason="ioerror"} 5',
        'libvirt_domain_vcpu_state{vcpu="0",state="77"} 77',
    ]


def test_reason_without_state():
    """A reason whose state is not told is named by its number."""
    assert shown(fresh({"state.reason": 5})) == ['libvirt_domain_info_state_reason{reason="5"} 5']


def test_units():
    """KiB and MiB become bytes by multiplying, nanoseconds stay with their exponent."""
    readings = fresh(
        {"balloon.rss": 3, "dirtyrate.megabytes_per_second": 2, "cpu.time": 7, "vcpu.0.wait": 8}
    )
    assert shown(readings) == [
        "libvirt_domain_memory_stats_rss_bytes{} 3072",
        "libvirt_domain_dirtyrate_bytes_per_second{} 2097152",
        "libvirt_domain_info_cpu_time_seconds{} 7",
        'libvirt_domain_vcpu_wait_seconds{vcpu="0"} 8',
    ]
    assert [one.shape.series[0].field.exponent for one in readings] == [0, 0, -9, -9]


def test_wrapped():
    """An unsigned int that the binding made negative is mended at every poll, a signed one kept."""
    decoder = Decoder(CATALOG, lambda _: None)
    for value in (-1, 5, -(2**31)):
        record = {
            "cpu.cache.monitor.0.bank.0.bytes": value,
            "dirtyrate.calc_start_time": value,
            "vm.new": value,
        }
        assert [one.values[0] for one in decoder.readings(DOMAIN, record)] == [
            value % 2**32,
            value,
            value,
        ]


def test_extremes():
    """Doubles, booleans and integers beyond 63 bits are numbers like any other."""
    readings = fresh(
        {
            "cpu.time": 2**64 - 1,
            "vcpu.0.blocking.cur": True,
            "vcpu.1.blocking.cur": False,
            "block.0.timed_group.0.rd_queue_depth_avg": 0.25,
            "balloon.rss": 2**64 - 1,
        }
    )
    values = [value for reading in readings for value in reading.values]
    assert values == [2**64 - 1, 1, 0, 0.25, (2**64 - 1) * 1024]
    assert [type(value) for value in values] == [int, int, int, float, int]


def test_empty():
    """An empty record has no reading."""
    assert fresh({}) == ()
    assert fresh({"block.0.name": "vda"}) == ()


def test_sparse_and_nameless():
    """Indexes may have gaps; a device without a name, or with an empty one, goes by its index."""
    readings = fresh(
        {
            "net.count": 3,
            "net.2.rx.bytes": 1,
            "net.7.name": "vnet7",
            "net.7.rx.bytes": 2,
            "net.9.name": "",
            "net.9.rx.bytes": 3,
        }
    )
    assert shown(readings) == [
        "libvirt_domain_interface_stats_devices{} 3",
        'libvirt_domain_interface_stats_receive_bytes{target_device="2"} 1',
        'libvirt_domain_interface_stats_receive_bytes{target_device="vnet7"} 2',
        'libvirt_domain_interface_stats_receive_bytes{target_device="9"} 3',
    ]


def test_name_after_its_numbers():
    """The order of keys does not matter to a device's name."""
    assert shown(fresh({"net.0.rx.bytes": 1, "net.0.name": "vnet0"})) == [
        'libvirt_domain_interface_stats_receive_bytes{target_device="vnet0"} 1'
    ]


def test_backing_chain():
    """Rows that share a name differ by index, and the top layer keeps the plain series."""
    record = {
        "block.0.name": "vda",
        "block.0.capacity": 1,
        "block.1.name": "vda",
        "block.1.capacity": 2,
        "block.1.timed_group.4.interval": 10,
        "block.1.timed_group.4.rd_latency_min": 3,
    }
    family = "libvirt_domain_block_stats_timed_read_latency_minimum_seconds"
    assert shown(fresh(record)) == [
        'libvirt_domain_block_stats_capacity_bytes{target_device="vda"} 1',
        'libvirt_domain_block_stats_capacity_bytes{target_device="vda",index="1"} 2',
        f'{family}{{target_device="vda",interval="10",index="1.4"}} 3',
    ]


def test_device_named():
    """A disk that takes another's index keeps the numbers of its name."""
    decoder = Decoder(CATALOG, lambda _: None)
    both: Record = {"block.0.name": "vda", "block.0.physical": 1}
    decoder.readings(DOMAIN, both)
    other = both | {"block.0.name": "vdb"}
    assert shown(decoder.readings(DOMAIN, other)) == [
        'libvirt_domain_block_stats_physical_bytes{target_device="vdb"} 1'
    ]


@pytest.mark.parametrize("interval", ["interval", "interval_length"])
def test_timed_group(interval: str):
    """A timed group bears its interval, under the name on the wire and the one in the manual."""
    record = {
        "block.0.name": "vda",
        "block.0.timed_group.count": 1,
        f"block.0.timed_group.0.{interval}": 60,
        "block.0.timed_group.0.flush_latency_avg": 5,
        "block.0.timed_group.0.zone_append_queue_depth_avg": 1.5,
    }
    prefix = "libvirt_domain_block_stats_timed"
    assert shown(fresh(record)) == [
        prefix + '_groups{target_device="vda"} 1',
        prefix + '_flush_latency_average_seconds{target_device="vda",interval="60"} 5',
        prefix + '_zone_append_queue_depth_average{target_device="vda",interval="60"} 1.5',
    ]


def latencies(starts: list[int], values: list[int], operation: str = "read") -> Record:
    """Return the part of a record that holds one histogram."""
    prefix = f"block.0.latency_histogram.{operation}.bin"
    record: Record = {"block.0.name": "vda", f"{prefix}.count": len(starts)}
    for index, (start, value) in enumerate(zip(starts, values, strict=True)):
        record[f"{prefix}.{index}.start"] = start
        record[f"{prefix}.{index}.value"] = value
    return record


def test_histogram():
    """Bins become cumulative buckets, bounded in seconds by the start of the next, and a count."""
    record = latencies([0, 10_000, 2_500_000_000], [3, 4, 5])
    labels = 'target_device="vda",operation="read"'
    family = "libvirt_domain_block_stats_latency_seconds"
    assert shown(fresh(record)) == [
        f'{family}:bucket{{{labels},le="0.00001"}} 3',
        f'{family}:bucket{{{labels},le="2.5"}} 7',
        f'{family}:bucket{{{labels},le="+Inf"}} 12',
        f"{family}:count{{{labels}}} 12",
    ]


def test_histograms_side_by_side():
    """Histograms of several operations stay apart and are added up at every poll."""
    decoder = Decoder(CATALOG, lambda _: None)
    for factor in (1, 10):
        record = latencies([0, 10], [factor, factor]) | latencies([0], [factor * 7], "flush")
        reading = decoder.readings(DOMAIN, record)[0]
        check_shape(reading.shape)
        assert reading.values == (factor, 2 * factor, 2 * factor, factor * 7, factor * 7)


def test_histogram_rebinned():
    """Other bounds are another shape, without a stale bucket."""
    decoder = Decoder(CATALOG, lambda _: None)
    before = decoder.readings(DOMAIN, latencies([0, 10], [1, 2]))
    after = decoder.readings(DOMAIN, latencies([0, 20], [1, 2]))
    assert before[0].shape is not after[0].shape
    assert 'le="0.00000002"' in shown(after)[0]


@pytest.mark.parametrize("starts", [[5, 5], [0, None]])
def test_histogram_unsound(starts: list[int]):
    """Bins whose bounds are equal or missing pass through as unknown rather than mislead."""
    record = latencies(starts, [1, 2])
    record = {key: value for key, value in record.items() if value is not None}
    lines = shown(fresh(record))
    assert len(lines) == 2
    assert all(line.startswith('libvirt_domain_unknown_stat{group="block"') for line in lines)


def test_energy():
    """Energy events keep the kernel's name, under the names of monitor and package."""
    record = {
        "cpu.energy.monitor.count": 1,
        "cpu.energy.monitor.0.name": "vcpus_0-3",
        "cpu.energy.monitor.0.vcpus": "0-3",
        "cpu.energy.monitor.0.pkg.count": 1,
        "cpu.energy.monitor.0.pkg.0.id": 4,
        "cpu.energy.monitor.0.pkg.0.core_energy": 1.5,
        "cpu.energy.monitor.0.pkg.0.activity": 9,
    }
    monitor = 'monitor="vcpus_0-3"'
    assert shown(fresh(record)) == [
        "libvirt_domain_cpu_energy_monitors{} 1",
        f'libvirt_domain_cpu_energy_monitor_info{{{monitor},vcpus="0-3"}} 1',
        f"libvirt_domain_cpu_energy_monitor_packages{{{monitor}}} 1",
        f'libvirt_domain_cpu_energy_event{{{monitor},package="4",event="core_energy"}} 1.5',
        f'libvirt_domain_cpu_energy_event{{{monitor},package="4",event="activity"}} 9',
    ]


def test_bandwidth():
    """Memory bandwidth bears the names of its monitor and of its node."""
    record = {
        "memory.bandwidth.monitor.0.name": "a",
        "memory.bandwidth.monitor.0.node.0.id": 0,
        "memory.bandwidth.monitor.0.node.0.bytes.local": 1,
        "memory.bandwidth.monitor.0.node.1.id": 8,
        "memory.bandwidth.monitor.0.node.1.bytes.total": 2,
    }
    assert shown(fresh(record)) == [
        'libvirt_domain_memory_bandwidth_local_bytes{monitor="a",node="0"} 1',
        'libvirt_domain_memory_bandwidth_bytes{monitor="a",node="8"} 2',
    ]


def test_unknown():
    """What the catalog does not know goes on under a generic name, and is told once per plan."""
    told: list[str] = []
    decoder = Decoder(CATALOG, told.append)
    record: Record = {
        "vcpu.0.time": 1,
        "vcpu.0.mood": 2,
        "new.group": -3,
        "new.name": "x",
        "odd": 1.5,
    }
    for _ in range(3):
        readings = decoder.readings(DOMAIN, record)
    assert [one.shape.group for one in readings] == ["vcpu", "new", "odd"]
    assert shown(readings) == [
        'libvirt_domain_vcpu_time_seconds{vcpu="0"} 1',
        'libvirt_domain_unknown_stat{group="vcpu",key="vcpu.0.mood"} 2',
        'libvirt_domain_unknown_stat{group="new",key="new.group"} -3',
        'libvirt_domain_unknown_text_info{group="new",key="new.name",value="x"} 1',
        'libvirt_domain_unknown_stat{group="odd",key="odd"} 1.5',
    ]
    assert told == ["vcpu.0.mood", "new.group", "new.name", "odd"]


def test_other_type():
    """A string where a number was expected goes on as text, and back again."""
    decoder = Decoder(CATALOG, lambda _: None)
    number = ["libvirt_domain_memory_stats_rss_bytes{} 1024"]
    assert shown(decoder.readings(DOMAIN, {"balloon.rss": 1})) == number
    assert shown(decoder.readings(DOMAIN, {"balloon.rss": "much"})) == [
        'libvirt_domain_unknown_text_info{group="balloon",key="balloon.rss",value="much"} 1'
    ]
    assert shown(decoder.readings(DOMAIN, {"balloon.rss": 1})) == number
    assert shown(decoder.readings(DOMAIN, {"balloon.rss": 0.5})) == [
        "libvirt_domain_memory_stats_rss_bytes{} 512.0"
    ]


@pytest.mark.parametrize(
    "value", [None, [1], {}, b"x", 2**64, -(2**63) - 1, 10**400, math.nan, math.inf, 1j]
)
@pytest.mark.parametrize("key", ["vcpu.0.time", "vcpu.0.state", "block.0.name", "new.key"])
def test_malformed(key: str, value: Any):
    """A value that cannot be is a ValueError naming its key, first or later, and nothing more."""
    decoder = Decoder(CATALOG, lambda _: None)
    with pytest.raises(ValueError, match=re.escape(key)):
        decoder.readings(DOMAIN, {key: value, "cpu.time": 1})
    good = decoder.readings(DOMAIN, {key: 1, "cpu.time": 1})
    with pytest.raises(ValueError, match=re.escape(key)):
        decoder.readings(DOMAIN, {key: value, "cpu.time": 1})
    assert decoder.readings(DOMAIN, {key: 1, "cpu.time": 1}) == good
    with_double: Record = {key: 0.5, "cpu.time": 1}
    decoder.readings(DOMAIN, dict(with_double))
    with pytest.raises(ValueError, match=re.escape(key)):
        decoder.readings(DOMAIN, with_double | {key: value})


def test_threads():
    """Lanes decode at once, also one guest's tiers, and each gets what it would get alone."""
    decoder = Decoder(CATALOG, lambda _: None)
    records = [golden(name) for name in RECORDS]
    domains = [Domain(f"u-{i}", f"d-{i}", i, ()) for i in range(6)]
    alone = [shown(fresh(record)) for record in records]

    def lane(number: int) -> bool:
        same = True
        for turn in range(60):
            at = (number + turn) % len(records)
            domain = domains[turn % len(domains)]
            same &= shown(decoder.readings(domain, dict(records[at]))) == alone[at]
            if turn % 7 == number:
                decoder.forget(domain.uuid)
        return same

    with ThreadPoolExecutor(4) as lanes:
        assert all(lanes.map(lane, range(4)))


# Properties

TOKENS = st.sampled_from(["0", "1", "2", "10", "exits", "blocking"])
NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(-(2**31), 5),
    st.floats(-1e290, 1e290),
)
NAMES = st.one_of(st.sampled_from(["vda", "vdb", "0", "1", "", 'q"\n']), st.text(max_size=5))
LINES = [line for line in CATALOG.fields if CATALOG.groups[line.group].bit]


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Draw a record of keys that libvirt could make, with values of their kind."""
    record: Record = {}
    every = [one for several in CATALOG._lines.values() for one in several]
    known = [line for line in every if CATALOG.groups[line.group].bit]
    for line in draw(st.lists(st.sampled_from(known), max_size=25)):
        tokens = [draw(TOKENS) if token.startswith("{") else token for token in line.tokens]
        key = ".".join((line.group, *tokens))
        if line.role is Role.TEXT or line.key.endswith(".name"):
            record[key] = draw(NAMES)
        elif line.role in {Role.START, Role.SIZE, Role.NAME} or line.enum:
            record[key] = draw(st.integers(0, 12))
        else:  # a key is a boolean always or never
            record[key] = draw(st.booleans() if "blocking" in tokens else NUMBERS)
    return record


GARBAGE = st.dictionaries(
    st.one_of(
        st.text(max_size=12), st.from_regex(r"(vcpu|net|block|state|x)(\.[a-z0-9]{0,4}){0,4}")
    ),
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(max_size=4),
        st.none(),
        st.lists(st.integers(), max_size=1),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(records())
def test_any_record(record: Record):
    """Whatever libvirt combines, shapes keep their promises and every number arrives once."""
    readings = fresh(record)
    for reading in readings:
        check_shape(reading.shape)
        assert len(reading.values) == len(reading.shape.series)
        assert reading.domain is DOMAIN
        for value in reading.values:
            assert type(value) in (int, float)
            assert math.isfinite(value)
    assert sum(len(one.values) for one in readings) == sum(map(expected, record))
    assert len({one.shape.group for one in readings}) == len(readings)


def expected(key: str) -> int:
    """Count the series that a key makes, but for the count of a histogram."""
    match = CATALOG.match(key)
    assert match
    role = match.lines[0].role
    return 0 if role in {Role.NAME, Role.START, Role.SIZE} else len(match.lines)


@settings(deadline=None)
@given(records(), records())
def test_history_does_not_matter(before: Record, record: Record):
    """A record decodes alike on a decoder that has seen others, the same keys included."""
    decoder = Decoder(CATALOG, lambda _: None)
    changed: Record = {key: before.get(key, value) for key, value in record.items()}
    for earlier in (before, changed, record, changed):
        decoder.readings(DOMAIN, earlier)
    assert shown(decoder.readings(DOMAIN, record)) == shown(fresh(record))
    assert shown(decoder.readings(OTHER, record)) == shown(fresh(record))


@settings(deadline=None)
@given(GARBAGE, GARBAGE)
def test_garbage(before: Record, record: Record):
    """Garbage raises nothing but ValueError, and leaves the decoder as it was."""
    decoder = Decoder(CATALOG, lambda _: None)
    good = {"vcpu.0.time": 1}
    wanted = decoder.readings(DOMAIN, good)
    for one in (before, record, before):
        complaint = ""
        try:
            readings = decoder.readings(DOMAIN, one)
        except ValueError as error:
            complaint = str(error)
        if complaint:
            assert any(complaint.startswith(f"{key}: ") for key in one)
        else:
            for reading in readings:
                check_shape(reading.shape)
    assert decoder.readings(DOMAIN, good) == wanted


@settings(deadline=None)
@given(st.sampled_from([line for line in LINES if line.role is Role.NUMBER]), st.integers(0, 2**63))
def test_unit_undone(line: Line, value: int):
    """A series' number, its factor undone, is libvirt's own."""
    key = ".".join((line.group, *(token.strip("{}") for token in line.tokens)))
    readings = fresh({key: value})
    numbers = {
        series.field: number
        for reading in readings
        for series, number in zip(reading.shape.series, reading.values, strict=True)
    }
    assert line.field
    assert numbers[line.field] == value * line.factor


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -(2**70), 2**64, None, b"x"])
@pytest.mark.parametrize("key", ["block.0.rd.reqs", "vcpu.1.time", "balloon.rss", "state.state"])
def test_one_bad_value_costs_that_value(key: str, bad: object):
    """Every other series of the record is there with its number, and the bad one is named."""
    record: Record = golden("kvm_running")
    assert key in record
    decoder = Decoder(CATALOG, lambda _: None)
    whole = {
        (series.field.family, series.labels): value
        for reading in decoder.readings(DOMAIN, record)
        for series, value in zip(reading.shape.series, reading.values, strict=True)
    }
    readings, fault = decoder.sound(DOMAIN, record | {key: bad})
    left = {
        (series.field.family, series.labels): value
        for reading in readings
        for series, value in zip(reading.shape.series, reading.values, strict=True)
    }
    assert fault.startswith(f"{key}: ")
    missing = whole.keys() - left.keys()
    assert 1 <= len(missing) <= 2
    assert {at: left[at] for at in left if at in whole} == {
        at: whole[at] for at in whole if at in left
    }


@pytest.mark.parametrize("part", ["value", "start"])
@pytest.mark.parametrize("bin_", [0, 1, 2])
def test_a_bad_bin_costs_its_histogram(bin_: int, part: str):
    """Buckets are sums of bins, so that without one the others would be false; others stay."""
    record = latencies([0, 10, 20], [1, 2, 3]) | latencies([0, 10], [4, 5], "flush")
    key = f"block.0.latency_histogram.read.bin.{bin_}.{part}"
    assert key in record
    unknown: list[str] = []
    readings, fault = Decoder(CATALOG, unknown.append).sound(DOMAIN, record | {key: math.nan})
    assert fault.startswith(f"{key}: ")
    assert shown(readings) == shown(fresh(latencies([0, 10], [4, 5], "flush")))
    assert not unknown


def test_a_record_of_nothing_but_nonsense_is_none():
    """Where no value can be taken there is no reading, and no endless search for one."""
    readings, fault = Decoder(CATALOG, lambda _: None).sound(
        DOMAIN, {f"vcpu.{n}.time": float("nan") for n in range(200)}
    )
    assert readings == ()
    assert fault.startswith("vcpu.0.time: ")

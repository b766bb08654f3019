"""The agent's numbers under the names of other tools, held to the lists of what these have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from virtstatd.catalog import Line, shipped
from virtstatd.catalog.names import TOOLS, dialect, dialect_table
from virtstatd.catalog.names.dialect import read_dialect
from virtstatd.catalog.names.translator import HOUR, Translator
from virtstatd.errors import ConfigError
from virtstatd.formats.naming import metric_name, name_of
from virtstatd.model import Batch, Domain, Kind, Number, Reading, Series
from virtstatd.testing import TAKEN_AT, make_domain


LISTS = Path(__file__).parents[2] / "data" / "names"
"""What each tool has, as read in its source or seen of it: the first line says where."""

SECOND = 10**9
HOST_GROUPS = {"agent", "defined", "node", "storage_pool"}
GUEST = make_domain(1)
LABELS = {
    "target_device": "vda",
    "vcpu": "0",
    "device": "disk",
    "source_file": "/var/lib/a.qcow2",
    "source_bridge": "br0",
    "project_id": "p1",
    "instance_name": "web",
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], Number]


class Listed(NamedTuple):
    """A line of a tool's list."""

    name: str
    kind: str
    labels: frozenset[str]


def listed(tool: str) -> list[Listed]:
    """Return what a tool has; of Ceilometer the list has meters, all gauges."""
    rows = [
        line.split("\t")
        for line in (LISTS / f"{tool}.tsv").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    if tool == "ceilometer":
        return [Listed(name, "gauge", meter_labels(meter, unit)) for name, meter, _, unit in rows]
    return [
        Listed(name, kind or "gauge", frozenset(filter(None, labels.split(","))))
        for name, kind, labels in rows
    ]


def meter_labels(meter: str, unit: str) -> frozenset[str]:
    """Return the labels that Ceilometer gives a meter, but for a hash of names of Nova's."""
    fixed = "publisher type counter project project_name user user_name resource resource_name"
    names = {meter.partition(".")[0], "server_group", *fixed.split()}
    return frozenset(names | ({"unit"} if unit else set()))


def lines_of(names: Iterable[str]) -> dict[str, Line]:
    """Return the catalog's lines of metrics."""
    by_name = {metric_name(line.field): line for line in shipped().fields if line.field}
    return {name: by_name[name] for name in names}


def batch_of(
    numbers: Mapping[str, Number],
    *,
    labels: Mapping[str, str] = LABELS,
    variants: Mapping[str, Iterable[Mapping[str, str]]] | None = None,
) -> Batch:
    """Return a batch with one series of each metric, or one for each of its variants."""
    groups: dict[str, list[tuple[Series, Number]]] = {}
    for name, line in lines_of(numbers).items():
        assert line.field
        for variant in (variants or {}).get(name, ({},)):
            known = {**labels, **variant}
            given = tuple((label, known.get(label, f"a {label}")) for label in line.labels)
            of = groups.setdefault(line.group, [])
            of.append((Series(line.field, given), numbers[name]))
    readings = tuple(
        Reading(
            None if group in HOST_GROUPS else GUEST,
            shipped().shape(group, [series for series, _ in members]),
            tuple(number for _, number in members),
        )
        for group, members in groups.items()
    )
    return Batch("test", TAKEN_AT, readings, frozenset(groups))


def samples(batch: Batch) -> Samples:
    """Return the samples of a batch in base units, each once, by name and labels."""
    found: Samples = {}
    for reading in batch.readings:
        own = reading.domain.labels if reading.domain else ()
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            key = name_of(series), tuple(sorted((*own, *series.labels)))
            assert key not in found
            found[key] = value * 10**series.exponent if series.exponent else value
    return found


def everything(tool: str) -> Batch:
    """Return a batch with all that a tool's metrics are made of."""
    of = dialect(tool)
    names = {n for each in of.metrics.values() for n in (*each.sources, *each.beside)}
    variants: dict[str, list[dict[str, str]]] = {}
    for each in of.metrics.values():
        if each.where:
            first = {label: values[0] for label, values in each.where.items()}
            variants.setdefault(each.sources[0], []).append(first)
    return batch_of(dict.fromkeys(sorted(names | of.joined), 1), variants=variants)


def translator(tool: str, *, rest: bool = True, patience: float = 0.0) -> Translator:
    """Return what translates into the names of a tool."""
    return Translator(dialect(tool), metric_name, rest=rest, patience=patience)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_metric_of_a_tool_is_there_or_missing_for_a_reason(tool: str):
    """What a tool has is given, with its kind and labels, or listed as missing with a reason."""
    of = dialect(tool)
    shown: dict[str, set[tuple[str, frozenset[str]]]] = {}
    for reading in translator(tool, rest=False)(everything(tool)).readings:
        own = dict(reading.domain.labels) if reading.domain else {}
        for series in reading.shape.series:
            kind = "gauge" if series.field.kind is Kind.INFO else series.field.kind.value
            labels = frozenset({*own, *dict(series.labels)})
            shown.setdefault(name_of(series), set()).add((kind, labels))
    for name, kind, labels in listed(tool):
        if name in of.missing:
            assert of.missing[name].endswith("."), name
        else:
            assert shown[name] == {(kind, labels)}, name
    assert shown.keys() == of.metrics.keys()
    assert of.metrics.keys() <= {each.name for each in listed(tool)}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_name_in_a_file_is_one_of_the_catalog(tool: str):
    """What metrics are made of exists, and what is computed together has one unit."""
    of = dialect(tool)
    lines_of(of.joined)
    for name, metric in of.metrics.items():
        fields = [line.field for line in lines_of((*metric.sources, *metric.beside)).values()]
        assert len({field.exponent for field in fields if field}) == 1, name
        assert metric_name(metric.field) == name


def test_numbers_are_converted_and_computed():
    """Percent, nanoseconds, mebibytes and sums over vCPUs are what the tools have."""
    memory = {
        "libvirt_domain_memory_stats_available_bytes": 400 * 2**20,
        "libvirt_domain_memory_stats_usable_bytes": 300 * 2**20,
        "libvirt_domain_memory_stats_current_balloon_bytes": 512 * 2**20,
    }
    domain = ("domain", GUEST.name)
    inovex = samples(translator("inovex")(batch_of(memory)))
    assert inovex["libvirt_domain_memory_stats_used_percent", (domain,)] == 25.0
    tinkoff = samples(translator("tinkoff")(batch_of(memory)))
    assert tinkoff["libvirt_domain_memory_stats_actual_balloon_bytes", (domain,)] == 512 * 2**20

    nova = {"libvirt_domain_openstack_info": 1}
    times = {
        "libvirt_domain_vcpu_time_seconds_total": 7,
        "libvirt_domain_vcpu_wait_seconds_total": 5,
    }
    found = samples(translator("ceilometer", rest=False)(batch_of(memory | nova | times)))
    values = {name: value for (name, _), value in found.items()}
    assert values == {
        "ceilometer_cpu": 12,
        "ceilometer_memory": 512.0,
        "ceilometer_memory_available": 400.0,
        "ceilometer_memory_usage": 100.0,
    }
    ((labels, _),) = [(dict(k[1]), v) for k, v in found.items() if k[0] == "ceilometer_cpu"]
    assert labels["resource"] == labels["cpu"] == GUEST.uuid
    assert labels["project"] == "p1"
    assert labels["resource_name"] == f"web:{GUEST.name}"


def test_a_number_of_which_a_part_is_unknown_is_absent():
    """A percentage without one of its parts, or of nothing, is no zero."""
    name = "libvirt_domain_memory_stats_used_percent"
    alone = batch_of({"libvirt_domain_memory_stats_available_bytes": 7})
    assert name not in {key for key, _ in samples(translator("inovex")(alone))}
    nothing = {
        "libvirt_domain_memory_stats_available_bytes": 0,
        "libvirt_domain_memory_stats_usable_bytes": 0,
    }
    (value,) = [
        v for (n, _), v in samples(translator("inovex")(batch_of(nothing))).items() if n == name
    ]
    assert math.isnan(value)


def test_a_number_of_another_reading_counts_while_it_is_current():
    """All domains are those that run and those that do not, as long as both are known."""
    translate = translator("inovex")
    running = batch_of({"libvirt_domains": 3})
    inactive = replace(batch_of({"libvirt_inactive_domains": 2}), lifetime_seconds=100.0)
    assert ("libvirt_domains", ()) not in samples(translate(running))
    translate(inactive)
    assert samples(translate(running))["libvirt_domains", ()] == 5
    later = replace(running, taken_at=TAKEN_AT + 101 * SECOND)
    assert ("libvirt_domains", ()) not in samples(translate(later))


READ = "libvirt_domain_block_stats_read_bytes_total"
INFO = "libvirt_domain_block_stats_info"


def read_series(batch: Batch) -> list[dict[str, str]]:
    """Return the labels of the series that count bytes read."""
    return [dict(labels) for name, labels in samples(batch) if name == READ]


def test_labels_from_the_description_are_waited_for_but_not_for_ever():
    """A new guest's disks are shown once it is known what they are, or after the patience."""
    translate = translator("kumina", patience=60.0)
    assert not read_series(translate(batch_of({READ: 1})))
    translate(batch_of({INFO: 1}))
    (labels,) = read_series(translate(batch_of({READ: 1})))
    assert labels == {
        "domain": GUEST.name,
        "uuid": GUEST.uuid,
        "target_device": "vda",
        "source_file": "/var/lib/a.qcow2",
    }
    translate = translator("kumina", patience=60.0)
    translate(batch_of({READ: 1}))
    late = replace(batch_of({READ: 1}), taken_at=TAKEN_AT + 61 * SECOND)
    (labels,) = read_series(translate(late))
    assert labels["source_file"] == ""


def test_labels_follow_the_description():
    """A disk with another file gets its name, a CD-ROM drive has no series in that tool."""
    translate = translator("kumina")
    translate(batch_of({INFO: 1}))
    moved = LABELS | {"source_file": "/b.raw"}
    translate(batch_of({INFO: 1}, labels=moved))
    (labels,) = read_series(translate(batch_of({READ: 1})))
    assert labels["source_file"] == "/b.raw"
    translate(batch_of({INFO: 1}, labels=LABELS | {"device": "cdrom"}))
    assert not read_series(translate(batch_of({READ: 1})))


def test_a_restarted_guest_is_a_new_one():
    """What was known of a run ends with it, whether its end was reported or not."""
    for told in (True, False):
        translate = translator("kumina", patience=60.0)
        translate(batch_of({INFO: 1}))
        if told:
            translate(Batch("test", TAKEN_AT, (), gone=(GUEST,)))
        batch = batch_of({READ: 1})
        again = replace(GUEST, id=GUEST.id + 1)
        readings = tuple(replace(each, domain=again) for each in batch.readings)
        assert not read_series(translate(replace(batch, readings=readings)))


def test_guests_that_vanish_without_news_are_forgotten():
    """A guest from which nothing came for a day is no longer held."""
    translate = translator("kumina", patience=60.0)
    translate(batch_of({INFO: 1}))
    day = Batch("test", TAKEN_AT + 25 * HOUR, ())
    translate(day)
    later = replace(batch_of({READ: 1}), taken_at=TAKEN_AT + 25 * HOUR)
    assert not read_series(translate(later))


def test_everything_else_stays_as_it_is():
    """What a tool has no name for is shown under the agent's, unless that is not wanted."""
    more = {"virtstatd_lanes": 2, "libvirt_domain_vcpu_delay_seconds_total": 7, READ: 3}
    batch = batch_of(more)
    found = samples(translator("kumina")(batch))
    assert found["virtstatd_lanes", ()] == 2
    delay = ("domain", GUEST.name), ("vcpu", "0")
    assert found["libvirt_domain_vcpu_delay_seconds_total", delay] == pytest.approx(7e-9)
    assert len(found) == 3
    assert len(samples(translator("kumina", rest=False)(batch))) == 1


@pytest.mark.parametrize("tool", TOOLS)
def test_translating_again_gives_the_same(tool: str):
    """A batch that is sent again is the same, with the same shapes, so nothing ends by itself."""
    translate = translator(tool)
    batch = everything(tool)
    translate(batch)
    first, second = translate(batch), translate(batch)
    assert samples(first) == samples(second)
    shapes = [each.shape for each in first.readings]
    assert all(a is b.shape for a, b in zip(shapes, second.readings, strict=True))


def test_labels_of_the_configuration_stay():
    """What the configuration puts on every series of a guest is on those of the tool, too."""
    more = Domain(GUEST.uuid, GUEST.name, GUEST.id, (*GUEST.labels, ("zone", "z")))
    batch = batch_of({READ: 1})
    readings = tuple(replace(each, domain=more) for each in batch.readings)
    (labels,) = read_series(translator("kumina")(replace(batch, readings=readings)))
    assert labels["zone"] == "z"
    assert labels["uuid"] == GUEST.uuid


def test_a_file_with_faults_names_them_all():
    """An unknown formula, and a metric both given and missing, are reported together."""
    text = """
        about = "x"
        [metrics]
        a_b = { kind = "gauge", how = "magic" }
        [missing]
        a_b = "No."
    """
    with pytest.raises(ConfigError) as caught:
        read_dialect("x", text)
    assert "magic" in str(caught.value)
    assert "given and missing" in str(caught.value)
    with pytest.raises(ConfigError):
        read_dialect("x", "about = 1")


@pytest.mark.parametrize("tool", TOOLS)
def test_the_table_has_every_metric(tool: str):
    """`virtstatd fields --names` prints what is given and what is missing."""
    table = dialect_table(dialect(tool))
    assert all(f"{each.name} " in table for each in listed(tool))
    assert not dialect_table(dialect(tool), "no such word")

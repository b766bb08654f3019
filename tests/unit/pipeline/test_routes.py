"""Routes: what is wanted of each batch goes on, whole and in order; nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtstatd.catalog import load, profiles
from virtstatd.formats.deltas import Deltas
from virtstatd.formats.lifetimes import Staleness
from virtstatd.formats.naming import metric_name, name_of
from virtstatd.model import Batch, Domain, Field, Kind, Labels, Reading, Series, Shape
from virtstatd.pipeline.picking import Globs
from virtstatd.pipeline.routes import LABEL_MAX, SinkRoute, Wanted
from virtstatd.testing import make_batch, make_domain, make_shapes


SHAPES = make_shapes()
GROUPS = sorted({shape.group for shape in SHAPES})
NAMES = sorted({metric_name(series.field) for shape in SHAPES for series in shape.series})
INFO = Field("libvirt_domain", "openstack", Kind.INFO, "", "What Nova says.")
Sample = tuple[str, str, Labels, float]


class Way:
    """A route whose clock the test sets, and what came out of it."""

    def __init__(self, wanted: Wanted) -> None:
        self.now = 0.0
        self.batches: list[Batch] = []
        self.route = SinkRoute(wanted, self.batches.append, metric_name, lambda: self.now)

    @property
    def samples(self) -> list[Sample]:
        """Every number that came out, in order."""
        return [each for batch in self.batches for each in samples(batch)]

    def gone(self) -> list[Domain]:
        """Return whose end was passed on."""
        return [domain for batch in self.batches for domain in batch.gone]


def samples(batch: Batch) -> list[Sample]:
    """Return the numbers of a batch with guest, name and labels."""
    return [
        (r.domain.name if r.domain else "", name_of(series), series.labels, value)
        for r in batch.readings
        for series, value in zip(r.shape.series, r.values, strict=True)
    ]


def described(domain: Domain, labels: dict[str, str]) -> Batch:
    """Return what the descriptions say of a guest."""
    shape = Shape("domain", (Series(INFO, tuple(labels.items())),))
    return Batch("inventory", 1, (Reading(domain, shape, (1,)),), frozenset({"domain"}))


def with_host() -> Batch:
    """Return a batch of guests and of the host."""
    batch = make_batch(3, shapes=SHAPES)
    return replace(
        batch, readings=(*batch.readings, Reading(None, SHAPES[0], (7,) * len(SHAPES[0].series)))
    )


globs = st.lists(
    st.sampled_from([*NAMES, "*", "*_total", "libvirt_domain_v*", "*bytes*", "nothing", "[x"]),
    max_size=3,
)


@given(keep=globs, drop=globs, groups=st.lists(st.sampled_from([*GROUPS, "other"]), max_size=2))
def test_what_is_wanted_goes_on_and_nothing_else(
    keep: list[str], drop: list[str], groups: list[str]
):
    """Exactly the numbers of wanted names and groups, in their order, a histogram whole or not."""
    wanted = Wanted(keep=keep, drop=drop, groups=groups)
    way, batch = Way(wanted), with_host()
    way.route(batch)
    way.route(batch)
    kept, dropped = Globs(keep), Globs(drop, otherwise=False)
    right = [
        (r.domain.name if r.domain else "", name_of(series), series.labels, value)
        for r in batch.readings
        if not groups or r.shape.group in groups
        for series, value in zip(r.shape.series, r.values, strict=True)
        if kept(metric_name(series.field)) and not dropped(metric_name(series.field))
    ]
    assert way.samples == 2 * right
    assert all(reading.values for out in way.batches for reading in out.readings)


def test_without_a_wish_the_readings_are_the_same_objects():
    """Nothing is copied where nothing is left out."""
    way, batch = Way(Wanted(drop=["nothing"])), with_host()
    way.route(batch)
    assert all(a is b for a, b in zip(way.batches[0].readings, batch.readings, strict=True))
    assert Wanted().everything
    assert not Wanted(drop=["nothing"]).everything


def test_a_shape_is_picked_once():
    """Encoders compile once per shape: the same one comes out each time."""
    way = Way(Wanted(drop=[NAMES[0]]))
    for _ in range(2):
        way.route(make_batch(2, shapes=SHAPES))
    first, second = ([r.shape for r in batch.readings] for batch in way.batches)
    assert all(a is b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("source", "collector"),
    [("bulk", "bulk"), ("local cgroup", "kernel"), ("local", "kernel"), ("thermal", "thermal")],
)
def test_collectors_are_told_apart_by_their_names(source: str, collector: str):
    """A source is its collector's; the end of a guest is told whoever noticed it."""
    for wanted, count in ((collector, 2), ("another", 0)):
        way = Way(Wanted(collectors=[wanted]))
        way.route(make_batch(2, shapes=SHAPES[:1], source=source))
        assert sum(len(batch.readings) for batch in way.batches) == count
        way.route(Batch("inventory", 2, (), gone=(make_domain(0),)))
        assert way.gone() == [make_domain(0)]


def test_guests_by_name_and_what_is_of_no_guest():
    """Patterns choose guests; the host's series are sent beside them."""
    way, batch = Way(Wanted(domains=[make_domain(1).name])), with_host()
    way.route(replace(batch, gone=(make_domain(0), make_domain(1))))
    assert {name for name, *_ in way.samples} == {make_domain(1).name, ""}
    assert way.gone() == [make_domain(1)]


def test_labels_of_info_series_come_on_all_series():
    """Chosen labels, cut where they are long, beside the guest's own; each once."""
    way, guest = Way(Wanted(labels=["project", "domain", "missing"])), make_domain(0)
    way.route(described(guest, {"project": "p" * 1000, "domain": "other", "flavor": "m1"}))
    way.route(make_batch([guest, make_domain(1)], shapes=SHAPES))
    info, labelled, *_ = (r.domain for b in way.batches for r in b.readings)
    assert info == guest, "that series has the label itself"
    assert labelled
    assert labelled.labels == (*guest.labels, ("project", "p" * (LABEL_MAX - 1) + "…"))
    for batch in way.batches[1:]:
        for reading in batch.readings:
            for series in reading.shape.series:
                assert reading.domain
                names = [name for name, _ in (*reading.domain.labels, *series.labels)]
                assert len(names) == len(set(names))
    same = {
        id(r.domain) for r in way.batches[1].readings if r.domain and r.domain.uuid == guest.uuid
    }
    assert len(same) == 1
    way.route(Batch("inventory", 2, (), gone=(guest,)))
    assert set(way.gone()) == {guest, labelled}, "an end under all of its labels"


def test_a_label_that_is_no_more_is_not_copied_any_longer():
    """What a description says counts, not what an older one said."""
    way, guest = Way(Wanted(labels=["project", "flavor"])), make_domain(0)
    for labels in ({"project": "a", "flavor": "m1"}, {"project": "b"}, {"project": ""}):
        way.route(described(guest, labels))
        way.route(make_batch([guest], shapes=SHAPES[:1]))
    domains = [batch.readings[0].domain for batch in way.batches[1::2]]
    more = [each.labels[len(guest.labels) :] for each in domains if each]
    assert more == [(("flavor", "m1"), ("project", "a")), (("project", "b"),), ()]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),  # source
            st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),  # guests
            st.lists(st.integers(0, len(SHAPES) - 1), min_size=1, max_size=3, unique=True),
            st.floats(0, 40),  # until the next
            st.sampled_from([None, None, None, 0, 1]),  # who ends
        ),
        max_size=30,
    )
)
def test_of_each_interval_the_last_number_of_each_series(
    events: list[tuple[str, list[int], list[int], float, int | None]],
):
    """Whatever comes when: each series once per interval, its last number, an end behind it."""
    way = Way(Wanted(interval_seconds=60.0))
    last: dict[tuple[str, int, str], tuple[int, int]] = {}
    expected: list[tuple[str, int, str, int]] = []
    ends_at: float | None = None

    def out(keys: list[tuple[str, int, str]]) -> None:
        expected.extend((*key, last.pop(key)[1]) for key in keys)

    for number, (source, guests, at, pause, ended) in enumerate(events):
        shapes = [SHAPES[n] for n in at]
        batch = make_batch(
            [make_domain(each) for each in guests],
            shapes=shapes,
            source=source,
            taken_at=1 + number,
            base=1000 + 1000 * number,
        )
        gone = () if ended is None else (make_domain(ended),)
        if ended is not None:
            out([key for key in last if key[1] == ended])
        for guest in guests:
            for shape in shapes:
                last[source, guest, shape.group] = number, 1 + number
        if ends_at is None:
            ends_at = way.now + 60
        if way.now >= ends_at:
            ends_at += 60 * ((way.now - ends_at) // 60 + 1)
            out(list(last))
        way.route(replace(batch, gone=gone))
        way.now += pause
    out(list(last))
    way.route.flush()
    found = [
        (batch.source, r.domain.id - 1, r.shape.group, batch.taken_at)
        for batch in way.batches
        for r in batch.readings
        if r.domain
    ]
    assert sorted(found) == sorted(expected)
    assert all(b.lifetime_seconds >= 120 for b in way.batches if b.readings)


def test_nothing_is_kept_of_guests_that_ended():
    """A thousand lives leave no trace in a route that copies labels and holds intervals."""
    way = Way(Wanted(labels=["project"], interval_seconds=60.0, domains=["*"]))
    for number in range(1000):
        guest = make_domain(number)
        way.route(described(guest, {"project": "p"}))
        way.route(make_batch([guest], shapes=SHAPES[:1]))
        way.route(Batch("inventory", 2, (), gone=(guest,)))
    assert not way.route._domains._told
    assert not way.route._domains._values
    assert not way.route._domains._labelled
    assert way.route._held
    assert not way.route._held._last


def test_the_lean_profile_is_of_the_catalog():
    """Each of its patterns matches something that there is."""
    names = {metric_name(line.field) for line in load().fields if line.field}
    for pattern in profiles.profile("lean"):
        kept = Globs([pattern])
        assert any(kept(name) for name in names), pattern
    assert sum(map(Globs(profiles.profile("lean")), names)) < len(names)


def test_a_changed_label_breaks_no_counter():
    """Growth goes on over a change of a copied label; the series under the old one are ended."""
    way, guest = Way(Wanted(labels=["project"])), make_domain(0)
    deltas, ends = Deltas(), Staleness()
    ended: list[Labels] = []
    grown: list[Batch] = []
    for number, project in enumerate(("a", "a", "b", "b")):
        way.route(described(guest, {"project": project}))
        way.batches.clear()
        at = (1 + number) * 10**9
        way.route(make_batch([guest], shapes=SHAPES, taken_at=at, base=100 * number))
        (batch,) = way.batches
        plan = ends.plan(batch)
        ends.settle(plan)
        ended += [each.labels for each in plan.ended]
        readings = tuple(each.reading for each in deltas.of(batch))
        deltas.settle(batch)
        grown.append(replace(batch, readings=readings))
    assert set(ended) == {(*guest.labels, ("project", "a"))}
    growth = {
        value
        for batch in grown[1:]
        for reading in batch.readings
        for series, value in zip(reading.shape.series, reading.values, strict=True)
        if series.field.kind is Kind.COUNTER
    }
    assert len(growth) == 1, "the same each time"
    assert growth != {0}

"""Batches in parts."""

from hypothesis import given
from hypothesis import strategies as st

from virtstatd.formats.lifetimes import Staleness
from virtstatd.model import Batch, Domain, Labels, Number, Series
from virtstatd.pipeline.pieces import Splitter, keys_of, units
from virtstatd.testing import make_batch, make_domain, make_shapes


Sample = tuple[Domain | None, Series, Number]


def samples(*batches: Batch) -> list[Sample]:
    """Return every number with what it belongs to, in order."""
    return [
        (reading.domain, series, value)
        for batch in batches
        for reading in batch.readings
        for series, value in zip(reading.shape.series, reading.values, strict=True)
    ]


def atoms(splitter: Splitter, batch: Batch) -> list[Batch]:
    """Cut until nothing can be cut."""
    found, rest = [], [batch]
    while rest:
        one = rest.pop(0)
        halves = splitter.halves(one)
        rest[:0] = halves
        if not halves:
            found.append(one)
    return found


def ended(staleness: Staleness, batch: Batch) -> list[tuple[Labels, Series]]:
    """Send a batch to a receiver, and return what it is told has ended."""
    plan = staleness.plan(batch)
    staleness.settle(plan)
    return [(each.labels, series) for each in plan.ended for series in each.series]


@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 2))
def test_halves_are_the_whole(domains: int, vcpus: int, disks: int):
    """Cut to the end, every sample is there once and in order, and histograms are in one piece."""
    gone = (make_domain(99),)
    batch = make_batch(domains, shapes=make_shapes(vcpus, disks), gone=gone)
    pieces = atoms(Splitter(), batch)

    assert samples(*pieces) == samples(batch)
    assert [domain for piece in pieces for domain in piece.gone] == [*gone]
    assert all(len(list(keys_of(piece))) == 1 for piece in pieces if piece.readings)
    histograms = [p for p in pieces if any(s.part for _, s, _ in samples(p))]
    assert len(histograms) == domains * disks
    assert all(len(samples(each)) == 6 for each in histograms)


def test_halves_are_halves():
    """Cutting ends after as many steps as it must, not one per series."""
    splitter = Splitter()
    batch = make_batch(64)
    first, second = splitter.halves(batch)

    assert first.samples == second.samples == batch.samples // 2
    assert first.groups == second.groups == batch.groups


def test_the_same_shape_is_cut_into_the_same_shapes():
    """What encoders keep for a shape serves its parts as well, poll after poll."""
    shapes = make_shapes()
    splitter = Splitter()
    one, other = (
        [
            r.shape
            for p in atoms(splitter, make_batch(1, shapes=shapes, base=base))
            for r in p.readings
        ]
        for base in (1, 2)
    )

    assert all(a is b for a, b in zip(one, other, strict=True))


@given(st.data())
def test_what_is_known_as_bad_is_put_apart(data: st.DataObject):
    """A batch without its bad series and those make the whole, histograms as a whole."""
    batch = make_batch(3)
    keys = list(keys_of(batch))
    bad = frozenset(data.draw(st.lists(st.sampled_from(keys), unique=True)))
    good, apart = Splitter().without(batch, bad)

    assert sorted(keys_of(good), key=repr) == sorted(set(keys) - bad, key=repr)
    assert set(keys_of(apart) if apart else ()) == bad
    together = samples(good) + (samples(apart) if apart else [])
    assert sorted(together, key=repr) == sorted(samples(batch), key=repr)


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_receiver_takes_no_missing_half_for_gone(cut: list[bool]):
    """Whole batches and those in pieces by turns: no series that goes on is told to have ended."""
    staleness, splitter, shapes = Staleness(), Splitter(), make_shapes()
    for number, pieces in enumerate([False, *cut, False, True]):
        taken_at = (1000 + 15 * number) * 10**9
        batch = make_batch(2, shapes=shapes, taken_at=taken_at, lifetime_seconds=20)
        for piece in atoms(splitter, batch) if pieces else [batch]:
            assert ended(staleness, piece) == []


def test_what_is_gone_is_told_in_pieces_too():
    """A group that a domain has no more ends with the pieces as it does with the whole."""
    shapes = make_shapes()
    for cut in (False, True):
        staleness = Staleness()
        ended(staleness, make_batch(2, shapes=shapes, taken_at=10**12))
        later = make_batch(2, shapes=shapes[:-1], taken_at=2 * 10**12, lifetime_seconds=1e6)
        later = Batch(
            later.source, later.taken_at, later.readings, frozenset(s.group for s in shapes), 1e6
        )
        told = [
            each
            for piece in (atoms(Splitter(), later) if cut else [later])
            for each in ended(staleness, piece)
        ]
        assert told == [(make_domain(n).labels, s) for n in (0, 1) for s in shapes[-1].series]


def test_units_of_a_shape():
    """A histogram is one unit however many there are side by side, any other series is its own."""
    block = make_shapes(disks=2)[4]

    assert [len(unit) for unit in units(block)] == [1] * 6 + [6, 6] + [1, 1]

"""Batches as bytes."""

import gc
import math
from dataclasses import replace

import pytest

from virtstatd.model import Batch, Domain, Reading
from virtstatd.pipeline.spool.codec import RecordDecoder, RecordEncoder, Unreadable
from virtstatd.pipeline.spool.shapes import KnownShapes
from virtstatd.testing import hostile_batch, make_batch, make_domain, make_shapes


def content(batch: Batch) -> tuple[object, ...]:
    """Return everything a batch says, comparable: not-a-number by its name, types included."""
    return (
        batch.source,
        batch.taken_at,
        batch.lifetime_seconds,
        batch.groups,
        batch.gone,
        batch.samples,
        [
            (
                each.domain,
                each.shape.group,
                each.shape.series,
                [(type(v), "nan" if math.isnan(v) else v) for v in each.values],
            )
            for each in batch.readings
        ],
    )


def test_a_batch_comes_back_as_it_was():
    """Hostile names, odd numbers and integers of any size are the same after the way back."""
    large = make_shapes()[3]
    hostile = hostile_batch()
    batches = [
        make_batch(),
        hostile,
        replace(hostile, gone=tuple({r.domain for r in hostile.readings if r.domain})),
        make_batch(0),
        Batch("inventory", 1, (), gone=(make_domain(7, "\udce9"),), lifetime_seconds=math.inf),
        Batch("x", -1, (Reading(None, large, (1 << 70, -(1 << 64), (1 << 64) - 1, -0.0)),)),
    ]
    encoder, decoder = RecordEncoder(KnownShapes()), RecordDecoder(KnownShapes())
    for batch in [*batches, *batches]:
        assert content(decoder.decode(encoder.encode(batch))) == content(batch)


def test_shapes_come_back_as_themselves():
    """A shape that is alive is found by its content, also in a segment that another one wrote."""
    known = KnownShapes()
    batch, twin = make_batch(1), make_batch(1)
    records = [RecordEncoder(known).encode(batch), RecordEncoder(KnownShapes()).encode(twin)]
    for record in records:
        found = RecordDecoder(known).decode(record)
        assert all(
            new.shape is old.shape for new, old in zip(found.readings, batch.readings, strict=True)
        )
    del batch, found
    gc.collect()
    assert not known._shapes
    assert not known._digests


def test_two_segments_give_the_same_shapes():
    """After a restart, what was read from one segment is found by the next."""
    known = KnownShapes()
    batch = make_batch(2)
    one, other = (
        RecordDecoder(known).decode(RecordEncoder(KnownShapes()).encode(batch)) for _ in range(2)
    )
    assert [each.shape for each in one.readings] == [each.shape for each in other.readings]


def test_one_lost_record_costs_no_other():
    """Whichever record is missing, all others are read."""
    shapes = make_shapes()
    guests = [make_domain(number) for number in range(8)]
    batches = [
        make_batch(guests[number // 2 : number // 2 + 3], shapes=shapes, base=number)
        if number % 3
        else make_batch(guests[number // 2 : number // 2 + 3], base=number)
        for number in range(10)
    ]
    encoder = RecordEncoder(KnownShapes())
    records = [encoder.encode(batch) for batch in batches]
    for missing in range(len(records)):
        decoder = RecordDecoder(KnownShapes())
        for number, record in enumerate(records):
            if number != missing:
                assert content(decoder.decode(record)) == content(batches[number])


def test_what_is_known_is_not_told_again():
    """From the third record on, a batch is its numbers and next to nothing else."""
    encoder = RecordEncoder(KnownShapes())
    batch = make_batch(50)
    first, second, third = (len(encoder.encode(batch)) for _ in range(3))
    assert first == second
    assert third < batch.samples * 6 < first * 0.7


def test_equal_domains_are_one():
    """A domain that was made anew with the same content is not told again."""
    encoder = RecordEncoder(KnownShapes())
    shapes = make_shapes()
    lengths = [
        len(encoder.encode(make_batch([make_domain(0, "a" * 200)], shapes=shapes)))
        for _ in range(4)
    ]
    assert lengths[2] == lengths[3] < lengths[0] - 200


def test_garbage_is_unreadable_and_nothing_else():
    """Bytes that no encoder made, and references that are not known, raise one error."""
    encoder = RecordEncoder(KnownShapes())
    batch = make_batch()
    record, _, later = (encoder.encode(batch) for _ in range(3))
    with pytest.raises(Unreadable):
        RecordDecoder(KnownShapes()).decode(later)
    for cut in range(len(record)):
        with pytest.raises(Unreadable):
            RecordDecoder(KnownShapes()).decode(record[:cut])
    for at in range(0, len(record), 3):
        flipped = bytearray(record)
        flipped[at] ^= 0xFF
        try:
            found = RecordDecoder(KnownShapes()).decode(bytes(flipped))
        except Unreadable:
            continue
        assert isinstance(found, Batch)


def test_a_domain_is_what_it_was():
    """Labels that the configuration adds are kept with the domain."""
    domain = Domain("u", "n", 3, (("domain", "n"), ("rack", "\N{SNOWMAN}")))
    batch = make_batch([domain])
    found = RecordDecoder(KnownShapes()).decode(RecordEncoder(KnownShapes()).encode(batch))
    assert found.readings[0].domain == domain

"""Remote write, read by the protocol buffers library: every number, every label, every end."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from cramjam import snappy
from hypothesis import given
from hypothesis import strategies as st

from support.http_stub import Stub, answering
from support.wire.remote_write import STALE, Labels, bits, read, wanted
from virtstatd.formats.write1 import WriteEncoder
from virtstatd.model import Batch, Domain, Field, Kind, Series, Shape
from virtstatd.sink import Rejected, TryLater
from virtstatd.sinks.remote_write import RemoteWrite
from virtstatd.testing import (
    TAKEN_AT,
    hostile_batch,
    make_batch,
    make_domain,
    make_reading,
    make_shapes,
)
from virtstatd.testing.contract import opening


SECOND = 1_000_000_000


def sink(stub: Stub, **options: Any) -> RemoteWrite:
    """Return a sink that writes to the stub."""
    return RemoteWrite(
        url=f"{stub.url}/write",
        job="j",
        host="i",
        external_labels={"zone": "z"},
        **({"protocol": "1.0"} | options),
    )


def marked(stub: Stub) -> dict[Labels, int]:
    """Return the series that the last requests marked as ended, with the time, and forget them."""
    every = [each for request in stub.requests for each in read(request.body)]
    stub.requests.clear()
    return {labels: time for labels, number, time in every if number == STALE}


def at(batch: Batch, seconds: float) -> Batch:
    """Return a batch as if it had been taken some seconds after the first."""
    return replace(batch, taken_at=TAKEN_AT + round(seconds * SECOND))


def of_guests(batch: Batch) -> Batch:
    """Leave out what has no domain: an empty name makes no label, so the two would be one."""
    return replace(batch, readings=tuple(each for each in batch.readings if each.domain))


@pytest.mark.parametrize(
    "batch", [make_batch(30), of_guests(hostile_batch())], ids=["plain", "hostile"]
)
async def test_every_value_arrives(batch: Batch):
    """Each series arrives once, its labels sorted, its number exact, its time in milliseconds."""
    async with answering() as stub:
        async with sink(stub, request_samples=100).open(opening()) as send:
            await send(batch)
        found = [each for request in stub.requests for each in read(request.body)]
    for labels, _, time in found:
        assert [name for name, _ in labels] == sorted({name for name, _ in labels})
        assert time == TAKEN_AT // 1_000_000
    assert len(found) == batch.samples
    assert {labels: number for labels, number, _ in found} == wanted(batch.readings)
    assert stub.requests[0].headers["Content-Encoding"] == "snappy"
    assert stub.requests[0].headers["X-Prometheus-Remote-Write-Version"] == "0.1.0"


@given(
    labels=st.dictionaries(
        st.sampled_from(["domain", "uuid", "aaa", "job", "vcpu", "zzz"]),
        st.text(st.characters(codec=None), max_size=200),
    ),
    own=st.dictionaries(
        st.sampled_from(["vcpu", "target_device", "zone"]), st.text(max_size=200), max_size=3
    ),
    value=st.one_of(st.integers(-(2**63), 2**64), st.floats(-1e300, 1e300), st.booleans()),
    exponent=st.sampled_from([0, -9, -6, 3]),
    milliseconds=st.integers(0, 2**42 - 1),
)
def test_whatever_the_labels_are(
    labels: dict[str, str],
    own: dict[str, str],
    value: float,
    exponent: int,
    milliseconds: int,
):
    """Labels keep their order and are there once, whichever of the three places they come from."""
    gauge = Field("a", "b", Kind.GAUGE, "", "", exponent)
    shape = Shape("g", (Series(gauge, tuple(own.items())), Series(gauge, (("key", "k"),))))
    encoder = WriteEncoder((("job", "j"), ("zone", "z")))
    encoded = encoder.encode(shape, tuple(labels.items()), (value, 1), milliseconds)
    (first, number, time), (second, _, _) = read(bytes(snappy.compress_raw(encoded)))
    for found, of_series in ((first, own), (second, {"key": "k"})):
        every = {"job": "j", "zone": "z", "__name__": "a_b"} | of_series | labels
        assert found == tuple(
            (name, text.encode("utf-8", "backslashreplace").decode())
            for name, text in sorted(every.items())
            if text
        )
    assert time == milliseconds
    if math.isfinite(value):
        wanted_number = float(Fraction(value) * Fraction(10) ** exponent)
        assert number == bits(wanted_number) or math.isclose(
            wanted_number, value * 10.0**exponent, rel_tol=1e-15
        )


async def test_a_domain_that_is_gone_is_marked():
    """Every series of a domain that ended gets the mark, after its last sample, and no other."""
    batch = make_batch(3)
    last = batch.readings[-1].domain
    assert last
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(batch)
        assert marked(stub) == {}
        ending = Batch("inventory", TAKEN_AT, (), gone=(last,))
        await send(ending)
        found = marked(stub)
        assert found.keys() == wanted(r for r in batch.readings if r.domain is last).keys()
        assert set(found.values()) == {TAKEN_AT // 1_000_000 + 1}
        await send(ending)
        assert marked(stub) == {}


async def test_what_vanishes_from_a_group_is_marked():
    """A device that was unplugged ends, and so does a group that was asked and not answered."""
    guest = make_domain()
    before, after = make_shapes(disks=3), make_shapes(disks=2)
    batch = make_batch([guest], shapes=before)
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(batch)
        await send(at(make_batch([guest], shapes=after), 1))
        unplugged = wanted(batch.readings).keys() - wanted(make_batch([guest]).readings).keys()
        assert marked(stub).keys() == unplugged
        less = at(make_batch([guest], shapes=after[:4]), 2)
        await send(replace(less, groups=batch.groups))
        assert marked(stub).keys() == wanted(make_batch([guest], shapes=after[4:]).readings).keys()


async def test_an_equal_shape_ends_nothing():
    """A shape that was compiled anew with the same series marks none of them."""
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(make_batch(2))
        await send(at(make_batch(2), 1))
        assert marked(stub) == {}


async def test_a_domain_built_anew_under_its_name_goes_on():
    """A receiver knows it by its labels: nothing is before a mark, and what is fed has none."""
    old, new = make_domain(0, "web"), make_domain(1, "web")
    gone = Batch("inventory", TAKEN_AT + 5_000_000, (), gone=(old,))
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(make_batch([old]))
        await send(gone)
        marks = marked(stub)
        assert marks.keys() == wanted(make_batch([old]).readings).keys()
        stub.requests.clear()
        await send(at(make_batch([new]), 0))  # its poll began before the end was found out
        assert not stub.requests
        await send(at(make_batch([new]), 1))
        await send(at(make_batch([old]), 2))
        await send(replace(gone, taken_at=TAKEN_AT + 3 * 10**9))
        assert marked(stub) == {}


async def test_a_renamed_domain_is_marked_under_its_old_name():
    """New labels are new series; the old ones end."""
    old, new = make_domain(0, "old"), make_domain(0, "new")
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(make_batch([old]))
        await send(at(make_batch([new]), 1))
        assert marked(stub).keys() == wanted(make_batch([old]).readings).keys()


async def test_what_is_not_renewed_is_marked():
    """Readings that nothing came after end with their lifetime, at the next batch of anything."""
    batch = make_batch(1, lifetime_seconds=10)
    other = Batch("agent", 0, (make_reading(None, make_shapes()[0]),))
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(batch)
        await send(at(other, 10))
        assert marked(stub) == {}
        await send(at(other, 11))
        assert marked(stub).keys() == wanted(batch.readings).keys()
        await send(at(batch, 12))
        await send(at(batch, 13))
        assert len(stub.requests) == 2


async def test_nothing_goes_out_before_its_mark():
    """A poll that began before its domain ended is left out; the next run's readings are not."""
    guest = make_domain()
    again = Domain(guest.uuid, guest.name, guest.id + 1, guest.labels)
    shapes = make_shapes()
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(make_batch([guest], shapes=shapes))
        await send(Batch("inventory", TAKEN_AT + SECOND, (), gone=(guest,)))
        assert len(marked(stub)) > 0
        await send(at(make_batch([guest, make_domain(1)], shapes=shapes), 0.9))
        (request,) = stub.requests
        assert {dict(labels)["domain"] for labels, _, _ in read(request.body)} == {"vm-1"}
        stub.requests.clear()
        await send(at(make_batch([again], shapes=shapes), 1.1))
        assert len(read(stub.requests[0].body)) == len(wanted(make_batch(1).readings))


async def test_marks_wait_for_the_receiver():
    """Marks that the receiver did not take are sent with the batch when it comes again."""
    batch = make_batch(1)
    guest = batch.readings[0].domain
    assert guest
    ending = Batch("inventory", TAKEN_AT + SECOND, (), gone=(guest,))
    async with answering() as stub, sink(stub).open(opening()) as send:
        await send(batch)
        stub.status = 503
        with pytest.raises(TryLater):
            await send(ending)
        stub.status = 204
        await send(ending)
        assert marked(stub).keys() == wanted(batch.readings).keys()


async def test_marks_follow_what_was_refused_in_part():
    """A receiver that dislikes something in every batch is told of all that ends nevertheless."""
    batch = make_batch(2)
    guest = batch.readings[0].domain
    assert guest
    async with answering() as stub, sink(stub).open(opening()) as send:
        stub.status = 501
        with pytest.raises(Rejected):
            await send(batch)
        stub.status = 204
        await send(Batch("inventory", TAKEN_AT + SECOND, (), gone=(guest,)))
        gone = [each for each in batch.readings if each.domain is guest]
        assert marked(stub).keys() == wanted(gone).keys()


@pytest.mark.parametrize(
    "options",
    [
        {"url": "localhost"},
        {"external_labels": {"a-b": "c"}},
        {"external_labels": {"__name__": "c"}},
        {"external_labels": {"": "c"}},
    ],
)
def test_options_that_are_wrong(options: dict[str, Any]):
    """A fault of the options names the option."""
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        RemoteWrite(**options)

"""Remote write 2.0: only to who proves to understand it, and then with all that it can say."""

import asyncio
from dataclasses import replace
from typing import Any

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.http_stub import Received, Stub, answering
from support.wire.remote_write import STALE, Written, read, read2, understanding, version, wanted
from virtstatd.formats.lifetimes import Plan
from virtstatd.formats.write1 import WriteEncoder
from virtstatd.formats.write2 import Write2Encoder
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.sink import Denied, Rejected, Send, TryLater
from virtstatd.sinks.remote_write import WRITTEN, RemoteWrite
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
KINDS = {Kind.COUNTER: 1, Kind.GAUGE: 2, Kind.HISTOGRAM: 3, Kind.INFO: 6, Kind.UNKNOWN: 0}


def sink(stub: Stub, **options: Any) -> RemoteWrite:
    """Return a sink that writes to the stub."""
    common: dict[str, Any] = {"job": "j", "host": "i", "external_labels": {"zone": "z"}}
    return RemoteWrite(url=f"{stub.url}/write", **common | options)


def written(stub: Stub) -> list[Written]:
    """Return all samples that have arrived, and forget them."""
    found = [sample for request in stub.requests for sample in read2(request.body)]
    stub.requests.clear()
    return found


def of_guests(batch: Batch) -> Batch:
    """Leave out what has no domain: an empty name makes no label, so the two would be one."""
    return replace(batch, readings=tuple(each for each in batch.readings if each.domain))


@pytest.mark.parametrize(
    "batch", [make_batch(30), of_guests(hostile_batch())], ids=["plain", "hostile"]
)
async def test_every_value_arrives(batch: Batch):
    """Each series arrives once with sorted labels, exact number, time, kind, help and unit."""
    fields = {
        series.field.family: series.field for r in batch.readings for series in r.shape.series
    }
    async with answering() as stub:
        stub.decide = understanding(stub)
        async with sink(stub, request_samples=100).open(opening()) as send:
            await send(batch)
            assert read2(stub.requests[0].body) == []
            found = written(stub)
    assert len(found) == batch.samples
    assert {each.labels: each.bits for each in found} == wanted(batch.readings)
    for each in found:
        assert [name for name, _ in each.labels] == sorted({name for name, _ in each.labels})
        assert each.time == TAKEN_AT // 1_000_000
        assert each.start == 0
        name = dict(each.labels)["__name__"]
        field = fields.get(name) or next(
            field for family, field in fields.items() if name.startswith(family)
        )
        assert each.kind == KINDS[field.kind]
        assert (each.help, each.unit) == (field.help, field.unit)


@given(
    labels=st.dictionaries(
        st.sampled_from(["domain", "uuid", "aaa", "job", "vcpu", "zzz", "a-b"]),
        st.text(st.characters(codec=None), max_size=200),
    ),
    own=st.lists(
        st.dictionaries(
            st.sampled_from(["vcpu", "target_device", "zone", "a_b"]),
            st.text(max_size=200),
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    ),
    value=st.one_of(st.integers(-(2**63), 2**64), st.floats(), st.booleans()),
    exponent=st.sampled_from([0, -9, 3]),
    milliseconds=st.integers(1, 2**42 - 1),
)
def test_both_versions_say_the_same(
    labels: dict[str, str],
    own: list[dict[str, str]],
    value: float,
    exponent: int,
    milliseconds: int,
):
    """Whatever labels and numbers are, 2.0 has the same of them as 1.0, through any requests."""
    kinds = (Kind.GAUGE, Kind.COUNTER)
    series = tuple(
        Series(
            Field("a", f"b{number}", kinds[number % 2], "", "help", exponent), tuple(each.items())
        )
        for number, each in enumerate(own)
    )
    guests = [Domain(str(n), "", n, tuple(labels.items())) for n in range(3)]
    shapes = [Shape("g", series), Shape("h", series[:1])]
    values = (value,) * len(series)
    readings = tuple(
        Reading(guest, shape, values[: len(shape.series)]) for guest in guests for shape in shapes
    )
    plan = Plan(readings, (), {}, {}, milliseconds)
    external = (("job", "j"), ("zone", "z"))
    one, two = WriteEncoder(external), Write2Encoder(external)
    for starts in ([0] * len(readings), [milliseconds - 1] * len(readings)):
        first = [encode() for _, encode in one.items(plan, starts)]
        items = two.items(plan, starts)
        for begin, end in ((0, 2), (2, 3), (3, 6)):
            body = two.request([encode() for _, encode in items[begin:end]])
            found = read2(bytes(cramjam.snappy.compress_raw(body)))
            must = read(bytes(cramjam.snappy.compress_raw(b"".join(first[begin:end]))))
            assert [each[:3] for each in found] == must
            for each in found:
                name = dict(each.labels)["__name__"]
                assert each.start == (starts[0] if name.endswith("_total") else 0)


@pytest.mark.parametrize(
    ("status", "headers", "spoken"),
    [
        (204, {WRITTEN: "0"}, "2.0"),
        (400, {WRITTEN: "0"}, "2.0"),
        (204, {}, "1.0"),
        (200, {"X-Prometheus-Remote-Write-Version": "2.0.0"}, "1.0"),
        (400, {}, "1.0"),
        (415, {}, "1.0"),
        (415, {WRITTEN: "0"}, "1.0"),
        (500, {}, "1.0"),
        (429, {}, None),
        (503, {}, None),
        (404, {}, None),
    ],
)
async def test_what_proves_that_a_receiver_understands(
    status: int, headers: dict[str, str], spoken: str | None
):
    """Only the header that counts samples does; who is merely away is asked again."""
    asked: list[str] = []

    def decide(request: Received) -> int:
        asked.append(version(request))
        stub.headers = headers
        if len(asked) == 1:
            return status
        if asked[-1] == "2.0":
            stub.headers = {WRITTEN: str(len(read2(request.body)))}
        return 204

    async with answering() as stub, sink(stub).open(opening()) as send:
        stub.decide = decide
        if spoken is None:
            with pytest.raises(Denied if status == 404 else TryLater):
                await send(make_batch(1))
            assert asked == ["2.0"]
        else:
            await send(make_batch(1))
            await send(replace(make_batch(1), taken_at=TAKEN_AT + SECOND))
            assert asked == ["2.0", spoken, spoken]


async def test_it_is_asked_again_when_the_connection_was_lost():
    """An old receiver is not asked at every batch, but one that may be another since."""
    async with answering() as stub, sink(stub).open(opening()) as send:
        for number in range(3):
            await send(replace(make_batch(1), taken_at=TAKEN_AT + number * SECOND))
        assert [version(each) for each in stub.requests] == ["2.0", "1.0", "1.0", "1.0"]
        stub.requests.clear()
        batch = replace(make_batch(1), taken_at=TAKEN_AT + 5 * SECOND)
        async with stub.away():
            with pytest.raises(TryLater):
                await send(batch)
        stub.decide = understanding(stub)
        await delivered(send, batch)
        assert [version(each) for each in stub.requests] == ["2.0", "2.0"]
        assert len(written(stub)) == batch.samples


async def delivered(send: Send, batch: Batch) -> None:
    """Send until it succeeds: the first attempt may find a connection dead."""
    async with asyncio.timeout(100):
        while True:
            try:
                return await send(batch)
            except TryLater:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [415, 204])
async def test_who_understands_no_longer_gets_the_batch_in_1_0(status: int):
    """A 415, or an answer that says nothing of what was written, falls back with the same batch."""
    batch = make_batch(20)
    async with answering() as stub, sink(stub, request_samples=100).open(opening()) as send:
        stub.decide = understanding(stub)
        await send(make_batch(1, taken_at=TAKEN_AT - SECOND))
        stub.requests.clear()

        def decide(request: Received) -> int:
            stub.headers = {}
            return status if version(request) == "2.0" else 204

        stub.decide = decide
        await send(batch)
        old = [each for each in stub.requests if version(each) == "1.0"]
        found = [sample for request in old for sample in read(request.body)]
    assert {labels: number for labels, number, _ in found} == wanted(batch.readings)


@pytest.mark.parametrize("headers", [{}, {WRITTEN: "0"}])
async def test_nothing_but_2_0_if_that_is_wanted(headers: dict[str, str]):
    """With `protocol = "2.0"` batches wait for a receiver that understands; 1.0 never asks."""
    async with answering() as stub:
        stub.headers = headers
        async with sink(stub, protocol="2.0").open(opening()) as send:
            if headers:
                stub.decide = understanding(stub)
                await send(make_batch(1))
            else:
                with pytest.raises(TryLater, match=r"does not understand version 2\.0") as caught:
                    await send(make_batch(1))
                assert caught.value.after_seconds == 30
        assert {version(each) for each in stub.requests} == {"2.0"}
        stub.requests.clear()
        stub.decide = None
        async with sink(stub, protocol="1.0").open(opening()) as send:
            await send(make_batch(1))
        assert [version(each) for each in stub.requests] == ["1.0"]


async def test_what_was_not_written_is_counted():
    """What a receiver says it has not written is lost, and the rest is not sent again."""
    batch = make_batch(1)
    async with answering() as stub, sink(stub).open(opening()) as send:
        stub.decide = understanding(stub, but=3)
        with pytest.raises(Rejected, match="3 samples were not written") as caught:
            await send(batch)
        assert caught.value.samples == 3

        def decide(request: Received) -> int:
            understanding(stub, but=5)(request)
            return 400

        stub.decide = decide
        with pytest.raises(Rejected, match="answers 400") as caught:
            await send(replace(batch, taken_at=TAKEN_AT + SECOND))
        assert caught.value.samples == 5


async def test_when_counters_began():
    """Counters of a run whose beginning was seen say when it was, others and gauges say nothing."""
    old, other = make_domain(0), make_domain(1)
    new = Domain(old.uuid, old.name, old.id + 9, old.labels)
    shapes = make_shapes()
    async with answering() as stub, sink(stub).open(opening()) as send:
        stub.decide = understanding(stub)
        await send(make_batch([old], shapes=shapes))
        assert {each.start for each in written(stub)} == {0}
        later = TAKEN_AT + 5 * SECOND
        await send(make_batch([new, other], shapes=shapes, taken_at=later))
        found = [each for each in written(stub) if each.bits != STALE]
        began = later // 1_000_000 - 1
        for each in found:
            counts = each.kind in (1, 3) and dict(each.labels)["domain"] == old.name
            assert each.start == (began if counts else 0)
        await send(make_batch([new], shapes=shapes, taken_at=later + SECOND))
        assert {each.start for each in written(stub)} == {0, began}


async def test_a_domain_that_is_gone_is_marked():
    """Every series of a domain that ended gets the mark in 2.0 as well, bit by bit."""
    batch = make_batch(2)
    guest = batch.readings[-1].domain
    assert guest
    async with answering() as stub, sink(stub).open(opening()) as send:
        stub.decide = understanding(stub)
        await send(batch)
        written(stub)
        await send(Batch("inventory", TAKEN_AT + SECOND, (), gone=(guest,)))
        marks = written(stub)
    assert {each.bits for each in marks} == {STALE}
    gone = [each for each in batch.readings if each.domain is guest]
    assert {each.labels for each in marks} == wanted(gone).keys()


async def test_names_that_never_end(monkeypatch: pytest.MonkeyPatch):
    """However many names there have been, a request does not begin with all of them for ever."""
    monkeypatch.setattr("virtstatd.formats.write2.VOCABULARY", 40)
    sizes = []
    async with answering() as stub, sink(stub).open(opening()) as send:
        stub.decide = understanding(stub)
        for number in range(100):
            odd = Field("odd", f"name{number}", Kind.GAUGE, "", "")
            shapes = [Shape("odd", (Series(odd),)), *make_shapes()]
            batch = Batch(
                "bulk",
                TAKEN_AT + number * SECOND,
                tuple(make_reading(make_domain(), shape) for shape in shapes),
            )
            await send(batch)
            request = stub.requests[-1]
            sizes.append(len(cramjam.snappy.decompress_raw(request.body)))
            found = [each for each in read2(request.body) if each.bits != STALE]
            assert {each.labels: each.bits for each in found} == wanted(batch.readings)
    assert max(sizes) < 2 * min(sizes)

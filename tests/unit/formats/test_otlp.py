"""OTLP, read by OpenTelemetry's own messages: every point, its kind, its times, its attributes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from support.http_stub import Stub, answering
from support.wire.otlp import points, wanted
from virtstatd.formats.deltas import Deltas
from virtstatd.formats.otlp import OtlpEncoder
from virtstatd.formats.runs import LEARN_NS
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.sink import Rejected, TryLater
from virtstatd.sinks.otlp import Otlp
from virtstatd.testing import TAKEN_AT, hostile_batch, make_batch, make_domain, make_shapes
from virtstatd.testing.contract import opening


SECOND = 1_000_000_000
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


def messages(stub: Stub) -> list[ExportMetricsServiceRequest]:
    """Return what the stub got, and forget it."""
    found = [ExportMetricsServiceRequest.FromString(each.body) for each in stub.requests]
    stub.requests.clear()
    return found


@pytest.mark.parametrize("batch", [make_batch(20), hostile_batch()], ids=["plain", "hostile"])
async def test_every_value_arrives(batch: Batch):
    """Every series is a data point of its kind, a histogram is one, whole and native."""
    async with answering() as stub:
        sink = Otlp(url=f"{stub.url}/v1/metrics", request_samples=100, host="n1")
        async with sink.open(opening()) as send:
            await send(batch)
        assert stub.requests[0].path == "/v1/metrics"
        assert stub.requests[0].headers["Content-Type"] == "application/x-protobuf"
        assert points(messages(stub)) == wanted(batch, 0, TAKEN_AT)


async def test_the_resource_and_the_metrics_are_described():
    """The host is the resource; metrics have units as UCUM writes them, and their help."""
    batch = make_batch(2)
    async with answering() as stub:
        sink = Otlp(url=stub.url, host="n1", resource_attributes={"zone": "z"}, compress=False)
        async with sink.open(opening()) as send:
            await send(batch)
        (request,) = messages(stub)
    (of_resource,) = request.resource_metrics
    attributes = {each.key: each.value.string_value for each in of_resource.resource.attributes}
    assert attributes == {
        "service.name": "virtstatd",
        "service.instance.id": "n1",
        "host.name": "n1",
        "zone": "z",
    }
    units = {metric.name: metric.unit for metric in of_resource.scope_metrics[0].metrics}
    assert units["libvirt_domain_block_stats_read_bytes"] == "By"
    assert units["libvirt_domain_info_cpu_time_seconds"] == "s"
    assert units["libvirt_domain_info_vstate"] == ""
    help_texts = {metric.description for metric in of_resource.scope_metrics[0].metrics}
    assert {series.field.help for r in batch.readings for series in r.shape.series} == help_texts


async def test_counters_begin_with_their_run():
    """The start time is when the process started, else when a run was first seen, once that is."""
    guest = make_domain()
    again = Domain(guest.uuid, guest.name, guest.id + 1, guest.labels)
    shapes = make_shapes()
    started = Field("libvirt_domain", "start_time", Kind.GAUGE, "seconds", "")
    process = Shape("local", (Series(started),))
    first = make_batch([guest], shapes=shapes)
    second = replace(first, taken_at=TAKEN_AT + 5 * SECOND)
    late = replace(first, taken_at=TAKEN_AT + LEARN_NS)
    third = make_batch([again], shapes=shapes, taken_at=late.taken_at + 10 * SECOND)
    began = third.taken_at // SECOND - 3
    told = Batch("local", third.taken_at, (Reading(again, process, (began,)),))
    async with answering() as stub, Otlp(url=stub.url).open(opening()) as send:
        stub.status = 503
        with pytest.raises(TryLater):
            await send(first)
        stub.status = 200
        for batch, start in ((first, 0), (second, 0), (late, TAKEN_AT), (late, TAKEN_AT)):
            stub.requests.clear()
            await send(batch)
            assert points(messages(stub)) == wanted(batch, start)
        await send(told)
        for batch in (third, replace(third, taken_at=third.taken_at + SECOND)):
            stub.requests.clear()
            await send(batch)
            assert points(messages(stub)) == wanted(batch, began * SECOND)
        await send(Batch("inventory", batch.taken_at, (), gone=(again,)))
        stub.requests.clear()
        await send(batch)
        assert points(messages(stub)) == wanted(batch, 0)


async def test_growth_instead_of_counters():
    """As deltas counters are what they grew by since the receiver had them, gauges as they are."""
    field = partial(Field, "a", unit="", help="")
    kinds = (("n", Kind.COUNTER), ("g", Kind.GAUGE))
    shape = Shape("g", tuple(Series(field(name=name, kind=kind)) for name, kind in kinds))
    guest = make_domain()
    answers: dict[int, type[Exception]] = {503: TryLater, 400: Rejected}
    async with (
        answering() as stub,
        Otlp(url=stub.url, temporality="delta").open(opening()) as send,
    ):
        for second, status, count, gauge, wanted_count in (
            (0, 200, 1000, 5, 0),
            (5, 200, 1010, 6, 10),
            (10, 503, 1030, 7, None),
            (10, 200, 1030, 7, 20),
            (15, 400, 1100, 8, None),
            (20, 200, 1200, 9, 170),
            (25, 200, 30, 9, 30),  # it began anew
        ):
            stub.status = status
            at = TAKEN_AT + second * SECOND
            batch = Batch("bulk", at, (Reading(guest, shape, (count, gauge)),))
            if error := answers.get(status):
                with pytest.raises(error):
                    await send(batch)
                continue
            await send(batch)
            metrics = messages(stub)[-1].resource_metrics[0].scope_metrics[0].metrics
            growth = next(each.sum for each in metrics if each.name == "a_n")
            assert growth.aggregation_temporality == DELTA
            (point,) = growth.data_points
            assert point.as_double == wanted_count
            assert point.time_unix_nano == at
            assert point.start_time_unix_nano <= at
            (point,) = next(each.gauge for each in metrics if each.name == "a_g").data_points
            assert point.as_double == gauge


def test_growth_of_a_device_that_is_new_and_of_pieces():
    """A new device has grown by nothing, the others go on; so do series that came in pieces."""
    many = [Series(Field("a", "n", Kind.COUNTER, "", ""), (("vcpu", str(n)),)) for n in range(3)]
    deltas, guest = Deltas(), make_domain()

    def grown(places: Sequence[int], values: tuple[int, ...], piece: str = "") -> list[float]:
        shape = Shape("g", tuple(many[place] for place in places))
        batch = Batch("b", TAKEN_AT, (Reading(guest, shape, values),), piece=piece)
        (found,) = deltas.of(batch)
        deltas.settle(batch)
        return [*found.reading.values]

    assert grown([0, 1], (100, 200)) == [0, 0]
    assert grown([0, 1, 2], (101, 202, 300)) == [1, 2, 0]
    assert grown([0], (111,), "1/1") == [10]
    assert grown([1, 2], (222, 333), "1/2") == [20, 33]
    assert grown([0, 1, 2], (112, 224, 336)) == [1, 2, 3]
    deltas.settle(Batch("b", TAKEN_AT, (), gone=(guest,)))
    assert grown([0], (500,)) == [0]


async def test_series_that_ended_have_a_point_without_a_value():
    """With `mark_ended` each series of a guest that is gone gets one point without a value."""
    batch = make_batch(2)
    guest = batch.readings[0].domain
    assert guest
    async with answering() as stub, Otlp(url=stub.url, mark_ended=True).open(opening()) as send:
        await send(batch)
        before = points(messages(stub))
        stub.requests.clear()
        await send(Batch("inventory", TAKEN_AT + SECOND, (), gone=(guest,)))
    marks = set()
    for metric in messages(stub)[0].resource_metrics[0].scope_metrics[0].metrics:
        data = getattr(metric, metric.WhichOneof("data") or "")
        for point in data.data_points:
            assert point.flags == 1
            assert point.time_unix_nano >= TAKEN_AT
            labels = frozenset((each.key, each.value.string_value) for each in point.attributes)
            assert (metric.name, labels) not in marks
            marks.add((metric.name, labels))
    assert marks == {key for key in before if ("domain", guest.name) in key[1]}


async def test_partial_success_is_told():
    """Points that a receiver refused in a successful answer are lost, with its reason."""
    response = ExportMetricsServiceResponse()
    async with answering() as stub, Otlp(url=stub.url).open(opening()) as send:
        stub.status = 200
        for text in (b"", b"OK", b"\xff" * 100):
            stub.text = text
            await send(make_batch(1))
        response.partial_success.error_message = "only a warning"
        stub.text = response.SerializeToString()
        await send(make_batch(1))
        response.partial_success.rejected_data_points = 7
        response.partial_success.error_message = "too\nold"
        stub.text = response.SerializeToString()
        with pytest.raises(Rejected, match="7 data points were refused: too old") as caught:
            await send(make_batch(1))
        assert caught.value.samples == 7


@given(
    name=st.text(st.characters(codec=None)),
    device=st.text(st.characters(codec=None), max_size=300),
    values=st.lists(
        st.one_of(st.integers(-(2**63), 2**64), st.floats(), st.booleans()), min_size=3, max_size=3
    ),
    exponent=st.sampled_from([0, -9, 3]),
)
def test_whatever_names_and_numbers_are(name: str, device: str, values: list[float], exponent: int):
    """Any text and any number is a message that can be read, and the same again."""
    kinds = (Kind.GAUGE, Kind.COUNTER, Kind.UNKNOWN)
    fields = [Field("a", kind.value, kind, "", name, exponent) for kind in kinds]
    shape = Shape("g", tuple(Series(each, (("device", device),)) for each in fields))
    guest = Domain("u", name, 1, (("domain", name),))
    encoder = OtlpEncoder((("host.name", name),), "1.2.3")
    body = encoder.request([encoder.encode(shape, guest.labels, values, 5, 7)])
    batch = Batch("b", 7, (Reading(guest, shape, tuple(values)),))
    found = points([ExportMetricsServiceRequest.FromString(body)])
    must = wanted(batch, 5)
    assert found.keys() == must.keys()
    for key, point in found.items():
        assert point[:3] == must[key][:3]
        got, number = float(point[3]), float(must[key][3])
        assert got == number or math.isclose(got, number, rel_tol=1e-15) or math.isnan(number)


def test_histograms_that_are_odd():
    """Torn counts never make a negative bucket; a missing `+Inf` is made from the count."""
    field = Field("a", "h", Kind.HISTOGRAM, "seconds", "", -9)
    torn = Shape(
        "g",
        (
            Series(field, (("le", "1"),), "bucket"),
            Series(field, (("le", "2"),), "bucket"),
            Series(field, (("le", "+Inf"),), "bucket"),
        ),
    )
    open_ended = Shape(
        "g",
        (
            Series(field, (("le", "1"),), "bucket"),
            Series(field, (("le", "2"),), "bucket"),
            Series(field, (), "sum"),
            Series(field, (), "count"),
        ),
    )
    encoder = OtlpEncoder((), "1.2.3")
    for shape, values, counts, total in (
        (torn, (5, 3, 9), (5, 0, 4), 0.0),
        (torn, (math.nan, 3, 9), (0, 3, 6), 0.0),
        (open_ended, (1, 4, 10**9, 6), (1, 3, 2), 1.0),
    ):
        body = encoder.request([encoder.encode(shape, (), values, 5, 7)])
        (point,) = points([ExportMetricsServiceRequest.FromString(body)]).values()
        assert point == ("histogram", 5, 7, counts, (1.0, 2.0), total)

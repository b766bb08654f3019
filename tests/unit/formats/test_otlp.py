"""OTLP, read by OpenTelemetry's own messages: every point, its kind, its times, its attributes."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from support.http_stub import Stub, answering
from support.wire.otlp import points, wanted
from virtstatd.formats.otlp import OtlpEncoder
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.sink import Rejected, TryLater
from virtstatd.sinks.otlp import Otlp
from virtstatd.testing import TAKEN_AT, hostile_batch, make_batch, make_domain, make_shapes
from virtstatd.testing.contract import opening


SECOND = 1_000_000_000


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
        assert points(messages(stub)) == wanted(batch, TAKEN_AT)


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
    """The start time is when a run was first seen, for each run its own, and stays when resent."""
    guest = make_domain()
    again = Domain(guest.uuid, guest.name, guest.id + 1, guest.labels)
    shapes = make_shapes()
    first = make_batch([guest], shapes=shapes)
    async with answering() as stub, Otlp(url=stub.url).open(opening()) as send:
        stub.status = 503
        with pytest.raises(TryLater):
            await send(first)
        stub.status = 200
        await send(first)
        second = replace(first, taken_at=TAKEN_AT + 5 * SECOND)
        await send(second)
        assert len(stub.requests) == 2
        stub.requests.pop(0)
        assert points(messages(stub)) == wanted(second, TAKEN_AT)
        third = make_batch([again], shapes=shapes, taken_at=TAKEN_AT + 10 * SECOND)
        await send(third)
        assert points(messages(stub)) == wanted(third, TAKEN_AT + 10 * SECOND)
        await send(Batch("inventory", TAKEN_AT + 11 * SECOND, (), gone=(again,)))
        fourth = replace(third, taken_at=TAKEN_AT + 12 * SECOND)
        await send(fourth)
        assert points(messages(stub)) == wanted(fourth, TAKEN_AT + 12 * SECOND)


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

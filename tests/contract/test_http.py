"""The generic HTTP sink: real ClickHouse and VictoriaMetrics, and stubs of what others take."""

import asyncio
import json
import math
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cramjam
import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from support.clickhouse import ask, clickhouse, inserting
from support.expectations import finite, numbers
from support.http_stub import Received, Stub, answering
from support.prometheus import victoria
from support.servers import fetched, needs
from support.wire.influx import of_guests, parsed, wanted
from support.wire.otlp import points
from support.wire.otlp import wanted as wanted_points
from virtstatd.errors import Rejected, TryLater
from virtstatd.formats.json_lines import Lines
from virtstatd.model import Batch
from virtstatd.sinks.http import Http
from virtstatd.testing import TAKEN_AT, check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


TABLE = (
    "CREATE TABLE samples (time DateTime, host String, domain Nullable(String),"
    " uuid Nullable(String), run Nullable(Int64), metric String, labels String,"
    " value Nullable(Float64)) ENGINE = MergeTree() PARTITION BY toYYYYMM(time)"
    " ORDER BY (metric, time)"
)


def visible(text: str) -> str:
    """Return a text as UTF-8 has it."""
    return text.encode("utf-8", "backslashreplace").decode()


def body(request: Received) -> bytes:
    """Return a body as it was before it was compressed."""
    if request.body[:2] == b"\x1f\x8b":
        return zlib.decompress(request.body, 31)
    if request.body[:4] == b"\x28\xb5\x2f\xfd":
        return bytes(cramjam.zstd.decompress(request.body))
    return request.body


@needs("clickhouse-server")
async def test_clickhouse_has_every_value(tmp_path: Path):
    """ClickHouse has a row per number with its guest, name and labels, exact in value."""
    batch = hostile_batch()
    async with clickhouse(tmp_path) as url:
        await ask(url, TABLE)
        sink = Http(url=inserting(url, "samples"), wrapper="clickhouse", host="n1")
        async with sink.open(opening()) as send:
            await send(batch)
        answer = await ask(
            url,
            "SELECT host, toUnixTimestamp(time), domain, uuid, run, metric, labels, value"
            " FROM samples FORMAT JSONCompact",
        )
        rows = json.loads(answer)["data"]
        async with replace(sink, url=inserting(url, "nowhere")).open(opening()) as send:
            with pytest.raises((Rejected, TryLater), match="nowhere"):
                await send(batch)
    found = {(row[3], row[5], frozenset(json.loads(row[6]).items())): row for row in rows}
    assert len(rows) == len(found) == batch.samples
    for reading, name, labels, value in numbers(batch):
        domain = reading.domain
        own = labels[len(domain.labels) :] if domain else labels
        key = frozenset((visible(name), visible(text)) for name, text in own)
        row = found[domain and domain.uuid, name, key]
        assert row[:3] == ["n1", TAKEN_AT // 10**9, domain and visible(domain.name)]
        assert row[4] is None if domain is None else int(row[4]) == domain.id
        if math.isfinite(value):
            assert float(row[7]) == pytest.approx(value, rel=1e-12)
        else:
            assert row[7] is None


@needs("victoria-metrics")
async def test_victoria_metrics_imports_every_value(tmp_path: Path):
    """VictoriaMetrics has each finite number of Prometheus' text at its time, as it stores it."""
    batch = replace(make_batch(3), taken_at=time.time_ns() // 10**6 * 10**6)
    async with victoria(tmp_path) as url:
        sink = Http(
            url=f"{url}/api/v1/import/prometheus", format="prometheus", tags={"job": "v"}, host="n1"
        )
        async with sink.open(opening()) as send:
            await send(batch)
        exported = b""
        async with asyncio.timeout(100):
            while exported.count(b"\n") < len(finite(batch)):
                await fetched(f"{url}/internal/force_flush")
                exported = await fetched(f"{url}/api/v1/export?match[]=%7Bjob%3D%22v%22%7D") or b""
    found: dict[frozenset[tuple[str, str]], float] = {}
    for line in exported.splitlines():
        series = json.loads(line)
        assert series["timestamps"] == [batch.taken_at // 10**6]
        (found[frozenset(series["metric"].items())],) = series["values"]
    more = (("job", "v"), ("instance", "n1"))
    assert found == {
        frozenset({**dict(labels), **dict(more), "__name__": name}.items()): pytest.approx(value)
        for _, name, labels, value in finite(batch)
    }


async def test_contract_with_a_destination_that_comes_and_goes():
    """The sink keeps the contract in every mood of its destination."""
    async with answering() as stub:
        await check_sink(lambda: Http(url=stub.url), received=stub.count, moods=stub.moods)


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["json", "influx", "prometheus", "otlp-json"])
async def test_formats(form: str, compress: str):
    """Each format has every number, however it is compressed."""
    batch = of_guests(hostile_batch())
    async with answering(raw=True) as stub:
        options: dict[str, Any] = {"format": form, "compress": compress}
        async with Http(url=stub.url, host="n1", **options).open(opening()) as send:
            await send(batch)
    found = b"".join(map(body, stub.requests))
    if form == "json":
        assert found == b"".join(Lines("n1").pieces(batch))
    elif form == "influx":
        assert parsed(found)[0] == wanted(batch.readings, host="n1")
    elif form == "prometheus":
        assert found.count(b"\n") == len(finite(batch))
        assert found.count(b'instance="n1"') == len(finite(batch))
    else:
        messages = [Parse(body(each), ExportMetricsServiceRequest()) for each in stub.requests]
        assert points(messages) == wanted_points(batch, 0, TAKEN_AT)


def array(text: bytes) -> list[object]:
    """Read an array of documents."""
    documents: list[object] = json.loads(text)
    return documents


def bulk(text: bytes) -> list[object]:
    """Read what OpenSearch takes: an action and a document by turns."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert {action["create"]["_index"] for action in lines[::2]} == {"virt"}
    marks = [action["create"]["_id"] for action in lines[::2]]
    assert len(set(marks)) == len(marks)
    return [{"time": line.pop("@timestamp"), **line} for line in lines[1::2]]


def push(text: bytes) -> list[object]:
    """Read what Loki takes: a stream with its labels, and entries of time and text."""
    (stream,) = json.loads(text)["streams"]
    assert stream["stream"] == {"host": "n1", "job": "virt"}
    assert {moment for moment, _ in stream["values"]} == {str(TAKEN_AT)}
    return [json.loads(line) for _, line in stream["values"]]


def events(text: bytes) -> list[object]:
    """Read what Splunk's collector takes: events, one after the other."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["host"] for line in lines} == {"n1"}
    assert {line["source"] for line in lines} == {"virt"}
    assert {line["time"] for line in lines} == {TAKEN_AT / 1e9}
    return [line["event"] for line in lines]


@pytest.mark.parametrize(
    ("wrapper", "unwrapped", "kind"),
    [
        ("array", array, "application/json"),
        ("opensearch", bulk, "application/x-ndjson"),
        ("loki", push, "application/json"),
        ("splunk", events, "application/json"),
    ],
)
async def test_wrappers(wrapper: Any, unwrapped: Callable[[bytes], list[object]], kind: str):
    """Within each wrapper are the documents, all of them and in order."""
    batch = hostile_batch()
    async with answering() as stub:
        sink = Http(url=stub.url, wrapper=wrapper, host="n1", index="virt", request_samples=100)
        async with sink.open(opening()) as send:
            await send(batch)
    assert {each.headers["Content-Type"] for each in stub.requests} == {kind}
    lines = b"".join(Lines("n1").pieces(batch)).splitlines()
    found = [each for request in stub.requests for each in unwrapped(body(request))]
    assert found == [json.loads(line) for line in lines]


def items(*statuses: int) -> bytes:
    """Return the answer of OpenSearch with these statuses of its documents."""
    reasons = {400: {"reason": 'mapper "x"\x1b'}}
    entries = [{"create": {"status": n, "error": reasons.get(n, {})}} for n in statuses]
    return (
        json.dumps({"errors": any(n > 299 for n in statuses), "items": entries})
        .replace(": ", ":")
        .encode()
    )


@pytest.mark.parametrize(
    ("statuses", "raised", "samples"),
    [
        ((201, 201), None, None),
        ((201, 409), None, None),
        ((201, 400), Rejected, 0.5),
        ((400, 409, 201, 201), Rejected, 0.25),
        ((201, 429, 400), TryLater, None),
    ],
)
async def test_documents_that_are_refused(
    statuses: tuple[int, ...], raised: type[Exception] | None, samples: float | None
):
    """Of a bulk request what is refused is lost, what is there already is good, else it waits."""
    batch = make_batch(1)
    async with answering() as stub:
        stub.status, stub.text = 200, items(*statuses)
        async with Http(url=f"{stub.url}/_bulk", wrapper="opensearch").open(opening()) as send:
            if raised is None:
                await send(batch)
            else:
                with pytest.raises(raised) as caught:
                    await send(batch)
                assert type(caught.value) is raised
                assert str(caught.value).isprintable()
                if isinstance(caught.value, Rejected):
                    assert caught.value.samples == math.ceil(batch.samples * (samples or 0))
        assert stub.requests[0].query == {
            "filter_path": "errors,items.*.status,items.*.error.reason"
        }


async def test_points_that_are_refused():
    """A partial success of OTLP's JSON is counted as it is in the binary form."""
    async with answering() as stub:
        stub.status = 200
        stub.text = b'{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"no\\n"}}'
        async with Http(url=stub.url, format="otlp-json").open(opening()) as send:
            with pytest.raises(Rejected, match="3 data points were refused: no ") as caught:
                await send(make_batch(1))
        assert caught.value.samples == 3


async def test_dead_letters(tmp_path: Path):
    """What is refused is in the file with its reason, what is for later is not, in a small room."""
    path = tmp_path / "dead.jsonl"

    def refusing(stub: Stub, status: int) -> Callable[[Received], int]:
        stub.text = b"because of it"
        return lambda _: status

    async with answering() as stub:
        sink = Http(url=stub.url, dead_letter_file=str(path), dead_letter_bytes=40_000)
        async with sink.open(opening()) as send:
            stub.decide = refusing(stub, 503)
            with pytest.raises(TryLater):
                await send(make_batch(1))
            assert path.read_text() == ""
            stub.decide = refusing(stub, 400)
            for number in range(20):
                with pytest.raises(Rejected):
                    await send(replace(make_batch(1), taken_at=TAKEN_AT + number))
    (letter, *_) = [json.loads(line) for line in path.read_text().splitlines()]
    assert letter["reason"].endswith("answers 400: because of it")
    assert letter["samples"] == make_batch(1).samples
    assert json.loads(letter["body"].splitlines()[0])["domain"] == "vm-0"
    assert sorted(os.listdir(tmp_path)) == ["dead.jsonl", "dead.jsonl.1"]
    before = path.with_name("dead.jsonl.1")
    assert path.stat().st_size + before.stat().st_size <= 40_000


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"format": "influx", "wrapper": "array"}, "wrapper: needs format = json"),
        ({"tags": {"a": "b"}}, "tags: need another format than json"),
        ({"dead_letter_file": "dead"}, "dead_letter_file: must be an absolute path"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], fault: str):
    """Options that mean nothing together are refused by name."""
    with pytest.raises(ValueError, match=fault):
        Http(**options)


async def test_nothing_but_what_is_no_number():
    """A request without a number is none."""
    batch = make_batch(1)
    reading = replace(batch.readings[0], values=(math.nan,) * len(batch.readings[0].values))
    async with answering() as stub:
        async with Http(url=stub.url, format="prometheus").open(opening()) as send:
            await send(Batch("bulk", 0, (reading,)))
        assert stub.requests == []

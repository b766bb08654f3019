"""Every number of real guests in every place that a sink sends to, read back from there."""

from __future__ import annotations

import asyncio
import json
import math
import platform
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from lab.support.fixtures import HOSTILE_NAMES, opened
from lab.support.hypervisor import Lab
from lab.support.namespaces import Trace
from support.agent import Agent, running
from support.expectations import finite, numbers
from support.graphite import carbon, kept, plain
from support.http_stub import answering
from support.influxdb import influxdb
from support.kafka import cluster
from support.mosquitto import broker, client
from support.nats_server import server as nats_server
from support.nats_server import stored, stream
from support.nats_server import url as nats_url
from support.node_exporter import collected, shown
from support.node_exporter import key_of as page_key
from support.parquet import found_by_duckdb, settled, source_of
from support.ports import free_port
from support.postgres import PASSWORD, database, files, key_of, query, visible
from support.postgres import url as postgres_url
from support.prometheus import prometheus, victoria
from support.recorder import recording
from support.servers import asked, fetched, serving
from support.statsd import GAUGE
from support.wire import influx as influx_rows
from support.wire import remote_write as write_request
from support.wire.otlp import every_point
from support.wire.otlp import wanted as wanted_points
from virtstatd.formats.json_lines import Lines
from virtstatd.model import Batch


PROMETHEUS_QUERY = '{domain!=""}[1h]'

DB = ("db", "virtstatd")
PATIENCE_SECONDS = 100.0

Rows = dict[tuple[str, frozenset[tuple[str, str]], int], dict[str, float | str]]

Check = Callable[[Sequence[Batch]], Awaitable[None]]
"""Read a place and compare it with the guests' batches."""

Place = AsyncIterator[tuple[str, Check]]
"""The `[[sink]]` tables that lead to a place, and its check."""


async def same(read: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Read until it is as wanted: some places need a moment; say what is not."""
    begun = time.monotonic()
    while (found := await read()) != wanted and time.monotonic() - begun < PATIENCE_SECONDS:
        await asyncio.sleep(0.1)
    if isinstance(found, dict) and isinstance(wanted, dict):
        differing = [key for key in wanted if key in found and found[key] != wanted[key]]
        print("missing", list(wanted.keys() - found.keys())[:5])
        print("more", list(found.keys() - wanted.keys())[:5])
        print("different", [(key, wanted[key], found[key]) for key in differing[:5]])
        assert (len(found), len(differing)) == (len(wanted), 0), "see what was printed"
    assert found == wanted


def lines_of(batches: Sequence[Batch]) -> Counter[bytes]:
    """Return the JSON lines of batches."""
    text = b"".join(piece for batch in batches for piece in Lines(platform.node()).pieces(batch))
    return Counter(text.splitlines())


def of_guests(text: bytes) -> Counter[bytes]:
    """Return the JSON lines that are of guests."""
    return Counter(line for line in text.splitlines() if b'"uuid"' in line)


def pairs(labels: dict[str, str]) -> frozenset[tuple[str, str]]:
    """Return labels for comparing; an empty one is none."""
    return frozenset(pair for pair in labels.items() if pair[1])


@asynccontextmanager
async def jsonl(folder: Path) -> Place:
    """Write into a file of JSON lines."""
    path = folder / "readings.jsonl"

    async def check(batches: Sequence[Batch]) -> None:
        assert of_guests(path.read_bytes()) == lines_of(batches)

    yield f"type = 'jsonl'\ntarget = '{path}'", check


@asynccontextmanager
async def jetstream(_: Path) -> Place:
    """Publish into a stream of a NATS server."""
    async with nats_server() as (server, _), stream(server) as js:

        async def check(batches: Sequence[Batch]) -> None:
            text = b"".join(line for _, line in await stored(js))
            assert of_guests(text) == lines_of(batches)

        yield f"type = 'nats'\nservers = ['{nats_url(server)}']\nstream = 'VIRT'", check


@asynccontextmanager
async def kafka(_: Path) -> Place:
    """Produce to a topic of a Kafka cluster."""
    async with cluster() as brokers:

        async def check(batches: Sequence[Batch]) -> None:
            text = b"".join(message.value for message in await brokers.messages())
            assert of_guests(text) == lines_of(batches)

        yield f"type = 'kafka'\nbrokers = {list(brokers.brokers)}", check


@asynccontextmanager
async def mqtt(_: Path) -> Place:
    """Publish to a subscriber of an MQTT broker."""
    async with broker() as (server, _), client(server) as reader:
        arrived: list[bytes] = []

        async def listen() -> None:
            async for message in reader.messages:
                arrived.append(message.payload)  # noqa: PERF401 - it is read meanwhile

        await reader.subscribe("virtstatd/#", qos=1)
        listening = asyncio.create_task(listen())

        async def check(batches: Sequence[Batch]) -> None:
            async def read() -> Counter[bytes]:
                return of_guests(b"".join(arrived))

            await same(read, lines_of(batches))

        try:
            yield f"type = 'mqtt'\naddress = '127.0.0.1:{server.port}'", check
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@asynccontextmanager
async def postgres(folder: Path) -> Place:
    """Copy into a table of a PostgreSQL database."""
    password = folder / "password"
    password.write_text(PASSWORD)
    with files() as cluster_files:
        async with database(cluster_files) as server:

            async def check(batches: Sequence[Batch]) -> None:
                text = "SELECT * FROM virtstatd_samples WHERE uuid IS NOT NULL"
                found = Counter(
                    (
                        *(row["time"], row["domain"], str(row["uuid"]), row["run"]),
                        *(row["metric"], key_of(row["labels"]), row["value"]),
                    )
                    for row in await query(server, text)
                )
                begin = datetime(1970, 1, 1, tzinfo=UTC)
                assert found == Counter(
                    (
                        begin + timedelta(microseconds=batch.taken_at // 1000),
                        *(visible(guest.name), guest.uuid, guest.id, name),
                        frozenset(labels[len(guest.labels) :]),
                        value,
                    )
                    for batch in batches
                    for reading, name, labels, value in numbers(batch)
                    if (guest := reading.domain)
                )

            yield (
                (
                    f"type = 'postgres'\nurl = '{postgres_url(server)}'\ncreate_table = true\n"
                    f"password_file = '{password}'"
                ),
                check,
            )


@asynccontextmanager
async def parquet(folder: Path) -> Place:
    """Keep an archive of Parquet files, which DuckDB reads."""
    directory = folder / "archive"

    async def check(batches: Sequence[Batch]) -> None:
        settled(directory)
        found = [row for row in found_by_duckdb(directory) if row[3] is not None]
        assert found == source_of(*batches)

    yield f"type = 'parquet'\ndirectory = '{directory}'\nhost = 'h'\nfree_bytes = 0", check


@asynccontextmanager
async def remote_write(folder: Path) -> Place:
    """Write to Prometheus and VictoriaMetrics, both by remote write."""
    here, there = folder / "prometheus", folder / "victoria"
    here.mkdir()
    there.mkdir()
    async with prometheus(here) as url, victoria(there) as other:

        async def read() -> dict[object, object]:
            answer = await asked(f"{url}/api/v1/query", query=PROMETHEUS_QUERY)
            return {
                (pairs(each["metric"]), round(seconds * 1000)): write_request.bits(float(number))
                for each in answer["data"]["result"]
                for seconds, number in each["values"]
            }

        async def read_other() -> dict[object, object]:
            return {
                (pairs(metric), time): write_request.bits(number)
                for metric, time, number in await exported(other, 'zone="z"')
            }

        async def check(batches: Sequence[Batch]) -> None:
            wanted = {
                (frozenset(labels), batch.taken_at // 10**6): number
                for batch in batches
                for labels, number in write_request.wanted(batch.readings).items()
            }
            await same(read, wanted)
            await same(read_other, wanted)

        tables = [
            f"type = 'remote_write'\nname = 'w{number}'\nurl = '{each}/api/v1/write'\n"
            "job = 'j'\nhost = 'i'\nexternal_labels = { zone = 'z' }"
            for number, each in enumerate((url, other))
        ]
        yield "\n[[sink]]\n".join(tables), check


async def exported(url: str, selector: str) -> list[tuple[dict[str, str], int, float]]:
    """Return all samples of guests that a VictoriaMetrics has."""
    await fetched(f"{url}/internal/force_flush")
    match = f'{{domain!="",{selector}}}'
    answer = await fetched(f"{url}/api/v1/export", f"match[]={quoted(match)}".encode())
    assert answer is not None
    return [
        (series["metric"], time, float(number))
        for series in map(json.loads, answer.splitlines())
        for time, number in zip(series["timestamps"], series["values"], strict=True)
    ]


def quoted(text: str) -> str:
    """Escape a form's value."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


def rows_of(
    batches: Sequence[Batch],
) -> dict[tuple[str, frozenset[tuple[str, str]], int], dict[str, float | str]]:
    """Return the rows that line protocol must make of batches."""
    return {
        (measurement, tags, batch.taken_at): fields
        for batch in batches
        for (measurement, tags), fields in influx_rows.wanted(batch.readings, host="n1").items()
    }


@asynccontextmanager
async def influx(folder: Path) -> Place:
    """Push line protocol to InfluxDB 1 and VictoriaMetrics."""
    here, there = folder / "influx", folder / "victoria-influx"
    here.mkdir()
    there.mkdir()
    async with influxdb(here) as (url, _), victoria(there) as other:

        async def read() -> dict[object, object]:
            answer = await asked(
                f"{url}/query", db="virtstatd", q="SELECT * FROM /.*/ GROUP BY *", epoch="ns"
            )
            return {
                (series["name"], tags, row[0]): {
                    key: float(value) if isinstance(value, int) else value
                    for key, value in zip(series["columns"], row, strict=True)
                    if value is not None and key != "time"
                }
                for series in answer["results"][0].get("series", [])
                if "domain" in dict(tags := pairs(series["tags"]))
                for row in series["values"]
            }

        async def read_other() -> dict[object, object]:
            samples = await exported(other, 'db="virtstatd"')
            return {(pairs(metric), time): number for metric, time, number in samples}

        async def check(batches: Sequence[Batch]) -> None:
            rows = rows_of(batches)
            await same(read, rows)
            # VictoriaMetrics takes a text for 0, and two backslashes for one
            wanted = {
                (
                    frozenset(
                        (key, text.replace("\\\\", "\\"))
                        for key, text in (*tags, ("__name__", f"{measurement}_{field}"), DB)
                    ),
                    time // 10**6,
                ): value if isinstance(value, float) else 0.0
                for (measurement, tags, time), fields in rows.items()
                for field, value in fields.items()
            }
            await same(read_other, wanted)

        tables = [
            f"type = 'influx'\nname = 'i{number}'\nurl = '{each}'\nhost = 'n1'"
            for number, each in enumerate((url, other))
        ]
        yield "\n[[sink]]\n".join(tables), check


@contextmanager
def receiver() -> Iterator[tuple[list[bytes], str]]:
    """Yield what arrives at a UDP socket that loses nothing, and its address."""
    arrived: list[bytes] = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        loop.add_reader(sock, lambda: arrived.append(sock.recv(65536)))
        try:
            yield arrived, f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            loop.remove_reader(sock)


@asynccontextmanager
async def influx_udp(_: Path) -> Place:
    """Send line protocol in datagrams."""
    with receiver() as (arrived, address):

        async def read() -> dict[object, object]:
            found: dict[object, object] = {}
            for line in b"".join(arrived).splitlines(keepends=True):
                rows, times = influx_rows.parsed(line)
                for (measurement, tags), fields in rows.items():
                    if "domain" in dict(tags):
                        found.setdefault((measurement, tags, *times), {}).update(fields)  # type: ignore[attr-defined]
            return found

        async def check(batches: Sequence[Batch]) -> None:
            await same(read, rows_of(batches))

        yield f"type = 'influx_udp'\naddress = '{address}'\nhost = 'n1'", check


@asynccontextmanager
async def statsd(_: Path) -> Place:
    """Send gauges to a receiver that reads DogStatsD's grammar."""
    with receiver() as (arrived, address):

        async def read() -> Counter[object]:
            found: Counter[object] = Counter()
            for line in b"".join(arrived).decode("ascii").splitlines():
                match = GAUGE.fullmatch(line)
                assert match, line
                name, value, tags = match.groups()
                split = [tag.split(":", 1) for tag in tags.split(",")] if tags else []
                labels = {
                    key: b"" if text == "%" else unquote_to_bytes(text) for key, text in split
                }
                if "domain" in labels:
                    assert labels.pop("host").decode() == platform.node()
                    found[name, float(value), frozenset(labels.items())] += 1
            return found

        async def check(batches: Sequence[Batch]) -> None:
            wanted = Counter(
                (name, value, frozenset((key, visible(text).encode()) for key, text in labels))
                for batch in batches
                for _, name, labels, value in finite(batch)
            )
            await same(read, wanted)

        yield f"type = 'statsd'\naddress = '{address}'", check


@asynccontextmanager
async def graphite(_: Path) -> Place:
    """Send to carbon, and read its files."""
    async with carbon() as (server, directory):

        async def check(batches: Sequence[Batch]) -> None:
            wanted = {
                plain(reading, name, labels): (batch.taken_at // 10**9, value)
                for batch in batches
                for reading, name, labels, value in finite(batch)
            }

            async def read() -> dict[str, tuple[int, float]]:
                found = kept(directory)
                return {name: found[name] for name in found if "/domain/" in name}

            await same(read, wanted)

        yield f"type = 'graphite'\naddress = '127.0.0.1:{server.port}'", check


@asynccontextmanager
async def otlp(_: Path) -> Place:
    """Push to a receiver made of OpenTelemetry's own messages."""
    async with answering() as stub:

        async def check(batches: Sequence[Batch]) -> None:
            # the start of a counter is the sink's to say; times and values are the guests'
            def told(point: tuple[object, ...]) -> tuple[object, ...]:
                return point[0], *point[2:]

            found = Counter(
                (key, told(point))
                for request in stub.requests
                for key, point in every_point(
                    [ExportMetricsServiceRequest.FromString(request.body)]
                )
                if "domain" in dict(key[1])
            )
            assert found == Counter(
                (key, told(point))
                for batch in batches
                for key, point in wanted_points(batch, 0).items()
            )

        yield f"type = 'otlp'\nurl = '{stub.url}/v1/metrics'\ncompress = false", check


PLACES = (
    jsonl,
    jetstream,
    kafka,
    mqtt,
    postgres,
    parquet,
    remote_write,
    influx,
    influx_udp,
    statsd,
    graphite,
    otlp,
)


def newest(batches: Sequence[Batch]) -> dict[tuple[Any, ...], float]:
    """Return the last number of each series, as a page has it."""
    return {
        page_key(name, labels): value
        for batch in batches
        for _, name, labels, value in numbers(batch)
    }


def on_the_page(agent: Agent) -> dict[object, float]:
    """Return the guests' numbers that the page shows."""
    return {
        (name, frozenset((key, shown(key, text)) for key, text in labels if text)): value
        for (name, labels), value in agent.samples().items()
        if "domain" in dict(labels)
    }


@pytest.mark.parametrize("guests", [20, pytest.param(60, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
async def test_every_sink_at_once(
    traces: list[Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guests: int
):
    """Real guests' series, hostile names included, arrive everywhere as they were polled."""
    page_folder = tmp_path / "textfile"
    page_folder.mkdir()
    exporter = free_port()
    node_exporter = [
        *("prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile"),
        f"--collector.textfile.directory={page_folder}",
        f"--web.listen-address=127.0.0.1:{exporter}",
    ]
    with opened(traces) as lab, recording(tmp_path) as recorded:
        await asyncio.to_thread(started, lab, guests)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(serving(node_exporter, exporter))
            places = {
                place.__name__: await stack.enter_async_context(place(tmp_path)) for place in PLACES
            }
            more = "".join(
                f"[[sink]]\n{table}\n"
                for table in (
                    f"type = 'recorder'\npath = '{tmp_path / 'batches'}'",
                    f"type = 'textfile'\npath = '{page_folder / 'v.prom'}'\ninterval_seconds = 1",
                    "type = 'null'",
                    *(table for table, _ in places.values()),
                )
            )
            rarely: dict[str, Any] = {"pulse": 3600, "monitor": 3600, "extra": 3600}
            with running(tmp_path, lab.uri_readonly, more=more, **rarely) as agent:
                await asyncio.to_thread(agent.wait_for, lambda: all_sent(agent, guests), 120)

                def beside_the_page() -> set[object]:
                    wanted = newest(recorded())
                    return on_the_page(agent).items() ^ wanted.items()

                async def beside_the_exporter() -> set[object]:
                    wanted = newest(recorded()).items()
                    found = await collected(exporter)
                    return {each for each in found.items() if "domain" in dict(each[0][1])} ^ {
                        each for each in wanted if each[0][0].startswith("libvirt")
                    }

                # more may come while one of both is read
                await same(lambda: asyncio.to_thread(beside_the_page), set())
                await same(beside_the_exporter, set())
                assert await asyncio.to_thread(agent.stop) == 0
            batches = await asyncio.to_thread(recorded)
            assert not [line for line in agent.log if line.get("level") in ("warning", "error")]
            names = {
                each.domain.name for batch in batches for each in batch.readings if each.domain
            }
            assert names == {*lab.names()}
            assert len(names) == guests
            assert set(HOSTILE_NAMES) < names
            wanted = newest(batches)
            assert all(math.isfinite(value) for value in wanted.values())
            for name, (_, check) in places.items():
                print(f"reading {name} back")
                await check(batches)
            print(
                f"{guests} guests, {len(wanted)} series, {sum(b.samples for b in batches)} numbers"
            )


def started(lab: Lab, guests: int) -> None:
    """Start guests, three of them with hostile names."""
    lab.create(*map(lab.definition, HOSTILE_NAMES))
    lab.paused_guests(guests - len(HOSTILE_NAMES))


def all_sent(agent: Agent, guests: int) -> bool:
    """Whether every tier was polled, every guest described, and nothing waits but the newest."""
    page = agent.page()
    waiting = re.findall(r"(?m)^virtstatd_sink_waiting_batches{.*} (\d+)$", page)
    return (
        'virtstatd_age_seconds{tier="extra"}' in page
        and f"virtstatd_xml_reads_total {guests}\n" in page
        and len(waiting) > len(PLACES)
        and all(int(count) <= 1 for count in waiting)
    )

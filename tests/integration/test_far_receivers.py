"""2,000 guests at default intervals, and receivers whose answers take their time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from support.agent import Agent, running
from support.far import far
from support.http_stub import answering
from support.influxdb import influxdb
from support.kafka import cluster
from support.mosquitto import broker
from support.nats_server import server as nats_server
from support.nats_server import stream
from support.postgres import PASSWORD, database, files, url
from support.prometheus import prometheus
from support.servers import needs
from support.simulator import simulated


GUESTS = 2000
POLLS = 4
"""Polls of the monitor tier over which nothing may wait too long."""


@asynccontextmanager
async def remote_write(folder: Path, delay: float) -> AsyncIterator[str]:
    """Write to Prometheus, which refuses what is older than what it has."""
    async with prometheus(folder) as place:
        with far(int(place.rpartition(":")[2]), delay) as port:
            yield f"type = 'remote_write'\nurl = 'http://127.0.0.1:{port}/api/v1/write'"


@asynccontextmanager
async def otlp(_: Path, delay: float) -> AsyncIterator[str]:
    """Export to a collector."""
    async with answering(raw=True) as stub:
        stub.status = 200
        with far(stub.port, delay) as port:
            yield f"type = 'otlp'\nurl = 'http://127.0.0.1:{port}/v1/metrics'"


@asynccontextmanager
async def influx(folder: Path, delay: float) -> AsyncIterator[str]:
    """Write lines to InfluxDB."""
    async with influxdb(folder) as (place, _):
        with far(int(place.rpartition(":")[2]), delay) as port:
            yield f"type = 'influx'\nurl = 'http://127.0.0.1:{port}'"


@asynccontextmanager
async def kafka(_: Path, delay: float) -> AsyncIterator[str]:
    """Produce to brokers, which name their own addresses."""
    async with cluster() as brokers:
        await brokers.tell(f"rtt {round(1000 * delay)}")
        yield f"type = 'kafka'\nbrokers = {list(brokers.brokers)}"


@asynccontextmanager
async def nats(_: Path, delay: float) -> AsyncIterator[str]:
    """Publish into a stream."""
    async with nats_server() as (server, _directory), stream(server):
        with far(server.port, delay) as port:
            yield f"type = 'nats'\nservers = ['nats://127.0.0.1:{port}']\nstream = 'VIRT'"


@asynccontextmanager
async def postgres(folder: Path, delay: float) -> AsyncIterator[str]:
    """Copy into a table."""
    password = folder / "password"
    password.write_text(PASSWORD)
    with files() as cluster_files:
        async with database(cluster_files) as server:
            with far(server.port, delay) as port:
                place = url(server).replace(f":{server.port}/", f":{port}/")
                yield (
                    f"type = 'postgres'\nurl = '{place}'\ncreate_table = true\n"
                    f"password_file = '{password}'"
                )


@asynccontextmanager
async def mqtt(_: Path, delay: float) -> AsyncIterator[str]:
    """Publish to a broker that allows twenty unconfirmed messages."""
    async with broker("max_inflight_messages 20\n") as (server, _directory):
        with far(server.port, delay) as port:
            yield f"type = 'mqtt'\naddress = '127.0.0.1:{port}'"


PLACES = {each.__name__: each for each in (remote_write, otlp, influx, kafka, nats, postgres, mqtt)}
DELAYS = (0.005, 0.05, 0.25, 1.0)
CASES = [(name, delay) for name in PLACES for delay in DELAYS if name != "mqtt" or delay <= 0.05]


def number(agent: Agent, family: str, **labels: str) -> float:
    """Return one of the agent's numbers of the sink, over all reasons."""
    wanted = {"sink": "far", **labels}.items()
    return sum(
        value
        for (name, found), value in agent.samples().items()
        if name == f"virtstatd_sink_{family}" and wanted <= dict(found).items()
    )


async def carried(tmp_path: Path, name: str, delay: float, guests: int, monitor: float) -> None:
    """Send to one receiver for some polls: nothing is dropped, lost, or two intervals late."""
    async with AsyncExitStack() as stack:
        table = await stack.enter_async_context(PLACES[name](tmp_path, delay))
        sim = stack.enter_context(simulated(tmp_path, f"--domains={guests}"))
        agent = stack.enter_context(
            running(
                tmp_path,
                sim.uri,
                pulse=monitor / 3,
                monitor=monitor,
                extra=4 * monitor,
                more=f"[[sink]]\nname = 'far'\n{table}\n",
            )
        )
        waiting = asyncio.to_thread
        await waiting(
            agent.wait_for, lambda: number(agent, "delivered_samples_total") >= guests, 300
        )
        begun = await waiting(number, agent, "attempts_total")
        sent = await waiting(number, agent, "delivered_samples_total")

        def polls() -> float:
            return agent.value("virtstatd_ticks_total", tier="monitor") or 0.0

        first = await waiting(polls)
        await waiting(agent.wait_for, lambda: polls() - first >= POLLS, 600)
        seconds = POLLS * monitor
        requests = await waiting(number, agent, "attempts_total") - begun
        sent = await waiting(number, agent, "delivered_samples_total") - sent
        print(
            f"{name} at {1000 * delay:.0f} ms: {requests / seconds:.1f} requests/s,"
            f" {sent / seconds:.0f} samples/s"
        )
        for family in ("dropped_samples_total", "lost_samples_total"):
            assert await waiting(number, agent, family) == 0, family
        assert not agent.events("sink.lagging")
        accepted = await waiting(number, agent, "accepted_samples_total")
        await waiting(
            agent.wait_for, lambda: number(agent, "delivered_samples_total") >= accepted, 300
        )
        assert await waiting(agent.stop) == 0


@needs("prometheus", "mosquitto")
@pytest.mark.parametrize("name", ["remote_write", "mqtt"])
async def test_a_receiver_far_away_gets_everything_in_time(tmp_path: Path, name: str):
    """200 guests ten times as often, to a receiver that answers after 50 ms."""
    await carried(tmp_path, name, 0.05, GUESTS // 10, 1.5)


@needs("prometheus", "mosquitto", "nats-server", "influxd")
@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "delay"), CASES)
async def test_all_receivers_get_2000_guests_in_time(tmp_path: Path, name: str, delay: float):
    """Default intervals, each receiver at each delay."""
    await carried(tmp_path, name, delay, GUESTS, 15.0)

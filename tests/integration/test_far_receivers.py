"""2,000 guests at default intervals, and receivers whose answers take their time."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

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


def asked(agent: Agent) -> dict[str, Any]:
    """Return what the agent says of itself; its page of all guests would take seconds to read."""
    with urllib.request.urlopen(f"{agent.address}/api/v1/agent", timeout=60) as answer:
        return dict(json.load(answer))


def sink(agent: Agent) -> dict[str, float]:
    """Return the numbers of the sink."""
    (found,) = (each for each in asked(agent)["sinks"] if each["name"] == "far")
    return dict(found)


def polls(agent: Agent) -> int:
    """Return how many polls of the monitor tier have begun."""
    (found,) = (each for each in asked(agent)["tiers"] if each["name"] == "monitor")
    return int(found["polls"])


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
        await waiting(agent.wait_for, lambda: agent.events("agent.started"))
        await waiting(agent.wait_for, lambda: sink(agent)["delivered_samples"] >= guests, 300)
        sent, first = (await waiting(sink, agent))["delivered_samples"], await waiting(polls, agent)
        await waiting(agent.wait_for, lambda: polls(agent) - first >= POLLS, 600)
        sent = (await waiting(sink, agent))["delivered_samples"] - sent
        print(f"{name} at {1000 * delay:.0f} ms: {sent / POLLS / monitor:.0f} samples/s")
        now = await waiting(sink, agent)
        assert (now["dropped_samples"], now["lost_samples"]) == (0, 0)
        assert not [str(each) for each in agent.events("sink.lagging")]
        await waiting(
            agent.wait_for,
            lambda: sink(agent)["delivered_samples"] >= now["accepted_samples"],
            300,
        )
        print(f"{await waiting(requests, agent):.0f} requests in all")
        assert await waiting(agent.stop) == 0


def requests(agent: Agent) -> float:
    """Return how often the sink was called."""
    with urllib.request.urlopen(f"{agent.address}/metrics", timeout=60) as answer:
        lines = [each.decode() for each in answer]
    start = 'virtstatd_sink_attempts_total{sink="far"'
    return sum(float(each.split()[-1]) for each in lines if each.startswith(start))


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

"""Real servers that are killed and come back, each behind a spool."""

from __future__ import annotations

import asyncio
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest

from support.agent import Agent, running
from support.expectations import numbers
from support.nats_server import server as nats_server
from support.nats_server import stored, stream
from support.nats_server import url as nats_url
from support.ports import free_port
from support.postgres import PASSWORD, database, files, key_of, query, visible
from support.postgres import url as postgres_url
from support.prometheus import prometheus_command
from support.recorder import recording
from support.servers import Server, asked, needs, serving
from support.simulator import simulated
from support.wire import remote_write
from virtstatd.formats.json_lines import Lines
from virtstatd.model import Batch


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

SINK = """
[[sink]]
name = "{name}"
buffer_bytes = 8388608
spool_bytes = 268435456
{table}
"""

Items = Counter[Hashable]


@dataclass(frozen=True)
class Place:
    """A server, the options that lead to it, what of guests it has, and what a batch must bring."""

    server: Server
    table: str
    found: Callable[[], Awaitable[Items]]
    wanted: Callable[[Batch], Items]


async def jetstream(stack: AsyncExitStack, _: Path) -> Place:
    """Publish into a stream, where the order can be seen."""
    server, _directory = await stack.enter_async_context(nats_server())
    async with stream(server):
        pass

    async def found() -> Items:
        client = await nats.connect(nats_url(server))
        try:
            messages = await stored(client.jetstream())
        finally:
            await client.close()
        times: dict[str, list[str]] = defaultdict(list)
        for subject, data in messages:
            line = json.loads(data.split(b"\n", 1)[0])
            times[f"{subject} {line['source']} {line['group']}"].append(line["time"])
        for each in times.values():  # a batch that came twice is in order where it came first
            firsts = list(dict.fromkeys(each))
            assert firsts == sorted(firsts), "out of order"
        return Counter(
            line for _, data in messages for line in data.splitlines() if b'"uuid"' in line
        )

    def wanted(batch: Batch) -> Items:
        return Counter(b"".join(Lines(platform.node()).pieces(batch)).splitlines())

    table = f"type = 'nats'\nservers = ['{nats_url(server)}']\nstream = 'VIRT'"
    return Place(server, table, found, wanted)


async def postgres(stack: AsyncExitStack, folder: Path) -> Place:
    """Copy into a table, where nothing would hide what comes twice."""
    password = folder / "password"
    password.write_text(PASSWORD)
    server = await stack.enter_async_context(database(stack.enter_context(files())))

    async def found() -> Items:
        rows = await query(server, "SELECT * FROM virtstatd_samples WHERE uuid IS NOT NULL")
        return Counter(
            (row["time"], row["domain"], row["metric"], key_of(row["labels"]), row["value"])
            for row in rows
        )

    def wanted(batch: Batch) -> Items:
        time = EPOCH + timedelta(microseconds=batch.taken_at // 1000)
        return Counter(
            (time, visible(guest.name), name, frozenset(labels[len(guest.labels) :]), value)
            for reading, name, labels, value in numbers(batch)
            if (guest := reading.domain)
        )

    table = (
        f"type = 'postgres'\nurl = '{postgres_url(server)}'\ncreate_table = true\n"
        f"password_file = '{password}'"
    )
    return Place(server, table, found, wanted)


async def write(stack: AsyncExitStack, folder: Path) -> Place:
    """Write to Prometheus, which refuses what is older than what it has."""
    url = f"http://127.0.0.1:{free_port()}"
    server = await stack.enter_async_context(
        serving(prometheus_command(folder, url), ready=f"{url}/-/ready")
    )

    async def found() -> Items:
        answer = await asked(f"{url}/api/v1/query", query='{domain!=""}[1h]')
        return Counter(
            (
                frozenset(pair for pair in each["metric"].items() if pair[1]),
                round(seconds * 1000),
                remote_write.bits(float(number)),
            )
            for each in answer["data"]["result"]
            for seconds, number in each["values"]
        )

    def wanted(batch: Batch) -> Items:
        return Counter(
            (frozenset(labels), batch.taken_at // 10**6, number)
            for labels, number in remote_write.wanted(batch.readings).items()
        )

    table = (
        f"type = 'remote_write'\nurl = '{url}/api/v1/write'\n"
        "job = 'j'\nhost = 'i'\nexternal_labels = { zone = 'z' }"
    )
    return Place(server, table, found, wanted)


PLACES = {place.__name__: place for place in (jetstream, postgres, write)}


def counted(agent: Agent, family: str) -> dict[str, float]:
    """Return one of the agent's numbers of the sinks, each over all reasons."""
    found = dict.fromkeys(PLACES, 0.0)
    for (name, labels), value in agent.samples().items():
        if name == f"virtstatd_sink_{family}" and (sink := dict(labels)["sink"]) in found:
            found[sink] += value
    return found


def reached(agent: Agent, family: str, least: dict[str, float]) -> bool:
    """Tell whether this number of every sink is as high."""
    now = counted(agent, family)
    return all(now[sink] >= least[sink] for sink in least)


@needs("nats-server", "prometheus")
@pytest.mark.parametrize(
    ("domains", "seconds"),
    [(10, 4), pytest.param(60, 120, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
async def test_servers_that_are_killed_have_everything_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domains: int, seconds: int
):
    """All servers are killed and come back: nothing lacks, order is kept, one train comes twice."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    async with AsyncExitStack() as stack:
        places = {name: await place(stack, tmp_path) for name, place in PLACES.items()}
        recorded = stack.enter_context(recording(tmp_path))
        tables = [SINK.format(name=name, table=place.table) for name, place in places.items()]
        tables.append(f"[[sink]]\ntype = 'recorder'\npath = '{tmp_path / 'batches'}'\n")
        sim = stack.enter_context(simulated(tmp_path, f"--domains={domains}"))
        agent = stack.enter_context(running(tmp_path, sim.uri, more="".join(tables)))
        waiting = asyncio.to_thread

        some = dict.fromkeys(PLACES, 5.0)
        await waiting(agent.wait_for, lambda: reached(agent, "delivered_batches_total", some))
        async with AsyncExitStack() as outage:
            for place in places.values():
                await outage.enter_async_context(place.server.away())
            await asyncio.sleep(seconds)
            many = dict.fromkeys(PLACES, 2.0 * seconds)
            await waiting(agent.wait_for, lambda: reached(agent, "waiting_batches", many))
        batches = await waiting(recorded)
        accepted = await waiting(counted, agent, "accepted_batches_total")
        await waiting(
            agent.wait_for, lambda: reached(agent, "delivered_batches_total", accepted), 300
        )
        for family in ("lost_samples_total", "dropped_samples_total"):
            assert not any((await waiting(counted, agent, family)).values())
        assert await waiting(agent.stop) == 0

        for name, place in places.items():
            found = await place.found()
            for batch in batches:
                wanted = place.wanted(batch)
                missing = [item for item, count in wanted.items() if found[item] < count]
                assert not missing, name
            doubled = sum(count - 1 for count in found.values())
            assert max(found.values()) <= 2, name
            print(f"{name}: {found.total()} items, {doubled} doubled")

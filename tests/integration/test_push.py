"""A whole agent pushes what its own page shows into real databases, through their outages too."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from support.agent import Agent
from support.agent import running as running_agent
from support.grpc_stub import receiving
from support.http_stub import answering
from support.ports import free_port
from support.servers import asked, needs, serving
from support.simulator import Simulated, simulated
from support.wire.otlp import every_point
from support.wire.remote_write import read, read2, understanding, version


Labels = tuple[str, tuple[tuple[str, str], ...]]

SINK = """
[[sink]]
type = "{type}"
url = "{url}"
{more}
"""


@asynccontextmanager
async def prometheus(directory: Path, port: int) -> AsyncIterator[None]:
    """Run a Prometheus that receives."""
    (directory / "prometheus.yml").touch()
    command = (
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
    )
    async with serving(command, ready=f"http://127.0.0.1:{port}/-/ready"):
        yield


@contextmanager
def pushing(folder: Path, host: Simulated, more: str):
    """Run an agent with more sinks than its page."""
    with running_agent(folder, host.uri, pulse=0.5, monitor=0.5, extra=0.5, more=more) as agent:
        yield agent


async def stored(port: int) -> dict[Labels, float]:
    """Return the guests' series that Prometheus has now."""
    answer = await asked(
        f"http://127.0.0.1:{port}/api/v1/query",
        query='{__name__=~"libvirt_domain_.+"}',
        time=f"{time.time() + 5:.3f}",
    )
    found: dict[Labels, float] = {}
    for each in answer["data"]["result"]:
        labels = each["metric"]
        name = labels.pop("__name__")
        assert labels.pop("job") == "virtstatd"
        assert labels.pop("instance") == "node1"
        found[name, tuple(sorted(labels.items()))] = float(each["value"][1])
    return found


def shown(agent: Agent) -> dict[Labels, float]:
    """Return the guests' series on the page, without labels that say nothing."""
    return {
        (name, tuple(pair for pair in labels if pair[1])): float(value)
        for (name, labels), value in agent.samples().items()
        if name.startswith("libvirt_domain_")
    }


async def same(agent: Agent, port: int, guests: int, least: int = 1) -> int:
    """Wait until Prometheus has what the page shows of so many guests; return how much it is."""
    wanted: dict[Labels, float] = {}
    found: dict[Labels, float] = {}
    for _ in range(60):
        wanted, found = await asyncio.to_thread(shown, agent), await stored(port)
        of = {dict(labels).get("domain") for _, labels in wanted}
        if len(of) == guests and wanted == found and len(wanted) >= least:
            return len(wanted)
        await asyncio.sleep(0.1)
    assert found.keys() == wanted.keys()
    assert found == wanted
    raise AssertionError(f"the page has not {guests} guests")


@needs("prometheus")
async def test_prometheus_has_what_the_page_shows(tmp_path: Path) -> None:
    """Every series of every guest is equal; who goes is gone, and churn makes no request bad."""
    port = free_port()
    with simulated(tmp_path, "--domains=12") as host:
        more = SINK.format(
            type="remote_write",
            url=f"http://127.0.0.1:{port}/api/v1/write",
            more='host="node1"',
        )
        async with prometheus(tmp_path, port):
            with pushing(tmp_path, host, more) as agent:
                host.do("stop_time")
                everything = await same(agent, port, 12, 12 * 60)
                host.do("destroy", count=4)
                fewer = await same(agent, port, 8)
                assert fewer < everything
                host.do("churn", per_second=5)
                ticks = re.compile(r"(?m)^virtstatd_ticks_total{.*} (\d+)$")
                begun = sum(map(int, ticks.findall(await asyncio.to_thread(agent.page))))
                while (
                    sum(map(int, ticks.findall(await asyncio.to_thread(agent.page)))) < begun + 12
                ):
                    await asyncio.sleep(0.1)
                host.do("churn", per_second=0)
                await same(agent, port, 8)
                assert agent.events("sink.failing") == []


@needs("prometheus")
async def test_an_outage_loses_nothing(tmp_path: Path) -> None:
    """What was polled while Prometheus was dead is there when it is back, every poll, in order."""
    port = free_port()
    query = 'libvirt_domain_info_state{domain="instance-00000001"}[10m]'

    async def times() -> list[float]:
        answer = await asked(f"http://127.0.0.1:{port}/api/v1/query", query=query)
        series = answer["data"]["result"]
        return [moment for moment, _ in series[0]["values"]] if series else []

    async def until(condition: Callable[[list[float]], object]) -> list[float]:
        async with asyncio.timeout(100):
            while not condition(found := await times()):
                await asyncio.sleep(0.1)
        return found

    with simulated(tmp_path, "--domains=3") as host:
        more = SINK.format(
            type="remote_write",
            url=f"http://127.0.0.1:{port}/api/v1/write",
            more='host="node1"',
        )
        with pushing(tmp_path, host, more) as agent:
            async with prometheus(tmp_path, port):
                before = await until(lambda found: len(found) >= 3)
            killed = time.time()
            await asyncio.to_thread(agent.wait_for, lambda: agent.events("sink.failing"))
            await asyncio.to_thread(agent.wait_for, lambda: time.time() > killed + 3)
            async with prometheus(tmp_path, port):
                returned = time.time()
                after = await until(lambda found: found and found[-1] > returned)
            assert agent.events("sink.recovered")
            for (name, labels), value in (await asyncio.to_thread(agent.samples)).items():
                if name.startswith(("virtstatd_sink_lost", "virtstatd_sink_dropped")):
                    assert value == 0, labels
    assert after[: len(before)] == before
    assert len([moment for moment in after if killed < moment < returned]) >= 3
    assert sorted(set(after)) == after


async def test_every_push_sink_at_once(tmp_path: Path) -> None:
    """All that push over HTTP and gRPC run beside each other, and each has every guest."""
    async with AsyncExitStack() as stack:
        write, new, influx, otlp = [await stack.enter_async_context(answering()) for _ in range(4)]
        rpc = await stack.enter_async_context(receiving())
        new.decide = understanding(new)
        more = "".join(
            SINK.format(type=kind, url=stub.url, more=f'name = "{name}"\n{options}')
            for name, kind, stub, options in (
                ("write", "remote_write", write, ""),
                ("new", "remote_write", new, ""),
                ("influx", "influx", influx, ""),
                ("otlp", "otlp", otlp, ""),
                ("rpc", "otlp", rpc, 'protocol = "grpc"'),
            )
        )
        with simulated(tmp_path, "--domains=5") as host, pushing(tmp_path, host, more) as agent:
            async with asyncio.timeout(100):
                while not all(len(stub.requests) > 5 for stub in (write, new, influx, otlp, rpc)):
                    await asyncio.sleep(0.05)
            assert agent.events("sink.failing") == []
            assert await asyncio.to_thread(agent.stop) == 0
    series = [dict(attributes) for (_, attributes), _ in every_point(list(rpc.requests))]
    assert len({each.get("domain") for each in series} - {None}) == 5
    first, *others = write.requests
    assert read2(first.body) == []
    labels = [dict(each) for request in others for each, _, _ in read(request.body)]
    assert len({each.get("domain") for each in labels} - {None}) == 5
    assert {version(each) for each in new.requests} == {"2.0"}
    labels = [dict(each.labels) for request in new.requests for each in read2(request.body)]
    assert len({each.get("domain") for each in labels} - {None}) == 5

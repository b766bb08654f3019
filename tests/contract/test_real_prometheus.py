"""A real Prometheus reads what the scrape endpoint gives."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from support.ports import free_port
from support.servers import asked, needs, serving
from virtstatd.sink import Batch, Opening
from virtstatd.sinks.prometheus import Prometheus
from virtstatd.testing import hostile_batch


pytestmark = needs("prometheus")

CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs: [{{job_name: virtstatd, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]
"""


@asynccontextmanager
async def prometheus(directory: Path, scraped_port: int) -> AsyncIterator[int]:
    """Run a Prometheus that scrapes a port, and yield its own."""
    port = free_port()
    config = directory / "prometheus.yml"
    config.write_text(CONFIG.format(port=scraped_port))
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with serving(command, ready=f"http://127.0.0.1:{port}/-/ready"):
        yield port


async def query(port: int, expression: str) -> list[dict[str, Any]]:
    """Ask for an instant vector."""
    answer = await asked(f"http://127.0.0.1:{port}/api/v1/query", query=expression)
    return list(answer["data"]["result"])


def without_namesakes(batch: Batch) -> Batch:
    """Leave out what has no domain: to Prometheus an empty label and none are the same."""
    return replace(batch, readings=tuple(each for each in batch.readings if each.domain))


async def test_prometheus_reads_every_sample(tmp_path: Path):
    """Prometheus scrapes with `up 1`, and has as many series as the batch, names unharmed."""
    log = structlog.testing.CapturingLogger()
    batch = without_namesakes(hostile_batch())
    async with Prometheus(listen_address="127.0.0.1:0").open(Opening("p", log)) as send:
        await send(batch)
        async with (
            prometheus(tmp_path, log.calls[0].kwargs["port"]) as port,
            asyncio.timeout(100),
        ):
            found: list[dict[str, Any]] = []
            while not found:
                await asyncio.sleep(0.1)
                found = await query(port, '{__name__=~"libvirt.+"}')
            up = await query(port, "up")
    assert [each["value"][1] for each in up] == ["1"]
    assert len(found) == batch.samples
    names = {each["metric"].get("domain", "") for each in found}
    for guest in {reading.domain for reading in batch.readings if reading.domain}:
        if not set(guest.name) & {"\0", "\1", "\udce9"}:
            assert guest.name in names
    odd = [each for each in found if each["metric"].get("key") == "nan"]
    assert odd
    assert all(math.isnan(float(each["value"][1])) for each in odd)

"""A real Prometheus reads what the scrape endpoint gives."""

import asyncio
import json
import math
import shutil
import signal
import socket
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from virtstatd.sink import Batch, Opening
from virtstatd.sinks.prometheus import Prometheus
from virtstatd.testing import hostile_batch


pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="Prometheus is not installed"
)

CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs: [{{job_name: virtstatd, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]
"""


@asynccontextmanager
async def prometheus(directory: Path, scraped_port: int) -> AsyncIterator[int]:
    """Run a Prometheus that scrapes a port, and yield its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = directory / "prometheus.yml"
    config.write_text(CONFIG.format(port=scraped_port))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def query(port: int, expression: str) -> list[dict]:
    """Ask for an instant vector; empty while Prometheus is not ready."""
    path = f"/api/v1/query?query={urllib.parse.quote(expression)}"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return []
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    return json.loads(body)["data"]["result"] if b" 200 " in head[:20] else []


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
            asyncio.timeout(60),
        ):
            found: list[dict] = []
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

"""Hundreds of clients that want nothing good, and a scraper among them."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from pathlib import Path

import pytest

from support.agent import Agent, running
from support.certificates import certificate
from support.crowd import crowd
from support.ports import free_port
from support.simulator import simulated
from support.waits import Waits, slowness


GUESTS = 60
SCRAPES = 200
P99_SECONDS = 0.1
MEMORY_MIB = 20

WEB = """
[web]
listen_address = "127.0.0.1:{port}"
{tls}
[[sink]]
type = "prometheus"
name = "page"
"""


def memory_mib(agent: Agent) -> float:
    """Return what only this process has in memory, and its share of the rest."""
    text = Path(f"/proc/{agent.pid}/smaps_rollup").read_text()
    (line,) = (each for each in text.splitlines() if each.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def scraped(port: int, tls: ssl.SSLContext | None, count: int) -> Waits:
    """Scrape so often, each time by a connection of its own."""
    waits = []
    for _ in range(count):
        begun = time.monotonic()
        if tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "localhost", port, context=tls, timeout=60
            )
        else:
            connection = http.client.HTTPConnection("localhost", port, timeout=60)
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        assert answer.status == http.HTTPStatus.OK
        assert len(answer.read()) > GUESTS
        connection.close()
        waits.append(time.monotonic() - begun)
        time.sleep(0.05)
    return Waits(waits)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "count",
    [64, *(pytest.param(count, marks=pytest.mark.soak) for count in (500, 900))],
)
async def test_a_crowd_costs_a_scraper_little(tmp_path: Path, count: int, *, encrypted: bool):
    """Beside them each scrape succeeds, in time on a machine that has time, in bounded memory."""
    file, key = certificate(tmp_path)
    port = free_port()
    tls = f"certificate_file = '{file}'\nkey_file = '{key}'" if encrypted else ""
    context = ssl.create_default_context(cafile=str(file)) if encrypted else None
    waiting = asyncio.to_thread
    with (
        simulated(tmp_path, f"--domains={GUESTS}") as sim,
        running(tmp_path, sim.uri, more=WEB.format(port=port, tls=tls)) as agent,
    ):
        await waiting(agent.wait_for, lambda: agent.events("libvirt.connected"))
        scrapes = SCRAPES if count > 64 else SCRAPES // 4
        alone = await waiting(scraped, port, context, scrapes)
        before = memory_mib(agent)
        async with crowd(port, count, encrypted=encrypted):
            beside = await waiting(scraped, port, context, scrapes)
            grown = memory_mib(agent) - before
        print(f"alone {alone}\nbeside {count}: {beside}; {grown:.1f} MiB more")
        assert beside.share(99) < max(P99_SECONDS, 5 * alone.share(99)) * slowness()
        assert grown < MEMORY_MIB
        assert await waiting(agent.stop) == 0

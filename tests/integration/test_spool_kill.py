"""An agent that is killed at any moment, and a destination that comes and goes."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from support.agent import Agent
from support.http_stub import Received, Stub, answering
from support.simulator import Simulated, simulated
from virtstatd.formats.line_protocol import LineProtocol
from virtstatd.pipeline.spool.log import Spool
from virtstatd.testing import make_batch, make_domain, make_shapes


CONFIG = """
[hypervisor]
uri = {uri}
[poll.pulse]
interval_seconds = 0.5
[poll.monitor]
interval_seconds = 0.5
[poll.extra]
interval_seconds = 0.5
[local]
enabled = false
[budget]
host_cpu_percent = 0
[agent]
interval_seconds = 0.5
[[sink]]
type = "influx"
url = "{url}"
spool_bytes = {size}
[[sink]]
type = "jsonl"
target = "{lines}"
"""
UNWRITTEN_SECONDS = 1.0
"""What was polled so shortly before a kill may not have been accepted by the spool yet."""


@dataclass
class Life:
    """One run of the agent, as its destination saw it."""

    begun: float
    killed: float = 0.0
    first: float | None = None
    taken: list[bytes] = field(default_factory=list)


class Destination:
    """Remember the lines that arrive, and in which order; no two are alike."""

    def __init__(self, stub: Stub) -> None:
        self.lines: set[bytes] = set()
        self.lives: list[Life] = []
        self.up = True
        stub.decide = self._receive

    def _receive(self, request: Received) -> int:
        life = self.lives[-1]
        life.first = life.first or time.monotonic()
        if not self.up:
            return 503
        self.lines.update(request.body.splitlines())
        life.taken.append(request.body)
        return 204

    def check(self, kills: int) -> None:
        """Nothing is doubled but the first of a life, and every series is in order."""
        before: set[bytes] = set()
        latest: dict[bytes, int] = {}
        doubled = 0
        for life in self.lives:
            lines = [line for body in life.taken for line in body.splitlines()]
            again = before.intersection(lines)
            assert again <= {line for body in life.taken[:1] for line in body.splitlines()}
            assert max(Counter(lines).values(), default=1) == 1
            doubled += len(again)
            for line in lines:
                series, taken_at = line.split(b" ", 1)[0], time_of(line)
                assert latest.get(series, 0) < taken_at or line in again
                latest[series] = taken_at
            before.update(lines)
        print(f"{kills} kills, {len(before)} lines, {doubled} doubled")


def state_of(folder: Path) -> Path:
    """Return the directory of the sink's spool."""
    return folder / "state" / "spool" / "influx"


def time_of(line: bytes) -> int:
    """Return when a line was polled."""
    return int(line.rsplit(b" ", 1)[1])


def on_disk(folder: Path) -> list[bytes]:
    """Return the lines that a spool holds which nobody uses now, without changing it."""
    copy = folder / "copy"
    shutil.copytree(state_of(folder), copy)
    lines = LineProtocol("libvirt_", (("host", socket.gethostname()),))
    try:
        spool = Spool(copy, capacity=1 << 30, keep_free=(0, 0))
        spool.open()
        found: list[bytes] = []
        at = spool.settled
        while (one := spool.read(at, spool.end)) is not None:
            assert one.position == at, "a batch is damaged"
            at = one.after
            for each in one.batch.readings:
                found += lines.encode(each, one.batch.taken_at).splitlines()
        assert at == spool.end
        spool.close()
    finally:
        shutil.rmtree(copy)
    return found


def written(lines: Path) -> set[int]:
    """Return the times of what another sink of the same agent was given."""
    found = set()
    for line in lines.read_text().splitlines():
        try:
            moment, fraction = json.loads(line)["time"].rstrip("Z").split(".")
        except ValueError:
            continue  # cut short by the kill
        seconds = int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())
        found.add(seconds * 1_000_000_000 + int(fraction))
    return found


def start(folder: Path, uri: str, url: str, size: int = 1 << 28) -> Agent:
    """Start an agent that polls twice a second."""
    config = folder / "virtstatd.toml"
    config.write_text(
        CONFIG.format(uri=json.dumps(uri), url=url, size=size, lines=folder / "lines")
    )
    return Agent(config, STATE_DIRECTORY=str(folder / "state"))


async def killed(folder: Path, host: Simulated, kills: int, seed: int) -> None:
    """Kill an agent so many times; hold what arrived against what its spool had accepted."""
    chance = random.Random(seed)
    async with answering() as stub:
        seen = Destination(stub)
        accepted: set[bytes] = set()
        for _ in range(kills):
            seen.lives.append(Life(time.monotonic()))
            seen.up = chance.random() < 0.5
            agent = await asyncio.to_thread(start, folder, host.uri, stub.url)
            try:
                life = seen.lives[-1]
                await asyncio.to_thread(agent.wait_for, partial(lambda life: life.first, life))
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(chance.uniform(0, 0.4))
                    seen.up = chance.random() < 0.6
            finally:
                agent.process.kill()
                life.killed = time.time()
                await asyncio.to_thread(agent.stop)
            await asyncio.sleep(0.05)  # what was under way
            accepted |= {*seen.lines, *await asyncio.to_thread(on_disk, folder)}
        seen.up = True
        seen.lives.append(Life(time.monotonic()))
        agent = await asyncio.to_thread(start, folder, host.uri, stub.url)
        try:
            await asyncio.to_thread(
                agent.wait_for, lambda: seen.lives[-1].first and accepted <= seen.lines
            )
        finally:
            assert await asyncio.to_thread(agent.stop) == 0
        assert on_disk(folder) == []
    seen.check(kills)
    moments = [life.killed for life in seen.lives]
    times = {time_of(line) for line in seen.lines}
    for taken_at in written(folder / "lines") - times:
        assert any(0 <= each - taken_at / 1e9 < UNWRITTEN_SECONDS for each in moments)
    print("first request after", [round((each.first or 0) - each.begun, 2) for each in seen.lives])


async def test_a_killed_agent_loses_nothing_that_was_accepted(tmp_path: Path):
    """Every batch that the spool took in arrives, in order, at most one request of a life again."""
    with simulated(tmp_path, "--domains=3") as host:
        await killed(tmp_path, host, 5, 1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_an_agent_killed_fifty_times_loses_nothing(tmp_path: Path):
    """The same for long."""
    with simulated(tmp_path, "--domains=3") as host:
        await killed(tmp_path, host, 50, 2)


def rss_of(pid: int) -> int:
    """Return the most memory that a process had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


@pytest.mark.soak
async def test_a_large_backlog_is_no_reason_to_be_late(tmp_path: Path):
    """With 256 MiB on disk the first request leaves as soon as without, and memory stays small."""
    shapes = make_shapes(60, 10, 8)
    guests = [make_domain(number) for number in range(35)]

    def fill() -> int:
        spool = Spool(state_of(tmp_path), capacity=1 << 28, sync="none", keep_free=(0, 0))
        spool.open()
        number = 0
        while not spool.forgotten.batches:
            now = time.time_ns()
            spool.append(make_batch(guests, shapes=shapes, taken_at=now, base=number))
            number += 1
        spool.close()
        return number

    seconds, memory = [], []
    with simulated(tmp_path, "--domains=3") as host:
        async with answering() as stub:
            seen = Destination(stub)
            for backlog in (False, True):
                if backlog:
                    shutil.rmtree(tmp_path / "state")
                    assert await asyncio.to_thread(fill) > 2000
                seen.lives.append(life := Life(time.monotonic()))
                agent = await asyncio.to_thread(start, tmp_path, host.uri, stub.url)
                try:
                    await asyncio.to_thread(
                        agent.wait_for, partial(lambda life: len(life.taken) > 9, life)
                    )
                    memory.append(rss_of(agent.pid))
                    seconds.append((life.first or 0) - life.begun)
                finally:
                    agent.process.kill()
                    await asyncio.to_thread(agent.stop)
    print("first request after", seconds, "s; memory", [each >> 20 for each in memory], "MiB")
    assert memory[1] - memory[0] < 32 << 20

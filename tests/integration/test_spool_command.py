"""What waits on disk for a sink that is no more, and the command that looks after it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from support.agent import Agent
from support.command import virtstatd
from support.http_stub import answering
from support.terminal import terminal
from virtstatd.pipeline.spool.log import Spool
from virtstatd.testing import make_batch


BATCHES = 5
CONFIG = """
[agent]
state_directory = '{state}'
[hypervisor]
uri = "test:///default"
[[sink]]
type = "influx"
name = "second"
url = "{url}"
spool_bytes = 1000000000
"""


def filled(folder: Path, name: str) -> Path:
    """Make a spool in which batches wait, as an agent that ended has left it."""
    directory = folder / "state" / "spool" / name
    spool = Spool(directory, capacity=1 << 28, keep_free=(0, 0))
    spool.open()
    for number in range(BATCHES):
        spool.append(make_batch(2, taken_at=time.time_ns(), base=number))
    spool.finish()
    return directory


def configured(folder: Path, url: str) -> str:
    """Write a configuration, and return where."""
    file = folder / "virtstatd.toml"
    file.write_text(CONFIG.format(state=folder / "state", url=url))
    return str(file)


def test_a_spool_of_no_sink_is_listed_and_reported(tmp_path: Path):
    """`spool list` and `check` name a spool whose sink was renamed, and what waits in it."""
    directory = filled(tmp_path, "first")
    filled(tmp_path, "second")
    file = configured(tmp_path, "http://127.0.0.1:1")
    listed = virtstatd("spool", "list", "--config", file)
    assert listed.returncode == 0
    first, second = listed.stdout.splitlines()
    waits = f"{BATCHES} batches of {BATCHES * make_batch(2).samples} samples wait, "
    assert first.startswith(f"first: {waits}")
    assert first.endswith(", of no sink that is configured")
    assert second.startswith(f"second: {waits}")
    assert second.endswith(" bytes on disk")
    checked = virtstatd("check", file)
    assert f"note: spool {directory}: {waits}" in checked.stdout
    assert checked.stdout.count("note: spool ") == 1


def test_an_agent_reports_a_spool_of_no_sink_at_its_start(tmp_path: Path):
    """Batches that no sink will send are logged once, with their number; they stay."""
    directory = filled(tmp_path, "first")
    file = Path(configured(tmp_path, "http://127.0.0.1:1"))
    agent = Agent(file)
    try:
        agent.wait_for(lambda: agent.events("agent.started"))
        (event,) = agent.events("spool.orphaned")
    finally:
        agent.stop()
    assert (event["name"], event["batches"]) == ("first", BATCHES)
    assert list(directory.glob("*.segment"))


def test_a_spool_can_be_removed(tmp_path: Path):
    """`spool remove` deletes one spool, none of another name, and none that an agent uses."""
    directory = filled(tmp_path, "first")
    file = configured(tmp_path, "http://127.0.0.1:1")
    wrong = virtstatd("spool", "remove", "--config", file, "third")
    assert (wrong.returncode, "there is no spool 'third'" in wrong.stderr) == (1, True)
    agent = Spool(directory, capacity=1 << 28, keep_free=(0, 0))
    agent.open()
    used = virtstatd("spool", "remove", "--config", file, "first")
    agent.close()
    assert (used.returncode, f"an agent uses {directory}" in used.stderr) == (1, True)
    done = virtstatd("spool", "remove", "--config", file, "first")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"removed first: {BATCHES} batches of ")
    assert not directory.exists()


async def test_a_spool_can_be_drained_through_another_sink(tmp_path: Path):
    """`spool drain` sends all of it through the sink that is named, and leaves nothing waiting."""
    filled(tmp_path, "first")
    async with answering() as stub:
        file = configured(tmp_path, stub.url)
        unknown = await asyncio.to_thread(virtstatd, "spool", "drain", "--config", file, "first")
        assert (unknown.returncode, "no sink 'first'" in unknown.stderr) == (1, True)
        done = await asyncio.to_thread(
            virtstatd, "spool", "drain", "--config", file, "first", "--to", "second"
        )
        assert (done.returncode, done.stderr) == (0, "")
        samples = BATCHES * make_batch(2).samples
        assert done.stdout == f"{BATCHES} batches of {samples} samples sent, 0 samples lost\n"
        assert len(stub.requests) == 1
        times = {line.rsplit(b" ", 1)[1] for line in stub.requests[0].body.splitlines()}
        assert len(times) == BATCHES
    listed = await asyncio.to_thread(virtstatd, "spool", "list", "--config", file)
    assert listed.stdout.startswith("first: 0 batches of 0 samples wait")


def test_where_there_is_nothing_to_see_that_is_said(tmp_path: Path):
    """No spool at all is no fault; a directory that cannot be read is, but not of `check`."""
    file = tmp_path / "virtstatd.toml"
    for state, code, said in (
        (tmp_path, 0, "no sink has a spool on disk\n"),
        (tmp_path / ("x" * 300), 1, "File name too long; run this as root\n"),
    ):
        file.write_text(f"[agent]\nstate_directory = '{state}'\n")
        listed = virtstatd("spool", "list", "--config", str(file))
        assert (listed.returncode, listed.stdout) == (code, "")
        assert listed.stderr.endswith(said)
        assert "note: spool" not in virtstatd("check", str(file)).stdout
        assert virtstatd("check", str(file)).returncode == 0


def test_what_cannot_be_drained_stays(tmp_path: Path):
    """While the destination is away nothing is lost: what was not sent waits on disk as before."""
    filled(tmp_path, "first")
    file = configured(tmp_path, "http://127.0.0.1:1")
    done = virtstatd(
        "spool", "drain", "--config", file, "first", "--to", "second", "--seconds", "1"
    )
    assert done.returncode == 1
    assert done.stdout == "0 batches of 0 samples sent, 0 samples lost\n"
    assert f"{BATCHES} batches are left" in done.stderr
    listed = virtstatd("spool", "list", "--config", file)
    assert listed.stdout.startswith(f"first: {BATCHES} batches of ")


async def test_a_drain_says_how_far_it_is(tmp_path: Path):
    """At a terminal the batches that were sent and that wait are counted while it lasts."""
    filled(tmp_path, "first")
    async with answering() as stub:
        file = configured(tmp_path, stub.url)
        with terminal("spool", "drain", "--config", file, "first", "--to", "second") as drain:
            assert await asyncio.to_thread(drain.ended) == 0
    assert b" batches sent, " in drain.drawn
    assert drain.lines[0].startswith(f"{BATCHES} batches of ")

"""A disk that is full, for real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from support.servers import needs
from support.spool import SIZE, queued
from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.spool.queue import RETRY_SECONDS


MIB = 1 << 20

pytestmark = needs("root")  # which mounts


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """Mount 16 MiB."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


async def test_somebody_else_fills_the_disk_and_empties_it(tmp_path: Path):
    """Full is no loss while memory lasts; room is found again by itself, and nothing is damaged."""
    with small_disk(tmp_path / "disk") as disk, capture_logs() as logs:
        async with queued(disk / "s", memory=40 * SIZE) as one:
            for _ in range(60):
                one.offer()
                await one.written()
            with (disk / "other").open("wb", buffering=0) as other:
                try:
                    while other.write(bytes(4096)) == 4096:
                        pass
                except OSError:
                    pass
            while not one.queue.failing:
                one.offer()
                await one.until(lambda: one.idle)
            before = one.offered
            while len(one.times) < 30:  # what is on the full disk is delivered from it
                await one.deliver()
            for _ in range(20):
                one.offer()
            assert one.queue.dropped["memory"] == Tally()
            assert one.queue.kept.batches < one.queue.waiting.batches
            one.clock.now += RETRY_SECONDS
            one.offer()
            await one.until(lambda: one.idle)
            failing = [one.queue.failing]
            (disk / "other").unlink()
            one.clock.now += RETRY_SECONDS
            one.offer()
            await one.written()
            assert [*failing, one.queue.failing] == [True, False]
            assert one.offered == before + 22
        async with queued(disk / "s", memory=40 * SIZE) as two:
            two.offered = one.offered
            while two.queue.waiting.batches or not two.times:
                await two.deliver()
    assert one.times + two.times == list(range(one.offered))
    assert two.queue.dropped["damaged"] == Tally()
    failures = [line["event"] for line in logs if line["log_level"] == "error"]
    assert failures == ["spool.failed"]


async def test_the_spool_itself_fills_the_disk(tmp_path: Path):
    """A disk smaller than the spool may be holds what it can; delivering makes room again."""
    with small_disk(tmp_path / "disk") as disk, capture_logs():
        async with queued(disk / "s", memory=8 * MIB, disk=64 * MIB) as one:
            while not one.queue.failing:
                one.offer(domains=800)
                await one.until(lambda: one.idle)
            assert one.queue.disk_bytes > 14 * MIB
            full = one.offered
            while one.queue.disk_bytes > 8 * MIB:
                await one.deliver()
            one.clock.now += RETRY_SECONDS
            one.offer(domains=800)
            await one.written()
            assert [one.queue.failing] == [False]
            while one.queue.waiting.batches:
                await one.deliver()
    assert one.times == list(range(full + 1))


async def test_the_cap_holds_on_a_real_disk(tmp_path: Path):
    """The files are never larger than they may be, and the oldest go first."""
    with small_disk(tmp_path / "disk") as disk:
        async with queued(disk / "s", memory=MIB, disk=4 * MIB) as one:
            for _ in range(80):
                one.offer(domains=800)
                await one.until(lambda: one.idle)
                used = sum(path.stat().st_size for path in (disk / "s").glob("*.segment"))
                assert used <= 4 * MIB
            while one.queue.waiting.batches:
                await one.deliver()
    dropped = one.queue.dropped["disk"].batches
    assert dropped > 0
    assert one.times == list(range(dropped, 80))

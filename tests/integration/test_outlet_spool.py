"""An outlet in front of a spool on a real disk."""

import asyncio
import itertools
import time
from pathlib import Path

import structlog

from virtstatd.model import Batch
from virtstatd.pipeline.outlet import Outlet
from virtstatd.pipeline.spool.log import Spool
from virtstatd.pipeline.spool.queue import Spooled
from virtstatd.sink import TryLater
from virtstatd.testing import make_batch


LOG = structlog.get_logger()


class Server:
    """A destination that comes and goes."""

    def __init__(self) -> None:
        self.up = False
        self.got: list[Batch] = []

    async def send(self, batch: Batch) -> None:
        """Take a batch, when up."""
        if not self.up:
            raise TryLater("away", 0.01)
        self.got.append(batch)


def outlet(directory: Path, server: Server) -> Outlet:
    """Return an outlet with little memory and a large disk."""
    queue = Spooled(
        Spool(directory, capacity=64 << 20, keep_free=(0.0, 0)),
        LOG,
        time.monotonic,
        capacity=30 * make_batch().bytes,
    )
    return Outlet(
        "test",
        server.send,
        LOG,
        time.monotonic,
        queue,
        delivery="spool",
        attempt_seconds=5.0,
        max_age_seconds=3600.0,
    )


async def test_a_destination_that_is_away_loses_nothing(tmp_path: Path):
    """Away over three runs of the agent, then back: all arrives, in order, one twice at most."""
    server = Server()
    now = time.time_ns()
    offered = [make_batch(taken_at=now + number, base=number) for number in range(120)]
    async with asyncio.timeout(120):
        for run, part in enumerate((offered[:40], offered[40:80], offered[80:])):
            one = outlet(tmp_path / "s", server)
            running = asyncio.create_task(one.run())
            for number, batch in enumerate(part, 40 * run):
                one.offer(batch)
                while one.queue.kept.batches < number - 10:  # the disk may be slow
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0)
            if run == 2:
                server.up = True
                while one.waiting.batches:
                    await asyncio.sleep(0.01)
            one.close()
            await running
            assert not any(each.batches for each in one.lost.values())
            assert not any(each.batches for each in one.dropped.values())
            assert one.accepted == one.delivered + one.waiting

    arrived = [batch.taken_at for batch in server.got]
    assert [at for at, _ in itertools.groupby(arrived)] == [batch.taken_at for batch in offered]
    assert len(arrived) <= len(offered) + 1
    values = {b.taken_at: [r.values for r in b.readings] for b in server.got}
    assert values == {b.taken_at: [r.values for r in b.readings] for b in offered}

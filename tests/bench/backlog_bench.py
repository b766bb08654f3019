"""
How fast a backlog drains: `PYTHONPATH=agent:tests python -m bench.backlog_bench`.

A spool holds 59 minutes of 60 guests, polled each 15 s, of about 190 numbers each;
`virtstatd spool drain` sends it to a Prometheus of this host. Printed are its size, the seconds
that draining took, and the CPU time of the command.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.prometheus import prometheus
from virtstatd.model import Field, Kind, Series, Shape
from virtstatd.pipeline.spool.log import Spool
from virtstatd.testing import make_batch, make_shapes


GUESTS = 60
SECONDS = 59 * 60  # what is older than an hour, Prometheus refuses
INTERVAL = 15
MORE = 160

CONFIG = """
[agent]
state_directory = '{state}'
[[sink]]
type = "remote_write"
name = "write"
url = "{url}/api/v1/write"
spool_bytes = 1000000000
"""


def preloaded(state: Path) -> int:
    """Fill a spool, and return how many samples it has."""
    field = Field("libvirt_domain", "more", Kind.COUNTER, "", "More numbers.")
    more = Shape("more", tuple(Series(field, (("n", f"{each}"),)) for each in range(MORE)))
    shapes = [*make_shapes(), more]
    spool = Spool(state / "spool" / "write", capacity=1 << 30, sync="none", keep_free=(0, 0))
    spool.open()
    begun = time.time_ns() - SECONDS * 10**9
    samples = 0
    for number, second in enumerate(range(0, SECONDS, INTERVAL)):
        at = begun + second * 10**9
        batch = make_batch(GUESTS, shapes=shapes, taken_at=at, base=1000 * number)
        spool.append(batch)
        samples += batch.samples
    spool.finish()
    return samples


async def main() -> None:
    """Fill, drain, and print."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples = await asyncio.to_thread(preloaded, folder / "state")
        async with prometheus(folder) as url:
            file = folder / "virtstatd.toml"
            file.write_text(CONFIG.format(state=folder / "state", url=url))
            command = [sys.executable, "-m", "virtstatd", "spool", "drain", "write"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begun = time.monotonic()
            done = await asyncio.to_thread(
                subprocess.run,
                [*command, "--config", str(file)],
                env=os.environ,
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(done.stdout.strip(), done.stderr.strip()[-300:])
        print(f"{samples} samples in {seconds:.1f} s: {samples / seconds:.0f} a second", end="")
        print(f" (CPU of the command and the server {used:.1f} s)")


if __name__ == "__main__":
    asyncio.run(main())

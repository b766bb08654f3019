"""
From poll to text: what an answer costs the client, against the binding's bare call.

Run with `PYTHONPATH=agent:tests python -m bench.path_bench [GUESTS] [FILE.json]`. Simulated guests
answer all groups in one call. Each round makes the bare call, the library's call, and polls that
render a page, past the binding and through it, one after another. The figures are medians of this
thread's CPU time, and the ratios medians of the ratios of one round.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import libvirt
import structlog

from bench.simulator_bench import simulator
from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.bulk.answer import POLLED
from virtstatd.collect.bulk.call import FLAGS, BulkCall
from virtstatd.collect.bulk.structures import structures
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages


ROUNDS, FIRST = 25, 5
BITS = sum(group.bit for group in POLLED.values())


class Way:
    """One way from libvirt to a page."""

    def __init__(self, session: Session, call: BulkCall) -> None:
        self._session = session
        self._call = call
        self._latest = Latest(time.monotonic)
        self._pages = Pages(self._latest, structlog.get_logger())
        self.spent: dict[str, list[float]] = {"readings": [], "put": [], "text": [], "all": []}

    async def poll(self) -> int:
        """Poll, render, and note the time of each step; return the number of samples."""
        at = [time.thread_time()]
        answer = self._call.everyone(self._session, BITS)
        at.append(time.thread_time())
        batch = Batch("bulk", answer.taken_at, tuple(answer.readings), lifetime_seconds=3600.0)
        self._latest.put(batch)
        at.append(time.thread_time())
        await self._pages.parts(openmetrics=False)
        at.append(time.thread_time())
        for step, begun, ended in zip(("readings", "put", "text"), at, at[1:], strict=False):
            self.spent[step].append(ended - begun)
        self.spent["all"].append(at[-1] - at[0])
        return batch.samples


@contextmanager
def timed(spent: list[float]) -> Iterator[None]:
    """Note the CPU time of a block."""
    begun = time.thread_time()
    yield
    spent.append(time.thread_time() - begun)


async def measured(uri: str) -> dict[str, float]:
    """Measure all ways in turn."""
    session = Session(libvirt.openReadOnly(uri))
    own = structures()
    assert own, "the library in C is not built"
    ways = {
        name: Way(
            session,
            BulkCall(Inventory(), Decoder(shipped(), lambda _: None), structures=each),
        )
        for name, each in (("c", own), ("binding", None))
    }
    spent: dict[str, list[float]] = {"binding_call": [], "c_call": []}
    samples = 0
    for _ in range(ROUNDS):
        gc.collect()
        with timed(spent["binding_call"]):
            session.connection.getAllDomainStats(BITS, FLAGS)
        with timed(spent["c_call"]), own.records(session.connection, None, BITS, FLAGS):
            pass
        for way in ways.values():
            samples = await way.poll()
    for name, way in ways.items():
        spent |= {f"{name}_{step}": times for step, times in way.spent.items()}
    session.close()
    floor = spent["binding_call"][FIRST:]
    result: dict[str, float] = {"samples": samples}
    for name, times in spent.items():
        pairs = zip(times[FIRST:], floor, strict=True)
        result[f"{name}_ms"] = round(median(times[FIRST:]) * 1e3, 2)
        result[f"{name}_ratio"] = round(median(each / bare for each, bare in pairs), 2)
    return result


def main(arguments: list[str]) -> None:
    """Measure, and print a line for each step."""
    counts = [each for each in arguments if each.isdigit()]
    with (
        tempfile.TemporaryDirectory(prefix="virtstatd-bench-") as folder,
        simulator(Path(folder), "--domains", counts[0] if counts else "300") as (path, _),
    ):
        result = asyncio.run(measured(f"qemu+unix:///system?socket={path}"))
    for name, value in result.items():
        print(f"{name:24}{value:>10}")
    if arguments and not arguments[-1].isdigit():
        Path(arguments[-1]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

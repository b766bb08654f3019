"""Real receivers of remote write have every number under its true name."""

import asyncio
import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from support.prometheus import prometheus, victoria
from support.servers import asked, fetched, needs
from support.wire.remote_write import Labels, bits, wanted
from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Buffer
from virtstatd.pipeline.outlet import Outlet
from virtstatd.sink import Rejected
from virtstatd.sinks.remote_write import RemoteWrite
from virtstatd.testing import hostile_batch, make_batch
from virtstatd.testing.contract import opening


def sink(url: str) -> RemoteWrite:
    """Return a sink that writes to a server."""
    return RemoteWrite(url=f"{url}/api/v1/write", job="j", host="i", external_labels={"zone": "z"})


async def found(url: str, nanoseconds: int, but: str = "") -> dict[Labels, float]:
    """Return what the server has at a time."""
    query = f'{{__name__=~"libvirt.+",{but}}}'
    answer = await asked(f"{url}/api/v1/query", query=query, time=f"{nanoseconds / 1e9:.3f}")
    return {
        tuple(sorted(each["metric"].items())): float(each["value"][1])
        for each in answer["data"]["result"]
    }


def now(batch: Batch) -> Batch:
    """Return a batch of guests as if it was taken now: no receiver takes what is too old."""
    readings = tuple(each for each in batch.readings if each.domain)
    return replace(batch, readings=readings, taken_at=time.time_ns())


@needs("prometheus")
async def test_prometheus_has_every_value(tmp_path: Path):
    """Value by value Prometheus has what was sent, names unharmed; twice makes no more of it."""
    batch = now(hostile_batch())
    with capture_logs() as logs:
        log = opening(log=structlog.get_logger())
        async with prometheus(tmp_path) as url, sink(url).open(log) as send:
            await send(batch)
            await send(batch)
            has = await found(url, batch.taken_at)
    # it answers 204 to version 2.0 as well, and stores nothing of it
    assert [(each["event"], each["protocol"]) for each in logs] == [("write.negotiated", "1.0")]
    assert {labels: bits(number) for labels, number in has.items()} == wanted(batch.readings)


@needs("prometheus")
async def test_prometheus_forgets_what_ended(tmp_path: Path):
    """A guest that is gone is gone from queries at once, and one that runs again is back."""
    batch = now(make_batch(3))
    guest = batch.readings[0].domain
    assert guest
    async with prometheus(tmp_path) as url, sink(url).open(opening()) as send:
        await send(batch)
        assert len(await found(url, batch.taken_at)) == batch.samples
        await send(Batch("inventory", batch.taken_at + 10**9, (), gone=(guest,)))
        left = await found(url, batch.taken_at + 2 * 10**9)
        assert len(left) == batch.samples * 2 // 3
        assert "vm-0" not in {dict(labels)["domain"] for labels in left}
        await send(replace(batch, taken_at=batch.taken_at + 3 * 10**9))
        assert len(await found(url, batch.taken_at + 3 * 10**9)) == batch.samples


@needs("prometheus")
async def test_one_series_ahead_of_us_costs_that_series_alone(tmp_path: Path):
    """Of 725 samples of which one is out of order Prometheus has 724, within 16 more requests."""
    batch = now(make_batch(25))
    first = replace(batch, readings=batch.readings[:1], taken_at=batch.taken_at + 5 * 10**9)
    async with prometheus(tmp_path) as url:
        async with sink(url).open(opening()) as send:
            await send(first)
        ours = sink(url)
        async with ours.open(opening()) as send:
            one = Outlet(
                "prometheus",
                send,
                structlog.get_logger(),
                time.monotonic,
                Buffer(1 << 30),
                attempt_seconds=60.0,
                max_age_seconds=3600.0,
                trains=ours.trains,
            )
            one.offer(batch)
            one.close()
            with capture_logs() as logs:
                await one.run()
        has = await found(url, batch.taken_at + 10**9)
    print(sum(one.attempts.values()), "requests")
    assert batch.samples == 725
    assert len(has) == 724
    assert sum(one.attempts.values()) <= 17
    assert (one.delivered.samples, one.lost["poison"].samples) == (724, 1)
    (named,) = [each for each in logs if each["event"] == "sink.poisoned"]
    assert named["series"] == "libvirt_domain_info_vstate"
    assert "out of order" in named["reason"]


@needs("prometheus")
async def test_prometheus_refuses_what_goes_back(tmp_path: Path):
    """Another value for a time that was written is refused, and the refusal tells why."""
    batch = now(make_batch(1))
    async with prometheus(tmp_path) as url, sink(url).open(opening()) as send:
        await send(batch)
        with pytest.raises(Rejected, match="answers 400"):
            await send(replace(make_batch(1, base=7), taken_at=batch.taken_at))


@needs("victoria-metrics")
async def test_victoria_metrics_has_every_value(tmp_path: Path):
    """VictoriaMetrics has what was sent, but for what it cannot keep: NaN, and next to nothing."""
    batch = now(hostile_batch())
    must = {
        labels: 0 if number == bits(5e-324) else number
        for labels, number in wanted(batch.readings).items()
        if number != bits(float("nan"))
    }
    async with victoria(tmp_path) as url, sink(url).open(opening()) as send:
        await send(batch)
        async with asyncio.timeout(100):
            has: dict[Labels, float] = {}
            for attempt in itertools.count():  # each asks otherwise: answers are cached for 10 s
                await fetched(f"{url}/internal/force_flush")
                has = await found(url, batch.taken_at, f'attempt!="{attempt}"')
                if len(has) >= len(must):
                    break
                await asyncio.sleep(0.1)
    assert {labels: bits(number) for labels, number in has.items()} == must

"""Real databases have every number under its true tags."""

import asyncio
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest

from support.influxdb import influxdb
from support.ports import free_port
from support.servers import asked, fetched, needs
from support.wire.influx import Rows, of_guests, wanted
from virtstatd.sink import Denied, Rejected
from virtstatd.sinks.influx import Influx
from virtstatd.sinks.influx_udp import InfluxUdp
from virtstatd.testing import check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


async def rows(url: str, database: str) -> Rows:
    """Return all that a database holds."""
    query = "SELECT * FROM /.*/ GROUP BY *"
    answer = await asked(f"{url}/query", db=database, q=query, epoch="ns")
    found: Rows = {}
    for each in answer["results"][0].get("series", []):
        (values,) = each["values"]
        fields = dict(zip(each["columns"], values, strict=True))
        del fields["time"]
        tags = frozenset(pair for pair in each["tags"].items() if pair[1])
        found[each["name"], tags] = {
            key: float(value) if isinstance(value, int) else value
            for key, value in fields.items()
            if value is not None
        }
    return found


@needs("influxd")
async def test_influxdb_has_every_value(tmp_path: Path):
    """Value by value InfluxDB has what was sent, by HTTP twice and in datagrams once."""
    batch = replace(of_guests(hostile_batch()), taken_at=time.time_ns())
    must = wanted(batch.readings, host="n1")
    async with influxdb(tmp_path) as (url, udp):
        async with Influx(url=url, host="n1").open(opening()) as send:
            await send(batch)
            await send(batch)
        assert await rows(url, "virtstatd") == must
        async with (
            InfluxUdp(address=f"127.0.0.1:{udp}", host="n1").open(opening()) as send,
            asyncio.timeout(100),
        ):
            await send(batch)
            while len(found := await rows(url, "udp")) < len(must):
                await asyncio.sleep(0.1)
        assert found == must


@needs("influxd")
async def test_influxdb_tells_what_is_wrong(tmp_path: Path):
    """A database that is not there is told, and what a database refuses of a batch is counted."""
    batch = replace(make_batch(30), taken_at=time.time_ns())
    async with influxdb(tmp_path) as (url, _):
        async with Influx(url=url, database="nowhere").open(opening()) as send:
            with pytest.raises(Denied, match="database not found"):
                await send(batch)
        conflict = b'libvirt_state,host=n1,domain=other info_vstate="text"'
        assert await fetched(f"{url}/write?db=virtstatd", conflict) is not None
        async with Influx(url=url, host="n1").open(opening()) as send:
            with pytest.raises(Rejected, match="partial write: field type conflict") as caught:
                await send(batch)
        lines = len(wanted(batch.readings, host="n1"))
        assert caught.value.samples == math.ceil(batch.samples * 30 / lines)
        must = {
            key: value
            for key, value in wanted(batch.readings, host="n1").items()
            if "libvirt_state" not in str(key)
        }
        assert must.items() <= (await rows(url, "virtstatd")).items()
        assert len(must) == lines - 30


async def test_contract_of_datagrams():
    """The sink of datagrams keeps the contract, whether somebody listens or not."""
    await check_sink(lambda: InfluxUdp(address=f"127.0.0.1:{free_port()}"))

"""Where and how the Influx sinks write."""

import asyncio
import math
import zlib
from pathlib import Path
from typing import Any

import pytest

from support.http_stub import answering
from support.wire.influx import of_guests, parsed, wanted
from virtstatd.sink import Rejected, TryLater
from virtstatd.sinks.influx import Influx
from virtstatd.sinks.influx_udp import InfluxUdp
from virtstatd.testing import hostile_batch, make_batch
from virtstatd.testing.contract import opening


async def test_version_1(tmp_path: Path):
    """Version 1 is asked for its database, with name and password."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    batch = make_batch(3)
    async with answering() as stub:
        sink = Influx(
            url=f"{stub.url}/",
            database="d b",
            retention_policy="rp",
            host="n1",
            compress=False,
            username="me",
            password_file=str(password),
        )
        async with sink.open(opening()) as send:
            await send(batch)
    (request,) = stub.requests
    assert request.path == "/write"
    assert request.query == {"db": "d b", "rp": "rp", "precision": "ns"}
    assert request.headers["Authorization"] == "Basic bWU6c2VjcmV0"
    assert parsed(request.body)[0] == wanted(batch.readings, host="n1")


async def test_version_2(tmp_path: Path):
    """Versions 2 and 3 are asked for a bucket, with a token; requests are compressed."""
    token = tmp_path / "token"
    token.write_text("t0ken\n")
    batch = make_batch(30)
    async with answering() as stub:
        sink = Influx(
            url=stub.url,
            organization="o",
            bucket="b",
            host="n1",
            tags={"rack": "r 1"},
            request_samples=100,
            token_file=str(token),
        )
        async with sink.open(opening()) as send:
            await send(batch)
    assert {request.path for request in stub.requests} == {"/api/v2/write"}
    assert stub.requests[0].query == {"org": "o", "bucket": "b", "precision": "ns"}
    assert stub.requests[0].headers["Authorization"] == "Token t0ken"
    body = b"".join(request.body for request in stub.requests)
    if stub.requests[0].body[:2] == b"\x1f\x8b":  # the stub's server undoes gzip
        body = b"".join(zlib.decompress(each.body, 31) for each in stub.requests)
    assert parsed(body)[0] == wanted(batch.readings, host="n1", rack="r 1")


PARTIAL = '{"error":"partial write: '
LISTED = '{"original_line":"a","line_number":2,"error_message":"bad"}'
VERSION_3 = f'{{"error":"partial write of line protocol occurred","data":[{LISTED},{LISTED}]}}'


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (PARTIAL + 'points beyond retention policy dropped=3"}', 3),
        (PARTIAL + 'field type conflict: \\"f\\" on \\"m\\" is type float dropped=1"}', 1),
        (PARTIAL + "unable to parse 'a': missing\\nunable to parse 'b': missing dropped=0\"}", 2),
        (VERSION_3, 2),
        (PARTIAL + 'something new"}', None),
        ('{"error":"database not found"}', None),
        ("\xff dropped=1", None),
    ],
)
async def test_lines_that_are_refused(answer: str, refused: int | None):
    """Of a write that was done in part, what the database names or counts is lost, no more."""
    batch = make_batch(1)
    lines = len(wanted(batch.readings))
    async with answering() as stub, Influx(url=stub.url).open(opening()) as send:
        stub.status, stub.text = 400, answer.encode()
        with pytest.raises(Rejected) as caught:
            await send(batch)
        assert type(caught.value) is Rejected
        if refused is None:
            assert caught.value.samples is None
        else:
            assert caught.value.samples == math.ceil(batch.samples * refused / lines)
        stub.status = 503
        with pytest.raises(TryLater):
            await send(batch)


class Datagrams(asyncio.DatagramProtocol):
    """What arrives, and when enough of it did."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.arrived = asyncio.Event()

    def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
        """Keep a datagram."""
        self.received.append(data)
        self.arrived.set()


async def test_udp():
    """Datagrams hold whole lines, no more than fit, and together the batch."""
    batch = of_guests(hostile_batch())
    rows = wanted(batch.readings, host="n1")
    transport, got = await asyncio.get_running_loop().create_datagram_endpoint(
        Datagrams, local_addr=("127.0.0.1", 0)
    )
    try:
        port = transport.get_extra_info("sockname")[1]
        sink = InfluxUdp(address=f"127.0.0.1:{port}", datagram_bytes=1000, host="n1")
        async with sink.open(opening()) as send, asyncio.timeout(100):
            await send(batch)
            while sum(len(parsed(each)[0]) for each in got.received) < len(rows):
                got.arrived.clear()
                await got.arrived.wait()
    finally:
        transport.close()
    assert parsed(b"".join(got.received))[0] == rows
    assert len(got.received) > 10
    assert max(map(len, got.received)) <= 1000


async def test_udp_to_nobody():
    """A name that leads nowhere is for later; a port where nobody listens is nobody's fault."""
    async with InfluxUdp(address="nowhere.invalid:1").open(opening()) as send:
        with pytest.raises(TryLater, match=r"nowhere.invalid:1: "):
            await send(make_batch(1))
    async with InfluxUdp(address="127.0.0.1:9").open(opening()) as send:
        for _ in range(3):
            await send(make_batch(1))


@pytest.mark.parametrize(
    ("sink", "options"),
    [
        (Influx, {"url": "http://localhost/?db=x"}),
        (Influx, {"database": ""}),
        (InfluxUdp, {"address": "localhost"}),
        (InfluxUdp, {"address": "localhost:0"}),
        (InfluxUdp, {"address": ":8089"}),
    ],
)
def test_options_that_are_wrong(sink: type, options: dict[str, Any]):
    """A fault of the options names the option."""
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        sink(**options)

"""The StatsD sink, read by a receiver that follows DogStatsD's grammar to the letter."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import unquote_to_bytes

import pytest

from support.clock import Hands
from support.expectations import finite
from support.statsd import GAUGE
from virtstatd.errors import Rejected
from virtstatd.model import Batch, Series
from virtstatd.sending.datagrams import BURST_BYTES, LOOKUP_SECONDS, Datagrams
from virtstatd.sinks.statsd import Statsd
from virtstatd.testing import check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


@contextmanager
def receiver() -> Iterator[tuple[socket.socket, str]]:
    """Yield a socket with a large buffer, and its address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock, f"127.0.0.1:{sock.getsockname()[1]}"


def datagrams(sock: socket.socket) -> list[bytes]:
    """Return what has arrived."""
    found = []
    while True:
        try:
            found.append(sock.recv(65536))
        except BlockingIOError:
            return found


def visible(text: str) -> bytes:
    """Return the bytes that a word stands for."""
    return text.encode("utf-8", "backslashreplace")


@pytest.mark.parametrize("batch", [make_batch(3), hostile_batch()], ids=["plain", "hostile"])
async def test_every_number_arrives(batch: Batch):
    """Each finite number is a gauge with its name, value and tags, within the datagrams' size."""
    with receiver() as (sock, address):
        async with Statsd(address=address, host="n 1").open(opening()) as send:
            await send(batch)
        arrived = datagrams(sock)
    assert all(len(each) <= 1432 for each in arrived)
    assert len(arrived) < 60
    found = []
    for line in b"".join(arrived).decode("ascii").splitlines():
        match = GAUGE.fullmatch(line)
        assert match, line
        name, value, tags = match.groups()
        pairs = [tag.split(":", 1) for tag in tags.split(",")] if tags else []
        labels = [(key, b"" if text == "%" else unquote_to_bytes(text)) for key, text in pairs]
        found.append((name, float(value), labels))
    assert found == [
        (name, value, [("host", b"n 1"), *((key, visible(text)) for key, text in labels)])
        for _, name, labels, value in finite(batch)
    ]


async def test_what_has_no_labels_has_the_hosts_name():
    """A number of the host without labels has its host alone, and the prefix goes before all."""
    batch = make_batch(1)
    first = replace(batch.readings[0], domain=None)
    with receiver() as (sock, address):
        async with Statsd(address=address, prefix="virt.", host="h").open(opening()) as send:
            await send(Batch("bulk", 0, (first,)))
        assert datagrams(sock) == [b"virt.libvirt_domain_info_vstate:1000003000|g|#host:h\n"]


async def test_contract_without_a_server():
    """The sink keeps the contract, and tells when nobody listens; numbers are never sent later."""
    with receiver() as (sock, address):

        async def count() -> int:
            return sum(len(each) for each in datagrams(sock))

        await check_sink(lambda: Statsd(address=address), received=count)
    async with Statsd(address=address).open(opening()) as send:
        one = Batch("bulk", 0, make_batch(1).readings[:1])
        for batch in (one, one, make_batch(3), one):  # every time, not by turns
            with pytest.raises(Rejected, match="refused"):
                await send(batch)
    async with Statsd(address="host.invalid:8125").open(opening()) as send:
        with pytest.raises(Rejected, match=r"host\.invalid:8125"):
            await send(make_batch(3))


async def test_a_receiver_with_a_small_buffer_loses_nothing():
    """More than a receiver's buffer holds arrives, as long as it reads."""
    batch = make_batch(200)
    with receiver() as (sock, address):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * BURST_BYTES)
        lines = 0

        def read() -> None:
            nonlocal lines
            lines += sum(each.count(b"\n") for each in datagrams(sock))

        loop = asyncio.get_running_loop()
        loop.add_reader(sock, read)
        async with Statsd(address=address).open(opening()) as send:
            await send(batch)
        read()
        loop.remove_reader(sock)
    assert lines == batch.samples


async def test_a_line_that_is_no_datagram_costs_itself_alone():
    """What is longer than a datagram can be is lost and named; all else of the batch arrives."""
    batch = make_batch(2)
    shape = batch.readings[0].shape
    long = replace(
        shape, series=(*shape.series, Series(shape.series[0].field, (("x", "y" * 66000),)))
    )
    values = (*batch.readings[0].values, 1)
    readings = (replace(batch.readings[0], shape=long, values=values), *batch.readings[1:])
    with receiver() as (sock, address):
        async with Statsd(address=address).open(opening()) as send:
            with pytest.raises(
                Rejected, match=r"1 lines are larger .* libvirt_domain_info"
            ) as caught:
                await send(replace(batch, readings=readings))
        assert caught.value.samples == 1
        assert sum(each.count(b"\n") for each in datagrams(sock)) == batch.samples


async def test_a_server_that_moves_is_found(monkeypatch: pytest.MonkeyPatch):
    """The server's name is looked up each minute, and the address it has then is sent to."""
    clock, places = Hands(), list[object]()
    loop = asyncio.get_running_loop()

    async def looked_up(*_: object, **__: object) -> list[object]:
        if isinstance(places[0], OSError):
            raise places[0]
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", places[0])]

    with receiver() as (one, _), receiver() as (two, _):
        sending = Datagrams("server.example:1", clock)
        monkeypatch.setattr(loop, "getaddrinfo", looked_up)
        places.append(one.getsockname())
        await sending.send([b"1"])
        places[0] = two.getsockname()
        await sending.send([b"2"])
        clock.now += LOOKUP_SECONDS
        await sending.send([b"3"])
        places[0] = OSError("no name server")
        clock.now += LOOKUP_SECONDS
        await sending.send([b"4"])
        sending.close()
        assert datagrams(one) == [b"1", b"2"]
        assert datagrams(two) == [b"3", b"4"]


@pytest.mark.parametrize("address", ["host", ":8125", "host:99999999", "::1:8125"])
def test_addresses_that_are_none(address: str):
    """An address without host or port is refused."""
    with pytest.raises(ValueError, match="address: must "):
        Statsd(address=address)

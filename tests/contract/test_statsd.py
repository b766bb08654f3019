"""The StatsD sink, read by a receiver that follows DogStatsD's grammar to the letter."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import unquote_to_bytes

import pytest

from support.expectations import finite
from support.statsd import GAUGE
from virtstatd.errors import Rejected
from virtstatd.model import Batch
from virtstatd.sinks.statsd import BURST_BYTES, Statsd
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
        async with Statsd(address=address).open(opening()) as send:
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
        (name, value, [(key, visible(text)) for key, text in labels])
        for _, name, labels, value in finite(batch)
    ]


async def test_what_has_no_labels_has_no_tags():
    """A number of the host without labels goes without tags, and the prefix goes before all."""
    batch = make_batch(1)
    first = replace(batch.readings[0], domain=None)
    with receiver() as (sock, address):
        async with Statsd(address=address, prefix="virt.").open(opening()) as send:
            await send(Batch("bulk", 0, (first,)))
        assert datagrams(sock) == [b"virt.libvirt_domain_info_vstate:1000003000|g\n"]


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


@pytest.mark.parametrize("address", ["host", ":8125", "host:99999999", "::1:8125"])
def test_addresses_that_are_none(address: str):
    """An address without host or port is refused."""
    with pytest.raises(ValueError, match="address: must "):
        Statsd(address=address)

"""The Graphite sink, read back from carbon's files."""

import asyncio
import hashlib
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import pytest

from support.expectations import finite
from support.graphite import carbon, plain, stored
from support.servers import needs
from virtstatd.formats.words import word
from virtstatd.model import Batch, Labels, Reading
from virtstatd.sinks.graphite import IN_TAGS, Graphite
from virtstatd.testing import check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


pytestmark = needs("carbon-cache")


def tagged(reading: Reading, name: str, labels: Labels) -> str:
    """Return the file that carbon keeps a tagged series in: by the hash of its sorted tags."""
    del reading
    tags = sorted(
        f";{key}={word(text, IN_TAGS)}" for key, text in (*labels, ("host", platform.node()))
    )
    mark = hashlib.sha256(f"{name}{''.join(tags)}".encode()).hexdigest()
    return f"_tagged/{mark[:3]}/{mark[3:6]}/{mark}.wsp"


@pytest.mark.parametrize(("form", "file"), [("plain", plain), ("tagged", tagged)])
@pytest.mark.parametrize("batch", [make_batch(3), hostile_batch()], ids=["plain", "hostile"])
async def test_carbon_keeps_every_number(
    form: Literal["plain", "tagged"], file: Callable[..., str], batch: Batch
):
    """Carbon has a file per finite number, with its value and time, whatever the names."""
    now = int(time.time())
    batch = replace(batch, taken_at=now * 1_000_000_000 + 999_999_999)
    wanted = {file(reading, name, labels): value for reading, name, labels, value in finite(batch)}
    async with (
        carbon() as (server, directory),
        Graphite(address=f"127.0.0.1:{server.port}", format=form).open(opening()) as send,
    ):
        await send(batch)
        found = await stored(directory, len(wanted))
    assert found.keys() == wanted.keys()
    assert all(each == (now, wanted[name]) for name, each in found.items())


async def test_contract_with_a_server_that_comes_and_goes():
    """The sink keeps the contract while carbon is there, killed, or frozen."""
    async with carbon() as (server, _):
        await check_sink(
            lambda: Graphite(address=f"127.0.0.1:{server.port}"),
            moods={"later": server.away, "stuck": server.silent},
        )


class Receiver:
    """A server that keeps what it reads."""

    def __init__(self) -> None:
        self.text = b""
        self.done = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one connection to its end."""
        with suppress(ConnectionResetError):
            while piece := await reader.read(65536):
                self.text += piece
                self.done.set()
        writer.transport.abort()


async def test_a_line_of_each_format():
    """A line is what the documentation of the sink shows."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.take, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for sink in (
            Graphite(address=address, prefix="a.{host}_b"),
            Graphite(address=address, format="tagged"),
        ):
            receiver.done.clear()
            async with sink.open(opening()) as send:
                await send(make_batch(1))
                await receiver.done.wait()
    node, tag = word(platform.node()), word(platform.node(), IN_TAGS)
    plain_line = f"a.{node}_b.domain.vm-0.libvirt_domain_vcpu_exits_total.1 1000003003 1700000000"
    lines = receiver.text.decode("ascii").splitlines()
    assert plain_line in lines
    assert (
        f"libvirt_domain_vcpu_time_seconds_total;vcpu=0;domain=vm-0;host={tag}"
        " 1000003000e-9 1700000000"
    ) in lines


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"address": "127.0.0.1"}, "address: must be host:port"),
        ({"address": ":2003"}, "address: must be host:port"),
        ({"ca_file": "/etc/ca.pem"}, "ca_file: needs tls"),
        ({"tls": True, "key_file": "/etc/key.pem"}, "key_file: needs certificate_file"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], fault: str):
    """Options that cannot work are refused with the name of the option."""
    with pytest.raises(ValueError, match=fault):
        Graphite(**options)

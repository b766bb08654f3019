"""The Graphite sink, read back from carbon's files."""

import asyncio
import hashlib
import platform
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from support.expectations import finite
from support.servers import Server, free_port, needs, place, serving
from virtstatd.formats.words import word
from virtstatd.model import Batch, Labels, Reading
from virtstatd.sinks.graphite import IN_TAGS, Graphite
from virtstatd.testing import check_sink, hostile_batch, make_batch
from virtstatd.testing.contract import opening


pytestmark = needs("carbon-cache")

CONFIG = """
[cache]
STORAGE_DIR = {place}
LOCAL_DATA_DIR = {place}/whisper
LOG_DIR = {place}
PID_DIR = {place}
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
PICKLE_RECEIVER_PORT = 0
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {query_port}
MAX_UPDATES_PER_SECOND = inf
MAX_CREATES_PER_MINUTE = inf
CARBON_METRIC_INTERVAL = 0
WHISPER_FALLOCATE_CREATE = False
ENABLE_TAGS = False
"""
SCHEMAS = "[all]\npattern = .*\nretentions = 1s:120s\n"


@asynccontextmanager
async def carbon() -> AsyncIterator[tuple[Server, Path]]:
    """Run a carbon-cache, and yield it with the directory of its files."""
    with place() as directory:
        port = free_port()
        config = directory / "carbon.conf"
        config.write_text(CONFIG.format(place=directory, port=port, query_port=free_port()))
        (directory / "storage-schemas.conf").write_text(SCHEMAS)
        command = ["carbon-cache", f"--config={config}", "--nodaemon", "start"]
        async with serving(command, port) as server:
            yield server, directory / "whisper"


def newest(path: Path) -> tuple[int, float]:
    """Return the newest time and value of a whisper file, as its format is documented."""
    content = path.read_bytes()
    *_, archives = struct.unpack_from("!2LfL", content)
    assert archives == 1
    offset, _, points = struct.unpack_from("!3L", content, 16)
    return max(struct.unpack_from("!Ld", content, offset + 12 * each) for each in range(points))


def kept(directory: Path) -> dict[str, tuple[int, float]]:
    """Return the newest of every file by its path."""
    files = list(directory.rglob("*.wsp"))
    return {str(each.relative_to(directory)): newest(each) for each in files if whole(each)}


def whole(path: Path) -> bool:
    """Whether the file has its full length."""
    return path.stat().st_size == 28 + 12 * 120


async def stored(directory: Path, count: int) -> dict[str, tuple[int, float]]:
    """Return what is in every file once there are so many; a file is filled after it is made."""
    async with asyncio.timeout(60):
        while True:
            found = kept(directory)
            if len(found) >= count and all(moment for moment, _ in found.values()):
                return found
            await asyncio.sleep(0.1)


def plain(reading: Reading, name: str, labels: Labels) -> str:
    """Return the file that carbon keeps a plain path in."""

    def short(text: str) -> str:
        whole = word(text)
        return whole if len(whole) < 200 else f"{whole[:191]}~{zlib.crc32(whole.encode()):08x}"

    own = labels[len(reading.domain.labels) :] if reading.domain else labels
    where = ["domain", short(reading.domain.name)] if reading.domain else ["host"]
    words = [short(platform.node()), *where, name, *(short(text) for _, text in own)]
    return f"virtstatd/{'/'.join(words)}.wsp"


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

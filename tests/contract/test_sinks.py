"""Every sink that is installed keeps the contract."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.http_stub import answering
from support.servers import Moody, moved
from virtstatd.config.plugins import SINKS
from virtstatd.sink import Sink
from virtstatd.sinks.jsonl import Jsonl
from virtstatd.testing import check_sink


OPTIONS = {
    "influx": {"url": "http://will.be.replaced"},
    "influx_udp": {},
    "jsonl": {"target": "/dev/shm/will-be-replaced"},
    "null": {},
    "otlp": {"url": "http://will.be.replaced"},
    "prometheus": {"listen_address": "127.0.0.1:0"},
    "remote_write": {"url": "http://will.be.replaced"},
}
"""What each sink needs to run in a test."""


def test_every_installed_sink_is_checked():
    """A sink that is added without a line in this file, or a file of its own, is noticed."""
    here = Path(__file__).parent
    elsewhere = {name for name in SINKS.names() if (here / f"test_{name}.py").exists()}
    assert set(SINKS.names()) == set(OPTIONS) | elsewhere


@pytest.mark.parametrize("name", sorted(OPTIONS))
async def test_contract(name: str, tmp_path: Path):
    """An installed sink keeps every promise that needs no fault of its destination."""
    options = dict(OPTIONS[name])
    if name == "jsonl":
        options["target"] = str(tmp_path / "out")
    cls = SINKS.find(name)
    async with answering() as stub:
        if "url" in options:
            options["url"] = stub.url
        await check_sink(lambda: cls(**options))


class Listener(Moody):
    """A socket in the file system whose listener has moods."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self.speaking: asyncio.Event = asyncio.Event()
        self.speaking.set()
        self.server: asyncio.Server | None = None
        self.writers: set[asyncio.StreamWriter] = set()
        self.reads: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self.server = await asyncio.start_unix_server(self._accept, self.path)

    async def stop(self) -> None:
        """Listen no more, and cut all connections."""
        assert self.server
        self.server.close()
        self.path.unlink(missing_ok=True)
        for writer in self.writers:
            writer.transport.abort()
        for task in self.reads:
            task.cancel()
        if self.reads:
            await asyncio.wait(self.reads)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        task = asyncio.create_task(self._read(reader, writer))
        self.reads.add(task)
        task.add_done_callback(self.reads.discard)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self.speaking.wait()
                if not (piece := await reader.read(65536)):
                    return
                self.lines += piece.count(b"\n")
        except ConnectionResetError:
            pass
        finally:
            self.writers.discard(writer)
            writer.transport.abort()

    @asynccontextmanager
    async def flapping(self) -> AsyncIterator[None]:
        """Listen and be gone by turns."""
        calm = asyncio.Event()

        async def flap() -> None:
            while not calm.is_set():
                await asyncio.sleep(0)
                async with self.away():
                    await asyncio.sleep(0)

        task = asyncio.create_task(flap())
        try:
            yield
        finally:
            calm.set()
            await task


async def test_contract_of_jsonl_through_a_socket(tmp_path: Path):
    """Through a socket, JSON lines keep the contract whatever their reader does."""
    listener = Listener(tmp_path / "socket")
    await listener.start()
    try:
        await check_sink(
            lambda: Jsonl(target=f"unix:{listener.path}"),
            moods={
                "later": listener.away,
                "random": listener.flapping,
                "stuck": listener.silent,
            },
        )
    finally:
        await listener.stop()
    assert listener.lines > 0


@pytest.mark.parametrize("name", sorted(name for name in OPTIONS if "url" in OPTIONS[name]))
async def test_contract_of_pushing(name: str):
    """A sink that pushes by HTTP keeps the contract whatever its server does."""
    cls: Callable[..., Sink] = SINKS.find(name)
    async with answering() as stub:
        await check_sink(lambda: cls(url=stub.url), moods=stub.moods, received=stub.count)


async def test_contract_of_jsonl_into_a_file(tmp_path: Path):
    """Into a file, JSON lines keep the contract when its directory comes and goes."""
    place = tmp_path / "place"
    place.mkdir()

    async def size() -> int:
        return sum(len(each.read_bytes()) for each in place.iterdir())

    await check_sink(
        lambda: Jsonl(target=str(place / "out")),
        moods={"random": lambda: moved(place)},
        received=size,
    )
    assert await size() > 0

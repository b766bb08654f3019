"""The textfile sink, read by node_exporter."""

import asyncio
import math
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from support.expectations import numbers
from support.node_exporter import collected, key_of
from support.ports import free_port
from support.servers import moved, needs, serving
from virtstatd.errors import StartError
from virtstatd.model import Batch
from virtstatd.runtime.worker import Worker
from virtstatd.serving.latest import Latest
from virtstatd.sinks.textfile import HANG_SECONDS, Outdated, PageFile, PageWriter, Textfile
from virtstatd.testing import FakeClock, check_sink, hostile_batch, make_batch, settle
from virtstatd.testing.contract import opening


INTERVAL = 15.0


class Written:
    """A file and its writer under a clock in the test's hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.latest = Latest(self.clock, lambda: int(self.clock() * 1e9))
        self.log = structlog.testing.CapturingLogger()
        self.file = PageFile(path, Worker("textfile"), self.clock)
        self.writer = PageWriter(self.latest, self.file, self.log, INTERVAL, self._sleep)
        self._rests = asyncio.Event()

    async def _sleep(self, seconds: float) -> None:
        self._rests.set()
        await self.clock.sleep(seconds)

    async def advance(self, seconds: float) -> None:
        """Let time pass, and what is due then be written."""
        self._rests.clear()
        await self.clock.advance(seconds)
        async with asyncio.timeout(100):
            await self._rests.wait()

    async def put(self, batch: Batch) -> None:
        """Let a batch arrive as soon as it was taken."""
        self.latest.put(replace(batch, taken_at=int(self.clock() * 1e9), lifetime_seconds=40.0))
        self.writer.begin()
        await settle()

    def events(self) -> list[str]:
        """Return what was logged."""
        return [str(call.args[0]) for call in self.log.calls]

    def mark(self) -> tuple[int, int]:
        """Return what changes with every write."""
        found = self.path.stat()
        return found.st_ino, found.st_mtime_ns


@asynccontextmanager
async def written(path: Path) -> AsyncIterator[Written]:
    """Run a writer."""
    it = Written(path)
    running = asyncio.create_task(it.writer.run())
    try:
        yield it
    finally:
        running.cancel()
        await asyncio.wait([running])
        await it.file.close()


def names(directory: Path) -> list[str]:
    """Return what is in a directory."""
    return [each.name for each in directory.iterdir()]


def of_guests(batch: Batch) -> Batch:
    """Leave out the host's own: to a collector an empty label and none are the same."""
    return Batch(batch.source, 0, tuple(each for each in batch.readings if each.domain))


@needs("prometheus-node-exporter")
@pytest.mark.parametrize("batch", [make_batch(3), hostile_batch()], ids=["plain", "hostile"])
async def test_node_exporter_shows_every_number(tmp_path: Path, batch: Batch):
    """Node_exporter shows every number and label as it was, and forgets guests that are gone."""
    batch = of_guests(batch)
    port = free_port()
    command = [
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={tmp_path}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with serving(command, port), written(tmp_path / "v.prom") as it:
        await it.put(batch)
        await it.advance(1)
        found = await collected(port)
        wanted = {key_of(name, labels): value for _, name, labels, value in numbers(batch)}
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert found[key] == value or (math.isnan(found[key]) and math.isnan(value))
        guests = tuple({each.domain for each in batch.readings if each.domain})
        await it.put(Batch("bulk", 0, (), gone=guests))
        await it.advance(INTERVAL)
        assert await collected(port) == {}


async def test_contract(tmp_path: Path):
    """The sink keeps the contract, and leaves no file behind."""
    sink = Textfile(path=str(tmp_path / "v.prom"))
    await check_sink(lambda: sink, moods={"random": lambda: moved(tmp_path)})
    assert names(tmp_path) == []


async def test_sending_never_waits_for_the_disk(tmp_path: Path):
    """A batch is taken without a look at the file system, which is asked at the interval only."""
    async with Textfile(path=str(tmp_path / "v.prom")).open(opening()) as send, moved(tmp_path):
        for base in range(100):
            await send(make_batch(1, base=base))


async def test_many_batches_are_one_write(tmp_path: Path):
    """The file is written once per interval at most, and only where something has changed."""
    async with written(tmp_path / "v.prom") as it:
        marks = set()
        await it.put(make_batch(1))
        await it.advance(1)
        for interval in range(3):
            marks.add(it.mark())
            for third in range(3):
                await it.put(make_batch(1, base=10 * interval + third))
                await it.clock.advance(4)
                marks.add(it.mark())
            await it.advance(INTERVAL - 12)
        assert len(marks) == 3
        last = it.mark()
        await it.advance(INTERVAL)
        assert it.mark() == last
        assert stat.S_IMODE(it.path.stat().st_mode) == 0o644


async def test_a_directory_that_comes_and_goes(tmp_path: Path):
    """A write that fails is reported once and tried again at each interval, until it succeeds."""
    directory = tmp_path / "collector"
    directory.mkdir()
    async with written(directory / "v.prom") as it:
        async with moved(directory):
            await it.put(make_batch(1))
            await it.advance(1)
            await it.advance(INTERVAL)
            assert it.events() == ["sink.failing"]
            assert "No such file" in it.log.calls[0].kwargs["reason"]
        await it.advance(INTERVAL)
        assert it.events() == ["sink.failing", "sink.recovered"]
        assert names(directory) == ["v.prom"]
    assert names(directory) == []


async def test_numbers_whose_lifetime_has_ended_leave_the_file(tmp_path: Path):
    """Where nothing arrives any more the file is emptied, without a batch to say so."""
    async with written(tmp_path / "v.prom") as it:
        await it.put(make_batch(1))
        await it.advance(1)
        assert it.path.stat().st_size
        for _ in range(3):
            await it.advance(INTERVAL)
        assert not it.path.stat().st_size


async def test_after_a_disk_that_hung_nothing_old_is_shown(tmp_path: Path):
    """A page that was made before the disk hung never gets its place; the next one does."""
    clock = FakeClock()
    hung = threading.Event()
    file = PageFile(tmp_path / "v.prom", Worker("textfile"), clock)

    def parts() -> Iterator[bytes]:
        yield b"old 1\n"
        hung.wait(100)

    try:
        writing = file.replace(parts())
        await clock.advance(HANG_SECONDS)
        hung.set()
        with pytest.raises(Outdated):
            await writing
        assert names(tmp_path) == []
        await file.replace([b"new 1\n"])
        assert file.path.read_bytes() == b"new 1\n"
    finally:
        hung.set()
        await file.close()


async def test_a_page_that_cannot_be_rendered_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A fault while a page is made is reported, and the next page is made all the same."""
    async with written(tmp_path / "v.prom") as it:
        put: Callable[[], object] = it.latest.together
        monkeypatch.setattr(it.latest, "together", lambda: 1 / 0)
        await it.put(make_batch(1))
        await it.advance(1)
        assert it.events() == ["sink.failing"]
        monkeypatch.setattr(it.latest, "together", put)
        await it.advance(INTERVAL)
        assert it.events() == ["sink.failing", "sink.recovered"]


async def test_readers_never_see_half_a_page(tmp_path: Path):
    """A reader that opened the file before a new page reads the old one to its end."""
    file = PageFile(tmp_path / "v.prom", Worker("textfile"))
    try:
        await file.replace([b"a 1\n" * 50_000])
        with file.path.open("rb") as reader:
            start = reader.read(10)
            await file.replace([b"b 1\n"])
            assert start + reader.read() == b"a 1\n" * 50_000
        assert file.path.read_bytes() == b"b 1\n"
    finally:
        await file.close()


async def test_a_link_in_place_of_the_draft_is_not_followed(tmp_path: Path):
    """What a link at the name of the draft leads to is not written."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".v.prom.new").symlink_to(victim)
    file = PageFile(tmp_path / "v.prom", Worker("textfile"))
    try:
        with pytest.raises(OSError, match=os.strerror(40)):
            await file.replace([b"a 1\n"])
        await file.replace([b"a 1\n"])
    finally:
        await file.close()
    assert victim.read_text() == "mine"


async def test_a_directory_that_is_not_there_is_reported_at_the_start(tmp_path: Path):
    """Without its directory the sink does not open, and says what to create."""
    with pytest.raises(StartError, match=r"create .*nowhere"):
        async with Textfile(path=str(tmp_path / "nowhere" / "v.prom")).open(opening()):
            pass


@pytest.mark.parametrize("path", ["v.prom", "/tmp/v.txt", "", "/tmp/\0.prom"])
def test_paths_that_no_collector_reads(path: str):
    """A path that is not absolute, or that no collector reads, is refused."""
    with pytest.raises(ValueError, match=r"path: must be absolute and end in \.prom"):
        Textfile(path=path)

"""Where JSON lines go: files that rotate, sockets that come and go, readers that block."""

import asyncio
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from virtstatd.errors import Rejected, StartError, TryLater
from virtstatd.model import Batch
from virtstatd.sink import Opening, Send
from virtstatd.sinks.jsonl import Jsonl, _Threaded
from virtstatd.testing import make_batch, settle


@asynccontextmanager
async def opened(target: object, **options: Any) -> AsyncIterator[Send]:
    """Open a sink for a target."""
    log = structlog.testing.CapturingLogger()
    async with Jsonl(target=str(target), **options).open(Opening("jsonl", log)) as send:
        yield send


def batches(count: int) -> list[Batch]:
    """Return batches that can be told apart by their time."""
    return [make_batch(1, taken_at=number * 10**9) for number in range(count)]


def times(*texts: str) -> list[str]:
    """Return the seconds of all lines, each of which must be an object."""
    return [json.loads(line)["time"][17:19] for text in texts for line in text.splitlines()]


def names_in(directory: Path) -> list[str]:
    """Return the names of the files in a directory."""
    return sorted(each.name for each in directory.iterdir())


LINES = 9  # of one guest


async def test_a_file_gets_whole_lines(tmp_path: Path):
    """Every batch is appended to the file, and a second run goes on where the first ended."""
    target = tmp_path / "out.jsonl"
    for _ in range(2):
        async with opened(target) as send:
            for batch in batches(3):
                await send(batch)
    found = times(target.read_text())
    assert found == [each for each in ("00", "01", "02") for _ in range(LINES)] * 2
    assert stat.S_IMODE(target.stat().st_mode) & 0o007 == 0


async def test_rotation_loses_no_line(tmp_path: Path):
    """A file is rotated before it grows too long; the newest are kept, in order, complete."""
    target = tmp_path / "out.jsonl"
    async with opened(target, rotate_bytes=5000, rotate_keep=3) as send:
        for batch in batches(12):
            await send(batch)
    files = [target.with_name(f"out.jsonl.{number}") for number in (3, 2, 1)] + [target]
    assert names_in(tmp_path) == sorted(each.name for each in files)
    assert all(each.stat().st_size <= 5000 for each in files)
    found = times(*(each.read_text() for each in files))
    last = [f"{number:02}" for number in range(12) for _ in range(LINES)]
    assert len(found) > 4 * LINES
    assert found == last[-len(found) :]


async def test_a_file_is_never_rotated_with_zero(tmp_path: Path):
    """With `rotate_bytes` of 0 there is one file."""
    async with opened(tmp_path / "out", rotate_bytes=0) as send:
        for batch in batches(5):
            await send(batch)
    assert names_in(tmp_path) == ["out"]


async def test_a_file_that_cannot_be_rotated_goes_on(tmp_path: Path):
    """Where renaming fails the file grows; no line is lost."""
    target = tmp_path / "out"
    (tmp_path / "out.1").mkdir()
    async with opened(target, rotate_bytes=5000, rotate_keep=1) as send:
        for batch in batches(5):
            await send(batch)
    assert len(times(target.read_text())) == 5 * LINES


async def test_a_file_renamed_by_others_is_begun_anew(tmp_path: Path):
    """What logrotate renames stays whole, and the next batch begins a new file."""
    target = tmp_path / "out"
    first, second, third = batches(3)
    async with opened(target) as send:
        await send(first)
        target.rename(tmp_path / "old")
        await send(second)
        target.unlink()
        await send(third)
    assert set(times((tmp_path / "old").read_text())) == {"00"}
    assert set(times(target.read_text())) == {"02"}


async def test_a_torn_line_spoils_no_other(tmp_path: Path):
    """The half line of an agent that was killed is ended before the next one begins."""
    target = tmp_path / "out"
    target.write_text('{"half')
    async with opened(target) as send:
        await send(batches(1)[0])
    assert len(times(target.read_text().removeprefix('{"half\n'))) == LINES


async def test_a_full_disk_leaves_no_half_batch(tmp_path: Path):
    """A write that fails in the middle is taken back, and succeeds when there is room."""
    target = tmp_path / "out"
    first, second = batches(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with opened(target) as send:
        await send(first)
        size = target.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            for _ in range(2):
                with pytest.raises(TryLater, match="too large"):
                    await send(second)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert target.stat().st_size == size
        await send(second)
    assert len(times(target.read_text())) == 2 * LINES


async def test_a_directory_that_went_is_for_later(tmp_path: Path):
    """When the file's directory is gone the batch is kept for later, and goes when it is back."""
    (tmp_path / "in").mkdir()
    target = tmp_path / "in" / "out"
    async with opened(target) as send:
        (tmp_path / "in").rename(tmp_path / "away")
        with pytest.raises(TryLater, match="No such file"):
            await send(batches(1)[0])
        (tmp_path / "in").mkdir()
        await send(batches(1)[0])
    assert len(times(target.read_text())) == LINES


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing/out", r"No such file or directory; create the directory .*/missing$"),
        (".", r"Is a directory; choose another target$"),
        ("pipe", r"not a regular file; choose another target$"),
    ],
)
async def test_a_file_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, name: str, sentence: str
):
    """What keeps a file from being opened is said in one sentence with the fix."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartError, match=f"cannot write {tmp_path}.*: {sentence}"):
        async with opened(tmp_path / name):
            pass


@pytest.mark.parametrize("target", ["", "stout", "out.jsonl", "unix:", "unix:x", "/a\0b"])
def test_targets_that_are_none(target: str):
    """What is neither stdout nor a path is refused when the sink is configured."""
    with pytest.raises(ValueError, match=r"^target: must be stdout, an absolute path"):
        Jsonl(target=target)


class Reader:
    """Somebody who listens at a socket and notes the lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received = b""
        self.connections: list[asyncio.StreamWriter] = []
        self.came = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen for a while."""
        server = await asyncio.start_unix_server(self._read, self.path)
        try:
            yield
        finally:
            server.close()
            for writer in self.connections:
                writer.transport.abort()
            self.connections.clear()
            self.path.unlink(missing_ok=True)
            await settle()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        while piece := await reader.read(65536):
            self.received += piece
            self.came.set()
        writer.close()

    async def wait_for(self, lines: int) -> None:
        """Wait until so many lines have come."""
        async with asyncio.timeout(100):
            while self.received.count(b"\n") < lines:
                self.came.clear()
                await self.came.wait()


async def test_a_socket_is_connected_again(tmp_path: Path):
    """Without a listener a batch is for later; when one is back the lines go on."""
    reader = Reader(tmp_path / "socket")
    first, second, third = batches(3)
    async with opened(f"unix:{reader.path}") as send:
        with pytest.raises(TryLater, match="No such file"):
            await send(first)
        async with reader.listening():
            await send(first)
            await reader.wait_for(LINES)
        with pytest.raises(TryLater):
            await send(second)
        async with reader.listening():
            await send(second)
            await send(third)
            await reader.wait_for(3 * LINES)
    assert times(reader.received.decode()) == [
        each for each in ("00", "01", "02") for _ in range(LINES)
    ]


async def test_a_reader_that_stops_is_waited_for_and_then_left(tmp_path: Path):
    """A reader that does not read holds the batch; a cancelled one is sent anew, whole."""
    path = tmp_path / "socket"
    stuck: list[asyncio.StreamWriter] = []

    def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        stuck.append(writer)

    large = make_batch(3000)
    async with opened(f"unix:{path}") as send:
        server = await asyncio.start_unix_server(ignore, path)
        sending = asyncio.ensure_future(send(large))
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done
        sending.cancel()
        await asyncio.wait([sending])
        server.close()
        for writer in stuck:
            writer.transport.abort()
        path.unlink(missing_ok=True)
        reader = Reader(path)
        async with reader.listening():
            await send(large)
            await reader.wait_for(3000 * LINES)
    assert len(times(reader.received.decode())) == 3000 * LINES


class Blocked:
    """An output that stays in `write` until it is let go, and may fail then."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.fault = fault
        self.written: list[bytes] = []
        self.closed = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Block, then take or fail."""
        self.entered.release()
        self.go.wait(20)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        self.written.append(b"".join(pieces))

    def close(self) -> None:
        """Count."""
        self.closed += 1


async def cancelled_in(output: Blocked, threaded: _Threaded, batch: Batch) -> None:
    """Send a batch and give up waiting while it is being written."""
    sending = asyncio.create_task(threaded.send(batch))
    await settle()
    assert output.entered.acquire(timeout=100)
    sending.cancel()
    await asyncio.wait([sending])
    assert sending.cancelled()


async def test_a_write_that_was_not_waited_for_is_not_repeated():
    """A batch that was written after its sender gave up is not written again."""
    output = Blocked()
    threaded = _Threaded(output, "t", "")
    first, second = batches(2)
    await cancelled_in(output, threaded, first)
    output.go.set()
    await threaded.send(first)
    await threaded.send(second)
    await threaded.close()
    assert [times(each.decode())[0] for each in output.written] == ["00", "01"]
    assert output.closed == 1


async def test_a_write_that_failed_unseen_is_repeated():
    """A batch whose write failed after its sender gave up is written by the next attempt."""
    output = Blocked(TryLater("full"))
    threaded = _Threaded(output, "t", "")
    (first,) = batches(1)
    await cancelled_in(output, threaded, first)
    output.go.set()
    await threaded.send(first)
    await threaded.close()
    assert len(output.written) == 1


async def test_a_stuck_write_is_the_only_one():
    """While one write is stuck no other is queued behind it, however many are tried."""
    output = Blocked()
    threaded = _Threaded(output, "t", "")
    await cancelled_in(output, threaded, make_batch(1))
    for batch in batches(5):
        sending = asyncio.create_task(threaded.send(batch))
        await settle()
        sending.cancel()
        await asyncio.wait([sending])
    assert threaded._worker._calls.qsize() == 0
    output.go.set()
    await threaded.send(make_batch(1))
    await threaded.close()
    assert len(output.written) == 2


SCRIPT = """
import asyncio, structlog, sys
from virtstatd.sink import Opening
from virtstatd.sinks.jsonl import Jsonl
from virtstatd.testing import make_batch
async def main():
    async with Jsonl().open(Opening("jsonl", structlog.testing.CapturingLogger())) as send:
        try:
            async with asyncio.timeout(float(sys.argv[1])):
                await send(make_batch(int(sys.argv[2])))
        except BaseException as error:
            print(type(error).__name__, file=sys.stderr)
asyncio.run(main())
"""


def test_standard_output_gets_lines():
    """Lines go to standard output, all of them."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, "20", "100"], capture_output=True, text=True, check=True
    )
    assert len(times(result.stdout)) == 100 * LINES
    assert result.stderr == ""


def test_a_blocked_standard_output_blocks_neither_loop_nor_end():
    """With a pipe that nobody reads the deadline still comes, and the process ends."""
    reading, writing = os.pipe()
    try:
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, "0.2", "3000"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert result.stderr.split() == ["TimeoutError"]


def test_a_reader_that_is_gone_rejects():
    """What a closed pipe does not take will never be taken."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, "20", "1"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        os.close(writing)
    assert result.stderr.split() == [Rejected.__name__]

"""The log: readable where a person reads, exact where a program does, and never in the way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import threading
import warnings
from collections.abc import Iterator
from typing import NoReturn

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from virtstatd.runtime import logs


HOSTILE = "a\x1b[2J\r\n\x07\u202egpj.\u2028\x9b31m\ud800\N{PILE OF POO}\"'= \\"


class Pipe:
    """A pipe whose reader reads only when told to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fill(self) -> int:
        """Fill the pipe until it blocks, and return the bytes."""
        os.set_blocking(self.writing, False)
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += os.write(self.writing, b"x" * 4096)
        with contextlib.suppress(BlockingIOError):
            while True:
                size += os.write(self.writing, b"x")
        os.set_blocking(self.writing, True)
        return size

    def read_all(self) -> bytes:
        """Read what is there now."""
        parts = b""
        while select.select([self.reading], [], [], 0)[0]:
            part = os.read(self.reading, 1 << 16)
            if not part:
                break
            parts += part
        return parts


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Give a pipe as standard error."""
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reading, pipe.writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_a_program_reads_json_lines(pipe: Pipe) -> None:
    """Off a terminal each entry is one line of JSON with time, level, event and its fields."""
    with logs.opened("info", "auto", pipe.writing) as opened:
        opened.log.bind(sink="a").warning("libvirt.lost", uri="qemu:///system", tries=3)
        opened.log.debug("not.shown")
    lines = pipe.read_all().decode("ascii").splitlines()
    entry = json.loads(lines[0])
    assert len(lines) == 1
    assert list(entry)[:3] == ["timestamp", "level", "event"]
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "level": "warning",
        "event": "libvirt.lost",
        "sink": "a",
        "uri": "qemu:///system",
        "tries": 3,
    }


def test_json_is_exact_and_carries_no_control_character(pipe: Pipe) -> None:
    """A hostile name comes back exactly from JSON that holds nothing but printable ASCII."""
    with logs.opened("info", "json", pipe.writing) as opened:
        opened.log.info("domain.seen", domain=HOSTILE, names=[HOSTILE], by={HOSTILE: 1})
    line = pipe.read_all().decode("ascii").removesuffix("\n")
    assert line.isprintable()
    entry = json.loads(line)
    assert entry["domain"] == HOSTILE
    assert entry["names"] == [HOSTILE]
    assert entry["by"] == {HOSTILE: 1}


@pytest.mark.parametrize("form", ["auto", "console"])
def test_a_terminal_is_never_steered_by_a_value(form: logs.Format) -> None:
    """On a terminal every control or bidirectional character of a value is a visible escape."""
    controller, terminal = os.openpty()
    try:
        with logs.opened("info", form, terminal) as opened:
            opened.log.info("domain.seen", domain=HOSTILE, odd=[HOSTILE])
            try:
                _fail(HOSTILE)
            except ValueError:
                opened.log.exception("sink.failed")
            logging.getLogger("aiohttp").error("%s", HOSTILE)
        raw = b""
        while b"library.logged" not in raw or not raw.endswith(b"\r\n"):
            raw += os.read(controller, 1 << 16)  # a terminal hands over in pieces
        written = raw.decode()
    finally:
        os.close(controller)
        os.close(terminal)
    assert "domain.seen" in written
    assert "ValueError" in written
    for colour in logs._COLOURS.values():
        written = written.replace(f"\x1b[{colour}m", "")
    written = written.replace("\x1b[0m", "")
    assert all(line.isprintable() for line in written.split("\r\n"))
    assert "\\x1b[2J" in written
    assert "\\u202e" in written


@given(st.text())
def test_printable_text_is_left_alone_and_all_text_becomes_printable(text: str) -> None:
    """Whatever the text, its rendering is printable, and printable text is not touched."""
    assert logs.printable(text).isprintable()
    if text.isprintable():
        assert logs.printable(text) == text


def test_a_value_with_blanks_cannot_pose_as_fields(pipe: Pipe) -> None:
    """A domain called `x level=error` is quoted, so it stays one value."""
    with logs.opened("info", "console", pipe.writing) as opened:
        opened.log.info("domain.seen", domain='x level="error"', empty="")
    assert pipe.read_all().decode().endswith(' domain="x level=\\"error\\"" empty=""\n')


def test_a_reader_that_stopped_costs_lines_and_never_time(pipe: Pipe) -> None:
    """With standard error blocked, logging returns, and afterwards the missing lines are told."""
    filler = pipe.fill()
    offered = 20_000
    with logs.opened("info", "json", pipe.writing) as opened:
        for number in range(offered):
            opened.log.info("line.offered", number=number, text="x" * 200)
        assert opened.dropped > 0
        received = bytearray()
        reader = threading.Thread(target=_read_to_end, args=(pipe.reading, received))
        reader.start()
        opened.writer.close(seconds=60)
        dropped = opened.dropped
    os.close(pipe.writing)
    reader.join()
    entries = [json.loads(line) for line in bytes(received[filler:]).splitlines()]
    numbers = [entry["number"] for entry in entries if entry["event"] == "line.offered"]
    told = sum(entry["lines"] for entry in entries if entry["event"] == "log.dropped")
    assert numbers == list(range(len(numbers)))
    assert len(numbers) + dropped == offered
    assert told == dropped


def test_missing_lines_are_told_where_they_are_missing(pipe: Pipe) -> None:
    """The count of dropped lines stands between the lines around the gap."""
    filler = pipe.fill()
    writer = logs.LineWriter(pipe.writing, lambda lines: f"{lines} missing", waiting_bytes=100)
    writer.write("before")
    writer.write("x" * 100)
    writer.write("y" * 100)
    writer.write("after")
    received = bytearray()
    reader = threading.Thread(target=_read_to_end, args=(pipe.reading, received))
    reader.start()
    writer.close(seconds=60)
    os.close(pipe.writing)
    reader.join()
    assert bytes(received[filler:]) == b"before\n2 missing\nafter\n"
    assert writer.dropped == 2


def _fail(message: str) -> NoReturn:
    raise ValueError(message)


def _read_to_end(descriptor: int, into: bytearray) -> None:
    while part := os.read(descriptor, 1 << 16):
        into += part


def test_a_reader_that_never_returns_does_not_keep_the_agent(pipe: Pipe) -> None:
    """Closing a log whose descriptor stays blocked gives up after its bound."""
    pipe.fill()
    writer = logs.LineWriter(pipe.writing, lambda lines: f"{lines} dropped")
    writer.write("never read")
    writer.close(seconds=0.05)
    assert writer._thread.is_alive()
    pipe.read_all()
    writer._thread.join(100)
    assert not writer._thread.is_alive()


def test_a_reader_that_left_is_counted_and_not_an_error(pipe: Pipe) -> None:
    """Lines to a closed pipe are counted as dropped; nothing is raised."""
    os.close(pipe.reading)
    with logs.opened("info", "json", pipe.writing) as opened:
        for _ in range(3):
            opened.log.info("line.offered")
    assert opened.dropped == 3


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    """On a descriptor that another process made non-blocking, no line is torn or lost."""
    os.set_blocking(pipe.writing, False)
    received = bytearray()
    reader = threading.Thread(target=_read_to_end, args=(pipe.reading, received))
    with logs.opened("info", "json", pipe.writing) as opened:
        for number in range(2000):
            opened.log.info("line.offered", number=number, text="x" * 100)
        reader.start()
    os.close(pipe.writing)
    reader.join()
    numbers = [json.loads(line)["number"] for line in bytes(received).splitlines()]
    assert numbers == list(range(2000))


def test_libraries_are_heard_from_warning_up(pipe: Pipe) -> None:
    """What asyncio and aiohttp log as a warning or an error comes with the logger's name."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with logs.opened("debug", "json", pipe.writing):
        logging.getLogger("asyncio").info("nobody needs this")
        logging.getLogger("asyncio").warning("Executing %s took %d s", "x", 3)
        # handed over directly, for pytest's own handlers refuse such a record
        record = logging.LogRecord("aiohttp", logging.ERROR, "", 0, "broken %d", ("x",), None)
        root.handlers[-1].handle(record)
        try:
            _fail("k")
        except ValueError:
            logging.getLogger("aiohttp.server").exception("Error handling request")
    entries = [json.loads(line) for line in pipe.read_all().splitlines()]
    assert [(each["level"], each["logger"], each["message"]) for each in entries] == [
        ("warning", "asyncio", "Executing x took 3 s"),
        ("error", "aiohttp", "broken %d"),
        ("error", "aiohttp.server", "Error handling request"),
    ]
    assert "ValueError: k" in entries[2]["exception"]
    assert (root.level, list(root.handlers)) == before


def test_nothing_global_is_configured(pipe: Pipe) -> None:
    """Opening the log leaves structlog's own configuration as it was."""
    before = structlog.is_configured(), dict(structlog.get_config())
    with warnings.catch_warnings(), logs.opened("info", "json", pipe.writing):
        assert (structlog.is_configured(), dict(structlog.get_config())) == before


class Broken:
    """An object whose representation fails."""

    def __repr__(self) -> str:
        """Fail."""
        raise RuntimeError("broken")


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_value_can_break_the_log(pipe: Pipe, form: logs.Format) -> None:
    """Numbers that are none, sets, bytes and broken objects come out as something readable."""
    with logs.opened("info", form, pipe.writing) as opened:
        opened.log.info("x.seen", a=float("nan"), b={1}, c=b"\xff", d=Broken(), e=None, f=1e400)
    line = pipe.read_all().decode()
    assert "<Broken>" in line
    if form == "json":
        assert json.loads(line, parse_constant=pytest.fail)["a"] == "nan"


def test_the_journal_learns_the_priority(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the journal's own stream each line begins with the priority that sd-daemon(3) defines."""
    status = os.fstat(pipe.writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with logs.opened("info", "auto", pipe.writing) as opened:
        opened.log.error("sink.failed")
        opened.log.info("sink.opened")
    lines = pipe.read_all().decode().splitlines()
    assert [line[:3] for line in lines] == ["<3>", "<6>"]
    assert json.loads(lines[0][3:])["event"] == "sink.failed"

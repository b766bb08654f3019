"""
The log on standard error: JSON lines for the journal, readable lines on a terminal.

Lines are written by a thread of its own. When standard error blocks (a pipe without a reader, a
terminal that is stopped), lines are queued up to a limit, then new ones are dropped and counted:
the oldest show how a fault began. When there is room again, one line reports how many are missing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor


Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

WAITING_BYTES: Final = 1 << 20
CLOSING_SECONDS: Final = 1.0
STANDARD_ERROR: Final = 2

# syslog(3)'s priorities and the colours of a terminal
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_COLOURS: Final = {"debug": 2, "info": 32, "warning": 33, "error": 31, "critical": 31}


class LineWriter:
    """Write lines to a descriptor without making the caller wait."""

    def __init__(
        self, descriptor: int, notice: Callable[[int], str], waiting_bytes: int = WAITING_BYTES
    ) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._notice = notice
        self._room = waiting_bytes
        self._untold = 0
        self._closing = False
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Put a line into the queue, or count it when the queue is full."""
        encoded = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._closing or len(encoded) > self._room:
                self.dropped += 1
                self._untold += 1
                return
            self._tell()
            self._append(encoded)
            self._changed.notify()

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """Write what waits, for `seconds` at most: the descriptor may block without end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._untold and not self._closing:
                    self._changed.wait()
                if not self._lines:
                    self._tell()
                if not self._lines:
                    return
                line = self._lines.popleft()
            written = self._write(line)
            with self._changed:
                self._room += len(line)
                self.dropped += not written

    def _tell(self) -> None:
        if self._untold:
            self._append(self._notice(self._untold).encode() + b"\n")
            self._untold = 0

    def _append(self, line: bytes) -> None:
        self._room -= len(line)
        self._lines.append(line)

    def _write(self, line: bytes) -> bool:
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process made the shared terminal non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Logs:
    """An open log: its logger, and how many of its lines were lost."""

    log: FilteringBoundLogger
    writer: LineWriter

    @property
    def dropped(self) -> int:
        """Lines that were not written since the start."""
        return self.writer.dropped


@contextmanager
def opened(
    level: Level = "info", form: Format = "auto", descriptor: int = STANDARD_ERROR
) -> Iterator[Logs]:
    """
    Open the log, route the standard library's warnings into it, and empty it at the end.

    Structlog's global configuration is not changed; code that logs is passed the logger.
    """
    terminal = os.isatty(descriptor)
    render: Processor = _json
    if form == "console" or (form == "auto" and terminal):
        render = _coloured if terminal and "NO_COLOR" not in os.environ else _console
    elif _is_journal(descriptor):
        render = _journal
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)

    def notice(lines: int) -> str:
        event: EventDict = {"event": "log.dropped", "level": "warning", "lines": lines}
        return str(render(None, "warning", stamp(None, "warning", event)))

    writer = LineWriter(descriptor, notice)
    log: FilteringBoundLogger = structlog.wrap_logger(
        _Lines(writer),
        processors=[
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            cast("int", getattr(logging, level.upper()))
        ),
    ).bind()
    libraries = _Libraries(log)
    root = logging.getLogger()
    level_before = root.level
    root.addHandler(libraries)
    root.setLevel(logging.WARNING)
    try:
        yield Logs(log, writer)
    finally:
        root.removeHandler(libraries)
        root.setLevel(level_before)
        writer.close()


class _Lines:
    """The logger that structlog calls with a finished line, by the name of the level."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _Libraries(logging.Handler):
    """Passes what libraries log to the agent's own log."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the library's format and arguments may not agree
            message = str(record.msg)
        write = self._log.warning if record.levelno < logging.ERROR else self._log.error
        write("library.logged", logger=record.name, message=message, exc_info=record.exc_info)


def _json(_: object, __: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    # ASCII: no control or bidirectional character of a domain's name is written raw
    return json.dumps({**first, **{key: _plain(value) for key, value in event.items()}})


def _journal(logger: object, method: str, event: EventDict) -> str:
    priority = _PRIORITIES.get(str(event.get("level")), 6)  # sd-daemon(3) takes it off again
    return f"<{priority}>{_json(logger, method, event)}"


def _console(_: object, __: str, event: EventDict) -> str:
    start = f"{event.pop('timestamp')} {event.pop('level'):<8} {printable(str(event.pop('event')))}"
    trace = "".join(f"\n{printable(line)}" for line in event.pop("exception", "").splitlines())
    fields = (f" {key}={_quoted(value)}" for key, value in event.items())
    return f"{start}{''.join(fields)}{trace}"


def _coloured(logger: object, method: str, event: EventDict) -> str:
    colour = _COLOURS.get(str(event.get("level")), 0)
    stamp, level, rest = _console(logger, method, event).split(" ", 2)
    return f"{stamp} \x1b[{colour}m{level}\x1b[0m {rest}"


def printable(text: str) -> str:
    """Replace characters that control a terminal or the text direction by visible escapes."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _quoted(value: object) -> str:
    text = printable(value if isinstance(value, str) else _repr(value))
    if text and not any(each in text for each in " =\"'"):
        return text
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text


def _plain(value: object) -> object:
    """Convert any value to JSON."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(each) for each in value]
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case _:
            return _repr(value)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a log line about a broken object must not break its writer
        return f"<{type(value).__name__}>"


def _is_journal(descriptor: int) -> bool:
    """Return whether this is the journal's stream (`$JOURNAL_STREAM` of systemd.exec(5))."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"

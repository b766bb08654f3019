"""A program in a terminal of its own that is looked at and typed into, and answers no query."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyte


SECONDS = 60.0


class Terminal:
    """
    A pseudo-terminal with a command in it: what it drew, and keys to press.

    What reads the screen can do all that a vt220 can, but not scroll or repeat as xterm does.
    """

    def __init__(self, *args: str, columns: int = 80, lines: int = 24, term: str = "vt220") -> None:
        self.screen = pyte.Screen(columns, lines)
        self.drawn = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self.slave = slave
        self.resize(columns, lines)
        self.before = termios.tcgetattr(slave)
        environ = {**os.environ, "TERM": term, "LANG": "C.UTF-8"}
        for name in ("LINES", "COLUMNS", "NO_COLOR"):
            environ.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "virtstatd", *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            start_new_session=True,
        )

    @property
    def lines(self) -> list[str]:
        """What is on the screen now, without blanks at the ends."""
        return [line.rstrip() for line in self.screen.display]

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, as a window does."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self.screen.resize(lines, columns)
        if hasattr(self, "process"):
            self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def until(self, condition: Callable[[list[str]], object], seconds: float = SECONDS) -> None:
        """Read what is drawn until the screen is as wanted; fails with the screen."""
        end = time.monotonic() + seconds
        while not condition(self.lines):
            if time.monotonic() > end or not self._read(1.0):
                raise AssertionError("\n".join(["not so:", *self.lines]))

    def shows(self, text: str) -> None:
        """Wait until a text is on the screen."""
        self.until(lambda lines: any(text in line for line in lines))

    def ended(self, seconds: float = SECONDS) -> int:
        """Wait for the end of the command, and read what it drew; return its exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.05)
        while self._read(0.0, ended=True):
            pass
        return self.process.wait(1)

    def restored(self) -> bool:
        """Tell whether the terminal echoes, waits for lines and shows its cursor as before."""
        return termios.tcgetattr(self.slave) == self.before and not self.screen.cursor.hidden

    def _read(self, seconds: float, *, ended: bool = False) -> bool:
        """Read what is there; return whether there may be more."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return not ended and self.process.poll() is None
        drawn = os.read(self._master, 65536)
        self.drawn += drawn
        self._stream.feed(drawn)
        return True

    def close(self) -> None:
        """End the command and the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        for each in (self.slave, self._master):
            with contextlib.suppress(OSError):
                os.close(each)


@contextmanager
def terminal(
    *args: str, columns: int = 80, lines: int = 24, term: str = "vt220"
) -> Iterator[Terminal]:
    """Run a command of virtstatd's in a terminal."""
    running = Terminal(*args, columns=columns, lines=lines, term=term)
    try:
        yield running
    finally:
        running.close()

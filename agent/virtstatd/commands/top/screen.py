"""The screen: draws frames with curses, reads keys, and leaves the terminal as it was."""

from __future__ import annotations

import curses
import locale
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from virtstatd.commands.top.following import follower_of
from virtstatd.commands.top.frame import frame, table_rows
from virtstatd.commands.top.keys import pressed
from virtstatd.commands.top.lines import FrameLine, Style
from virtstatd.commands.top.source import Answers, Needed, wanted
from virtstatd.commands.top.state import Shown, TopView


PAIRS: Final[dict[Style, int]] = {"good": 1, "warning": 2, "critical": 3}
COLOURS: Final = {1: curses.COLOR_GREEN, 2: curses.COLOR_YELLOW, 3: curses.COLOR_RED}
ESCAPE_MILLISECONDS: Final = 25
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class Looker:
    """Follows what the screen shows on a thread, so that keys never wait for an agent."""

    def __init__(self, source: Answers, seconds: float, wake: Callable[[], None]) -> None:
        self.seen = Shown(where=source.where)
        self._follower = follower_of(source, seconds)
        self._wake = wake
        self._wanted = Needed("hurts")
        self._changed = threading.Event()
        self._ended = False
        self._paused = False
        self._thread = threading.Thread(target=self._run, name="documents", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def want(self, what: Needed, *, paused: bool) -> None:
        """Follow something from now on, at once where it is something else than before."""
        changed = what != self._wanted or paused != self._paused
        self._wanted, self._paused = what, paused
        if changed:
            self._turn()

    def close(self) -> None:
        """End; an answer that is waited for is not."""
        self._ended = True
        self._turn()

    def _turn(self) -> None:
        self._changed.set()
        self._follower.cut()

    def _run(self) -> None:
        while not self._ended:
            self._changed.clear()
            for seen in self._follower.follow(self._wanted, self.seen, self._changed):
                self.seen = seen
                self._wake()
                if self._paused:
                    break
            if self._paused:
                self._changed.wait()


def show(source: Answers, view: TopView, seconds: float) -> None:
    """Show the host until someone quits; the terminal is restored whatever happens."""
    locale.setlocale(locale.LC_ALL, "")
    with _signals() as woken, _drawing() as window:
        looker = Looker(source, seconds, woken.wake)
        _loop(window, looker, view, woken.descriptor)
        looker.close()


def _loop(window: curses.window, looker: Looker, view: TopView, woken: int) -> None:
    styles = _styles()
    started = False
    while True:
        height, width = _sized()
        rows = table_rows(view, height)
        looker.want(wanted(view, width, rows), paused=view.paused)
        if not started:
            looker.start()
            started = True
        seen = looker.seen
        _draw(window, frame(seen, view, width, height), styles)
        select.select([sys.stdin, woken], [], [])
        with suppress(BlockingIOError):
            os.read(woken, 4096)
        for key in _keys(window):
            after = pressed(view, key, seen, rows)
            if after is None:
                return
            view = after


def _sized() -> tuple[int, int]:
    """Return the terminal's size, after curses has adopted a new one."""
    with suppress(OSError):
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
        if lines and columns and (lines, columns) != (curses.LINES, curses.COLS):
            curses.resizeterm(lines, columns)
    return curses.LINES, curses.COLS


def _keys(window: curses.window) -> Iterator[str]:
    """Yield the keys that were pressed, without waiting."""
    while True:
        try:
            key = window.get_wch()
        except (curses.error, ValueError):  # none is left, or bytes that are no character
            return
        if isinstance(key, str):
            yield key
        else:
            with suppress(ValueError):
                yield curses.keyname(key).decode("ascii", "replace")


def _draw(window: curses.window, lines: list[FrameLine], styles: dict[Style, int]) -> None:
    window.erase()
    for index, line in enumerate(lines):
        with suppress(curses.error):  # the last cell of the screen cannot be passed
            window.move(index, 0)
            for text, style in line:
                window.addstr(text, styles[style])
    window.refresh()


def _styles() -> dict[Style, int]:
    styles: dict[Style, int] = {
        "plain": curses.A_NORMAL,
        "dim": curses.A_NORMAL,
        "head": curses.A_REVERSE,
        "good": curses.A_NORMAL,
        "warning": curses.A_BOLD,
        "critical": curses.A_BOLD,
        "select": curses.A_REVERSE | curses.A_BOLD,
    }
    if curses.has_colors() and not os.environ.get("NO_COLOR"):
        curses.start_color()
        background = curses.COLOR_BLACK
        with suppress(curses.error):
            curses.use_default_colors()
            background = -1
        for pair, colour in COLOURS.items():
            curses.init_pair(pair, colour, background)
        for style, pair in PAIRS.items():
            styles[style] |= curses.color_pair(pair)
    return styles


@contextmanager
def _drawing() -> Iterator[curses.window]:
    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        window.nodelay(True)
        curses.set_escdelay(ESCAPE_MILLISECONDS)
        with suppress(curses.error):
            curses.curs_set(0)
        yield window
    finally:
        window.keypad(False)
        with suppress(curses.error):
            curses.curs_set(1)
        curses.nocbreak()
        curses.echo()
        curses.endwin()


class _Woken:
    """A pipe that ends the wait for keys: for a new size, and for new documents."""

    def __init__(self) -> None:
        self.descriptor, self._end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake(self) -> None:
        with suppress(OSError):
            os.write(self._end, b"\0")

    def close(self) -> None:
        os.close(self.descriptor)
        end, self._end = self._end, -1
        os.close(end)


@contextmanager
def _signals() -> Iterator[_Woken]:
    """Have signals that end the program restore the terminal first, and a new size be drawn."""
    woken = _Woken()

    def ended(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, ended) for each in ENDING}
    before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: woken.wake())
    try:
        with suppress(KeyboardInterrupt):
            yield woken
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        woken.close()


def print_frame(seen: Shown, view: TopView, width: int, height: int) -> str:
    """Return a frame as plain text, without the blanks at its ends and the line of keys."""
    lines = frame(seen, view, width, height)[:-1]
    text = ["".join(part for part, _ in line).rstrip() for line in lines]
    while text and not text[-1]:
        text.pop()
    return "\n".join(text)


def draws(terminal: str) -> bool:
    """Return whether a terminal can be drawn on: it has a cursor that can be moved."""
    try:
        curses.setupterm(terminal)
    except curses.error:
        return False
    return bool(curses.tigetstr("cup"))


def fits_ascii_only(terminal: str, encoding: str) -> bool:
    """Return whether only ASCII can be shown: in another encoding, and on the kernel's console."""
    try:
        "▁".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return True
    return terminal == "linux"

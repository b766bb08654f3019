"""
A pytest plugin: no test takes longer than its limit, and none can make the run hang.

At the limit an exception is raised in the test, and again after each grace while it, or what is
taken down after it, still goes on. uvloop hands what a signal handler raises to the loop's handler
of exceptions and runs on, unless it is a `SystemExit`. Where nothing of this helps, because a
thread is in C code or the interpreter waits for a thread at its end, `watchdog` kills the run.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from _pytest.outcomes import Failed

from support import watchdog


TRIES = 4
"""How many graces a test, or the end of the run, has before the run is killed."""


class TimedOut(Failed, SystemExit):
    """The test's limit has passed; also a `SystemExit`, which a loop lets through."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of pyproject.toml, and one that stands for the first of them."""
    parser.addoption("--timeout", type=float, help="seconds that a test without a mark may take")
    parser.addini("timeout", "seconds that a test may take, unless its mark says otherwise")
    parser.addini("timeout_grace", "seconds from one interruption of a test to the next")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the limits, unless this process only hands tests to others."""
    config.addinivalue_line("markers", "timeout(seconds): what the test may take")
    seconds = float(config.getoption("timeout") or config.getini("timeout"))
    limits = Limits(seconds, float(config.getini("timeout_grace")))
    config.pluginmanager.register(limits, "limits")
    config.add_cleanup(limits.close)


class Limits:
    """The alarm that interrupts tests, and the watchdog for those that it cannot interrupt."""

    def __init__(self, seconds: float, grace: float) -> None:
        self._seconds, self._grace = seconds, grace
        self._inside = False
        self._report = ""
        mark = os.environ[watchdog.MARK] = str(uuid.uuid4())
        self._stacks = os.fdopen(os.dup(2), "w")  # the one that pytest does not capture
        faulthandler.register(watchdog.DUMP, self._stacks, all_threads=True)
        signal.signal(signal.SIGALRM, self._alarm)
        self._watchdog = subprocess.Popen(
            [sys.executable, "-S", watchdog.__file__, str(os.getpid()), mark, str(grace)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=self._stacks,
            stderr=self._stacks,
            start_new_session=True,  # ^C is for the run, whose end ends this one
        )

    def close(self) -> None:
        """Have the process end in time, whatever waits at its end."""
        self._watch(TRIES * self._grace, "the end of the run")
        assert self._watchdog.stdin
        self._watchdog.stdin.close()
        self._watchdog.returncode = 0  # ends after this process, which cannot wait for it

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Limit a test with all that is set up and taken down for it."""
        mark = item.get_closest_marker("timeout")
        seconds = float(mark.args[0]) if mark else self._seconds
        self._report = f"longer than {seconds:g} s"
        self._watch(seconds + TRIES * self._grace, item.nodeid)
        signal.setitimer(signal.ITIMER_REAL, seconds, self._grace)
        try:
            return (yield)
        finally:
            self._stop()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Let the alarm interrupt fixtures."""
        with self._interruptible():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Let the alarm interrupt the test."""
        with self._interruptible():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Let the alarm interrupt what takes fixtures down."""
        with self._interruptible():
            return (yield)

    def pytest_enter_pdb(self) -> None:
        """Leave who looks at a test all the time."""
        self._stop()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def _alarm(self, _: int, __: FrameType | None) -> None:
        if self._inside:  # pytest itself must not be interrupted
            print(stacks(), file=sys.stderr)
            raise TimedOut(self._report)

    def _stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._watch(0, "")

    def _watch(self, seconds: float, what: str) -> None:
        assert self._watchdog.stdin
        self._watchdog.stdin.write(f"{seconds} {what}\n".encode())


def stacks() -> str:
    """Return the stacks of the other threads; the failure shows the one of this."""
    names = {each.ident: each.name for each in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    )

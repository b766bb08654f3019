"""A running demo as its users have it: the command, in a terminal, and the page."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from support.ports import free_port


MODULE = (sys.executable, "-m", "virtstatd")
COUNTER = "libvirt_domain_info_cpu_time_seconds_total"


def at_the_terminal() -> None:
    """Have Ctrl-C end the process, also where whoever runs the tests ignores it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Demo:
    """`virtstatd demo` at a terminal of its own; its temporary files are in `folder`."""

    def __init__(
        self, folder: Path, *options: str, command: Sequence[str] = MODULE, **environ: str
    ) -> None:
        self.begun = time.monotonic()
        self.folder = folder
        self.port = free_port()
        self.terminal, its_end = os.openpty()
        self.process = subprocess.Popen(
            [*command, "demo", f"--listen-address=127.0.0.1:{self.port}", *options],
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder), **environ},
            start_new_session=True,
            preexec_fn=at_the_terminal,  # noqa: PLW1509 - no threads
        )
        os.close(its_end)

    def wait_for(self, what: Callable[[], object], seconds: float = 200.0) -> None:
        """Wait until something is so."""
        while not what():
            assert time.monotonic() - self.begun < seconds, "did not come to be"
            assert self.process.poll() is None, f"the demo ended: {self.said()!r}"
            time.sleep(0.02)

    def page(self) -> str:
        """Return the page, nothing before there is one."""
        address = f"http://127.0.0.1:{self.port}/metrics"
        try:
            with urllib.request.urlopen(address, timeout=100) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def counters(self) -> dict[str, float]:
        """Return the CPU time of every guest."""
        found = re.findall(rf'(?m)^{COUNTER}{{domain="(.*?)"}} (\S+)$', self.page())
        return {name: float(value) for name, value in found}

    def wait_until_moving(self) -> float:
        """Wait for numbers that move; return the seconds since the command."""
        first: dict[str, float] = {}

        def moving() -> bool:
            nonlocal first
            now = self.counters()
            first = first or now
            return any(now[name] > value for name, value in first.items())

        self.wait_for(moving)
        return time.monotonic() - self.begun

    def children(self) -> list[int]:
        """Return its processes."""
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in file.read_text().split()]

    def said(self) -> str:
        """Return what it has written to the terminal since the last time."""
        text = b""
        with suppress(OSError, ValueError):  # nobody has the other end open, or we have closed ours
            while select.select([self.terminal], [], [], 0)[0]:
                text += os.read(self.terminal, 65536)
        return text.decode()

    def type(self, text: str) -> None:
        """Type at the terminal."""
        os.write(self.terminal, text.encode())

    def close_terminal(self) -> None:
        """Take the terminal away, as a window that is closed."""
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def close(self) -> None:
        """End it, whatever became of it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(100)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.close_terminal()


@contextmanager
def demonstrated(folder: Path, *options: str, command: Sequence[str] = MODULE) -> Iterator[Demo]:
    """Run a demo; it is ended in the end, whatever happens."""
    demo = Demo(folder, *options, command=command)
    try:
        yield demo
    finally:
        demo.close()


def wait_until_gone(*pids: int) -> None:
    """Wait until processes have ended, whoever's children they are."""
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                assert select.select([descriptor], [], [], 100)[0], f"{pid} lives on"
            finally:
                os.close(descriptor)

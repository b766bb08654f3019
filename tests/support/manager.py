"""The service manager's end of sd_notify(3), and the signals that a process holds back."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Manager:
    """Reads what a service reports; `messages` has all of it, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def count(self, beginning: str) -> int:
        """Return how many messages begin so."""
        return sum(each.startswith(beginning) for each in list(self.messages))

    def close(self) -> None:
        """Read no more."""
        self._socket.sendto(b"", str(self.path))
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        while message := self._socket.recv(1 << 16):
            self.messages.append(message.decode())


@contextmanager
def managing(folder: Path) -> Iterator[Manager]:
    """Listen for a service until the end of a block."""
    manager = Manager(folder / "notify")
    try:
        yield manager
    finally:
        manager.close()


def holds(pid: int, number: int) -> bool:
    """Tell whether a process blocks a signal in its first thread."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = int(
        next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16
    )
    return bool(mask >> (number - 1) & 1)


def until(what: Callable[[], object], seconds: float = 100.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not come to be"
        time.sleep(0.002)


def until_held(pid: int) -> None:
    """Wait until a process that was just started can be signalled."""
    until(lambda: holds(pid, signal.SIGHUP))

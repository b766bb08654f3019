"""
The CPU times of libvirtd and of the guests' QEMUs.

Of a QEMU only the main loop and the monitor's thread are read, never a vCPU, and only of some
guests, which stand for all: the measuring must not cost what it is to save.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import parse_qs, urlsplit

from virtstatd.errors import plain_reason
from virtstatd.hypervisor.listener import Listener
from virtstatd.hypervisor.processes import LOOK_SECONDS, Processes
from virtstatd.runtime.kernel_files import Folder


SAMPLE: Final = 16
"""How many guests stand for all."""

SAMPLE_SECONDS: Final = 60.0
"""How often they are chosen again; those that have ended are left out meanwhile."""

NANOSECONDS: Final = 1e9
TICKS: Final = os.sysconf("SC_CLK_TCK")

ProcessTimes = Mapping[int, float]
"""CPU seconds by process, so that only what was there before and after is compared."""


class CpuClock(Protocol):
    """Reads CPU times; `blind` says why there are none."""

    blind: str

    def times(self) -> ProcessTimes:
        """Return the CPU times of all processes that are looked at."""
        ...

    def close(self) -> None:
        """Let go of the processes."""
        ...


class UnseenClock:
    """A clock of processes that cannot be seen from here."""

    def __init__(self, blind: str) -> None:
        self.blind = blind

    def times(self) -> ProcessTimes:
        """Return none."""
        return {}

    def close(self) -> None:
        """Do nothing."""


class Daemon:
    """The CPU time of the daemon that listens at a socket: libvirtd, or virtqemud."""

    def __init__(self, path: Path, proc: Path = Path("/proc")) -> None:
        self.blind = ""
        self._path = path
        self._proc = proc
        self._pid = 0
        self._locks = False
        self._folder: Folder | None = None

    def times(self) -> ProcessTimes:
        """Return its CPU time; a daemon that was restarted is found again."""
        for _ in range(2):
            try:
                if self._folder is None:
                    self._pid = self._listener()
                    self._folder = Folder(self._proc / str(self._pid))
                # behind the name, which may hold anything: user and system time, as proc(5) has it
                row = self._folder.read("stat").rpartition(b")")[2].split()
                self.blind = ""
                return {self._pid: (int(row[11]) + int(row[12])) / TICKS}
            except (OSError, ValueError, IndexError) as error:
                self.blind = plain_reason(error)
                self.close()
        return {}

    def close(self) -> None:
        """Let go of the process."""
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _listener(self) -> int:
        if (running := Listener(self._path).pid()) > 1:
            self._locks = True
            return running
        if self._locks:  # it has ended, and systemd would start it at a connect
            raise ProcessLookupError(f"no daemon runs behind {self._path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)  # a frozen daemon's queue may be full
            client.connect(str(self._path))
            packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid: int = struct.unpack("3i", packed)[0]
        if pid <= 1:  # systemd listened in its place, or it is in a namespace that we cannot see
            name = "virtqemud" if self._path.name.startswith("virtqemud") else "libvirtd"
            pid = int((self._path.parents[1] / f"{name}.pid").read_text(encoding="ascii"))
        return pid


class Qemus:
    """The CPU times of some guests' QEMUs, main loop and monitor thread."""

    def __init__(self, processes: Processes, clock: Callable[[], float] = time.monotonic) -> None:
        self.blind = ""
        self._processes = processes
        self._clock = clock
        self._chosen_at = -SAMPLE_SECONDS
        self._chosen: dict[int, tuple[Folder, tuple[str, ...]]] = {}

    def times(self) -> ProcessTimes:
        """Return the CPU times of those that have not ended."""
        if self._clock() - self._chosen_at >= SAMPLE_SECONDS:
            self._choose()
        times: dict[int, float] = {}
        for pid, (folder, files) in self._chosen.items():
            with suppress(OSError, IndexError):
                total = sum(int(folder.read(file).split()[0]) for file in files)
                times[pid] = total / NANOSECONDS
        if times:
            self.blind = ""
        return times

    def close(self) -> None:
        """Forget the processes."""
        self._chosen.clear()

    def _choose(self) -> None:
        self.close()
        self._chosen_at = self._clock()
        self._processes.look(at_most_seconds=LOOK_SECONDS)
        found = sorted(self._processes.found.values(), key=lambda process: process.uuid)
        self.blind = self._processes.error
        for process in found[:: -(-len(found) // SAMPLE) or 1]:
            try:
                files = ("schedstat", *_monitor_threads(process.folder))
            except OSError as error:
                self.blind = str(error)
            else:
                self._chosen[process.pid] = process.folder, files


def _monitor_threads(folder: Folder) -> list[str]:
    return [
        f"task/{thread}/schedstat"
        for thread in folder.names("task")
        if folder.read(f"task/{thread}/comm").startswith(b"IO mon_iothread")
    ]


def socket_of(uri: str, detected: Callable[[], str]) -> Path:
    """Return the socket that a URI of this host leads to; without one in it, the detected one."""
    for each in (uri, detected()):
        if sockets := parse_qs(urlsplit(each).query).get("socket"):
            return Path(sockets[0])
    raise AssertionError  # what is detected always has one

"""
Which process runs which guest: found by pid file, verified by its command line, without libvirt.

The name of a pid file is the guest's, lossy and escaped; it is only a hint. The guest of a process
is identified by its command line: the UUID and libvirt's number of this run. Its directory in /proc
stays open, so nothing is ever read of a later process with the same number.

The command line is the only file that the kernel reads from the process's own memory; the read
waits while another thread holds the lock of that memory. So it runs on a thread that may be left
behind.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from virtstatd.errors import plain_reason
from virtstatd.model import Domain
from virtstatd.runtime.kernel_files import Folder, Place


UNSETTLED_NANOSECONDS = 2_000_000_000
"""A directory that changed so recently may change again with the same modification time."""

LOOK_SECONDS = 0.5
"""Maximum age of the result for callers that do not search at every tick themselves."""

COMMAND_SECONDS = 0.5
"""How long a command line is waited for; a slower process is skipped until its read returns."""

HANGING_MAX = 4
"""Maximum number of reads that may hang at a time: each occupies a thread."""

PID_MAX_DIGITS = 10
COMMAND_BYTES = 1 << 17
START_TIME = 19
"""The column of proc_pid_stat(5) behind the name that holds the start in ticks since boot."""

_UUID = re.compile(rb"\0-uuid\0([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\0")
# Libvirt's directory for the files of one run; a name in it holds no slash.
_NUMBER = re.compile(rb"/domain-(\d{1,10})-[^/\0]*/(?:master-key\.aes|monitor\.sock)")


@dataclass(frozen=True, slots=True)
class Process:
    """
    A guest's QEMU.

    `folder` is its directory in /proc, open while this object is referenced: it belongs to this
    process and to no later one with the same number. `number` is libvirt's number of this run, None
    if the command line has none; `started` is the process's start in ticks since boot.
    """

    pid: int
    uuid: str
    number: int | None
    started: int
    folder: Folder

    def runs(self, domain: Domain) -> bool:
        """Return whether this is the process of this run of a guest."""
        return self.uuid == domain.uuid and self.number in (None, domain.id)

    def stat(self) -> list[bytes]:
        """Return the columns of proc_pid_stat(5) behind the name; raises OSError once it ended."""
        return self.folder.read("stat").rpartition(b")")[2].split()


class Processes:
    """
    The guests' processes, found by the pid files in libvirt's directory; safe on every thread.

    The directory is read when it has changed, a pid file that leads to no guest at every search:
    libvirt writes the number first and executes QEMU later. `error` says why the last search found
    nothing.
    """

    def __init__(
        self,
        directory: Path,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
        command: Callable[[Folder], bytes] = lambda folder: folder.read("cmdline", COMMAND_BYTES),
    ) -> None:
        self.directory = directory
        self.error = ""
        self.hanging: dict[int, str] = {}
        """The pid files, by pid, of processes whose command line could not be read in time."""
        self._command = command
        self._reads: dict[int, threading.Thread] = {}
        self.found: dict[int, Process] = {}
        """The processes by their pids; replaced, never changed, as threads share it."""
        self._of: dict[str, Process] = {}
        self._place = Place(directory)
        self._proc = proc
        self._clock = clock
        self._looked_at = -LOOK_SECONDS
        self._lock = threading.Lock()
        self._changed_at = -1
        self._pids: dict[str, int] = {}

    @property
    def strays(self) -> int:
        """Pid files that led to no guest in the last search."""
        found = self.found
        return sum(pid not in found for pid in list(self._pids.values()))

    def of(self, domain: Domain) -> Process | None:
        """Return the process of this run of a guest, as found by the last search."""
        process = self._of.get(domain.uuid)
        return process if process is not None and process.runs(domain) else None

    def look(self, *, at_most_seconds: float = 0.0) -> None:
        """
        Search again if the last result is older than `at_most_seconds`.

        Returns immediately while another thread searches.
        """
        if self._clock() - self._looked_at < at_most_seconds:
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._look()
            self.error = ""
        except OSError as error:
            self.error = plain_reason(error)
        finally:
            self._looked_at = self._clock()
            self._lock.release()

    def lose(self, process: Process) -> None:
        """Forget a process that has ended; its pid file is read again."""
        with self._lock:
            if self.found.get(process.pid) is process:
                self._publish({pid: p for pid, p in self.found.items() if p is not process})
            self._changed_at = -1

    def close(self) -> None:
        """Forget all processes."""
        with self._lock:
            self._publish({})
            self._changed_at = -1

    def _look(self) -> None:
        found = self.found
        changed_at = self.directory.stat().st_mtime_ns
        if changed_at != self._changed_at:
            names = [name for name in os.listdir(self.directory) if name.endswith(".pid")]
            self._pids = {name: self._read_pid(name) for name in names}
            pids = set(self._pids.values())
            found = {pid: process for pid, process in found.items() if pid in pids}
            settled = time.time_ns() - changed_at > UNSETTLED_NANOSECONDS
            self._changed_at = changed_at if settled else -1
        new: dict[int, Process] = {}
        for name, pid in self._pids.items():
            if pid not in found:
                pid = self._pids[name] = pid or self._read_pid(name)  # noqa: PLW2901 - read late
                if pid and (process := self._identified(pid)):
                    new[pid] = process
        if new or len(found) < len(self.found):
            self._publish(found | new)
        self._reads = {pid: read for pid, read in self._reads.items() if read.is_alive()}
        self.hanging = {pid: name for name, pid in self._pids.items() if pid in self._reads}

    def _publish(self, found: dict[int, Process]) -> None:
        self.found = found
        self._of = {process.uuid: process for process in found.values()}

    def _read_pid(self, name: str) -> int:
        with suppress(OSError, ValueError):
            return max(0, int(self._place.read(name, PID_MAX_DIGITS + 1)))
        return 0

    def _identified(self, pid: int) -> Process | None:
        """Return the guest's process with a number, None if it is no guest's or not yet one."""
        try:
            folder = Folder(self._proc / str(pid))
            command = self._command_line(pid, folder)
            if (uuid := _UUID.search(command)) is None:
                return None
            number = _NUMBER.search(command)
            started = int(folder.read("stat").rpartition(b")")[2].split()[START_TIME])
        except (OSError, ValueError, IndexError):
            return None
        return Process(pid, uuid[1].decode(), int(number[1]) if number else None, started, folder)

    def _command_line(self, pid: int, folder: Folder) -> bytes:
        """Return a command line; raises OSError if there is none, or none in time."""
        hanging = [read for read in self._reads.values() if read.is_alive()]
        if self._reads.get(pid) in hanging or len(hanging) >= HANGING_MAX:
            raise TimeoutError
        answer: list[bytes] = []

        def read() -> None:
            with suppress(OSError):
                answer.append(self._command(folder))

        self._reads[pid] = thread = threading.Thread(target=read, name="command line", daemon=True)
        thread.start()
        thread.join(COMMAND_SECONDS)
        if not answer:
            raise TimeoutError
        return answer[0]

"""
Which process runs which guest: found by pid file and command line, without libvirt.

The name of a pid file is the guest's, lossy and escaped; it is only a place to look. Who runs in
the process is what its command line says: the UUID and libvirt's number of this run.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from virtstatd.runtime.kernel_files import Folder, Place


UNSETTLED_NANOSECONDS = 2_000_000_000
"""A directory that changed so recently may change again without a later time of change."""

PID_MAX_DIGITS = 10
COMMAND_BYTES = 1 << 17

_UUID = re.compile(rb"\0-uuid\0([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\0")
# Libvirt's directory for the files of one run; a name in it holds no slash.
_NUMBER = re.compile(rb"/domain-(\d{1,10})-[^/\0]*/(?:master-key\.aes|monitor\.sock)")


@dataclass(frozen=True, slots=True)
class Process:
    """
    A guest's QEMU.

    `folder` is its directory in /proc, held open: it belongs to this process and to no other that
    gets its number later. `number` is libvirt's of this run, None where the command line has none.
    """

    pid: int
    uuid: str
    number: int | None
    folder: Folder


class Finder:
    """
    Find the guests' processes by the pid files in libvirt's directory.

    The directory is read when it has changed, a pid file that leads nowhere at every look: libvirt
    writes the number first and becomes QEMU later.
    """

    def __init__(self, directory: Path, proc: Path) -> None:
        self._directory = directory
        self._place = Place(directory)
        self._proc = proc
        self._changed_at = -1
        self._pids: dict[str, int] = {}
        self._found: dict[int, Process] = {}

    @property
    def found(self) -> dict[int, Process]:
        """The processes known by their pids."""
        return self._found

    @property
    def strays(self) -> int:
        """Pid files that led to no guest at the last look."""
        return sum(pid not in self._found for pid in self._pids.values())

    def look(self) -> None:
        """Bring `found` up to date; raises OSError where the directory cannot be read."""
        changed_at = self._directory.stat().st_mtime_ns
        if changed_at != self._changed_at:
            self._read_directory()
            settled = time.time_ns() - changed_at > UNSETTLED_NANOSECONDS
            self._changed_at = changed_at if settled else -1
        for name, pid in self._pids.items():
            if pid not in self._found:
                self._pids[name] = pid or self._read_pid(name)
                self._identify(self._pids[name])

    def lose(self, process: Process) -> None:
        """Forget a process that has ended; its pid file is looked at again."""
        self._found.pop(process.pid, None)
        process.folder.close()
        self._changed_at = -1

    def close(self) -> None:
        """Let go of all processes."""
        for process in self._found.values():
            process.folder.close()
        self._found.clear()

    def _read_directory(self) -> None:
        names = [name for name in os.listdir(self._directory) if name.endswith(".pid")]
        self._pids = {name: self._read_pid(name) for name in names}
        for pid in self._found.keys() - set(self._pids.values()):
            self._found.pop(pid).folder.close()

    def _read_pid(self, name: str) -> int:
        with suppress(OSError, ValueError):
            return max(0, int(self._place.read(name, PID_MAX_DIGITS + 1)))
        return 0

    def _identify(self, pid: int) -> None:
        if not pid:
            return
        try:
            folder = Folder(self._proc / str(pid))
        except OSError:
            return
        try:
            command = folder.read("cmdline", COMMAND_BYTES)
        except OSError:
            command = b""
        uuid = _UUID.search(command)
        if uuid is None:
            folder.close()
            return
        number = _NUMBER.search(command)
        self._found[pid] = Process(
            pid, uuid[1].decode(), int(number[1]) if number else None, folder
        )

"""
A QEMU process, the roles of its threads, and how long each ran and waited for a CPU.

`/proc/PID/task/TID/schedstat` has both in nanoseconds, independent of the kernel's tick.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from typing import cast

from virtstatd._fast.plain import Layout, ProcessStat, ThreadSpans
from virtstatd.hypervisor.processes import Process
from virtstatd.runtime.kernel_files import Descriptors, File, Files


_NO_TIMES: ThreadSpans = (), ()

ThreadRole = tuple[str, int]
"""A thread's role, and its vCPU or iothread; the main loop is `EMULATOR`."""

EMULATOR: ThreadRole = ("emulator", 0)

SIGHTS = 3
"""Readings until a thread's name is final: QEMU names its threads after their start."""

# as QEMU names them: "CPU 0/KVM", "CPU 0/TCG", "IO iothread1"
_NAME = re.compile(rb"(?:(CPU) (\d{1,5})/|(IO) iothread(\d{1,5})$)")


class Threads:
    """The threads of one QEMU that do a guest's work, in the order of their roles."""

    def __init__(self, process: Process, descriptors: Descriptors) -> None:
        self._process = process
        self._descriptors = descriptors
        self._files: dict[tuple[str, ThreadRole], File] = {}
        self._names: dict[str, ThreadRole | None] = {}
        self._sights: dict[str, int] = {}
        self.roles: tuple[ThreadRole, ...] = ()
        self.ids: tuple[str, ...] = ()
        """The kernel's numbers of the threads, in the order of `roles`."""
        self._stat = File(process.folder, "stat", descriptors)
        self._read = Files((self._stat,), (Layout.STAT,))

    def look(self) -> bool:
        """
        Find new threads and forget ended ones; return whether there were any.

        Raises OSError when the process has ended.
        """
        folder = self._process.folder
        listed = folder.names("task")
        self._sights = {thread: self._sights.get(thread, 0) + 1 for thread in listed}
        self._names = {thread: self._role(thread) for thread in listed}
        wanted: dict[ThreadRole, str] = {EMULATOR: str(self._process.pid)}
        for thread in sorted(listed, key=int):
            if role := self._names[thread]:
                wanted.setdefault(role, thread)
        files: dict[tuple[str, ThreadRole], File] = {}
        with ExitStack() as opened:
            for role, thread in sorted(wanted.items(), key=_order):
                key = thread, role
                with suppress(FileNotFoundError, ProcessLookupError):
                    file = self._files.get(key)
                    if file is None:
                        file = File(folder, f"task/{thread}/schedstat", self._descriptors)
                        opened.callback(file.close)
                    files[key] = file
            opened.pop_all()  # none is left open where one could not be opened
        gone = self._files.keys() - files.keys()
        changed = bool(gone) or len(files) != len(self._files)
        for key in gone:
            self._files[key].close()
        self._files = files
        self.roles = tuple(role for _, role in files)
        self.ids = tuple(thread for thread, _ in files)
        layouts = Layout.STAT, *[Layout.SCHEDSTAT] * len(files)
        self._read = Files((self._stat, *files.values()), layouts)
        return changed

    def _role(self, thread: str) -> ThreadRole | None:
        if self._sights[thread] > SIGHTS:
            return self._names.get(thread)
        with suppress(OSError):
            name = self._process.folder.read(f"task/{thread}/comm").rstrip(b"\n")
            if match := _NAME.match(name):
                return ("vcpu", int(match[2])) if match[1] else ("iothread", int(match[4]))
        return None

    def read(self) -> tuple[ProcessStat, ThreadSpans]:
        """
        Return the process' `stat`, and the times in the order of `roles`.

        Each is the same object as before if nothing in it changed. Raises OSError when the process
        or one of the threads has ended.
        """
        try:
            values = self._read.read()
        except ValueError:  # what has ended is empty in some kernels
            raise ProcessLookupError from None
        times = values[1] if self._files else _NO_TIMES
        return cast("ProcessStat", values[0]), cast("ThreadSpans", times)

    def close(self) -> None:
        """Close all files."""
        for file in (self._stat, *self._files.values()):
            file.close()
        self._files = {}
        self._read.close()


def _order(item: tuple[ThreadRole, str]) -> tuple[int, int]:
    (kind, number), _ = item
    return ("vcpu", "iothread", "emulator").index(kind), number

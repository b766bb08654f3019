"""
Whether the daemon behind a UNIX socket runs, found out without connecting to it.

systemd may listen in the daemon's place and start it when a client connects. So the agent must not
connect to a daemon that its administrator has stopped in order to check whether it is back.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit


TABLE: Final = Path("/proc/net/unix")
LISTENING: Final = 0x10000
CONNECTED: Final = "03"

FLOCK: Final = "hhqqi4x"
"""struct flock of fcntl(2): type, whence, start, length, process."""

LOCKED: Final = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0)
UNKNOWN: Final = -1


class Listener:
    """
    The daemon that a socket leads to.

    libvirt's daemons hold a lock on their pid file while they run, which the kernel shows to every
    process. The table of sockets has only those of the agent's own network namespace: a socket that
    is not in it counts as none of systemd's.
    """

    def __init__(self, socket: Path, table: Path = TABLE) -> None:
        modular = socket.name.startswith("virtqemud")
        names = ("virtqemud",) if modular else ("libvirtd", "virtproxyd")
        self._pid_files = [socket.parents[1] / f"{name}.pid" for name in names]
        self._name = socket.name
        self._socket = os.path.realpath(socket)
        self._table = table

    def pid(self) -> int:
        """Return the daemon's process, 0 if none runs, -1 if the agent cannot see it."""
        for file in self._pid_files:
            try:
                handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                # only tested, never taken: a daemon that starts now would fail because of it
                answer = fcntl.fcntl(handle, fcntl.F_GETLK, LOCKED)
            finally:
                os.close(handle)
            kind, _, _, _, pid = struct.unpack(FLOCK, answer)
            if kind != fcntl.F_UNLCK:
                return pid or UNKNOWN
        return 0

    def asleep(self) -> bool:
        """Return whether another process listens for a daemon that does not run."""
        return not self.pid() and self.served()

    def served(self) -> bool:
        """Return whether a process listens: of a daemon that has ended the file may be left."""
        return any(flags & LISTENING for flags, _ in self._rows())

    def deserted(self) -> bool:
        """Return whether the socket exists and has no connection at all, not even the agent's."""
        states = [state for _, state in self._rows()]
        return bool(states) and CONNECTED not in states

    def _rows(self) -> Iterator[tuple[int, str]]:
        """Return flags and state of every socket under this path."""
        try:
            lines = self._table.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return
        for line in lines:
            fields = line.split(maxsplit=7)
            if line.endswith(self._name) and os.path.realpath(fields[-1]) == self._socket:
                yield int(fields[3], 16), fields[5]


def listener_of(uri: str, detected: str) -> Listener | None:
    """
    Return the daemon that a URI leads to on this host, None for another host or no daemon.

    A URI that names no socket leads to the one in `detected`.
    """
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver != "qemu" or parts.netloc or transport not in ("", "unix"):
        return None
    for each in (uri, detected):
        if sockets := parse_qs(urlsplit(each).query).get("socket"):
            return Listener(Path(sockets[0]))
    return None

"""Where libvirt listens on this host, and how a session to it is opened."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt

from virtstatd.errors import Disconnected
from virtstatd.hypervisor.faults import unreachable
from virtstatd.hypervisor.lanes import Session
from virtstatd.hypervisor.listener import Listener, listener_of


DIRECTORIES = (Path("/run/libvirt"), Path("/var/run/libvirt"))
SOCKETS = ("virtqemud-sock-ro", "libvirt-sock-ro")

_READ_ONLY = re.compile(r"([?&]socket=[^&]*)-ro(?=&|\Z)")

WAKE_SECONDS = 60.0
"""Pause between activations of a daemon that never answered: systemd limits unit starts."""

ENDED = "the daemon has ended, and connecting would start it"

ENDING_SECONDS, ENDING_STEP_SECONDS = 2.0, 0.05
"""How long a daemon that closed the connection may need to end, and how often it is checked."""


def detected_uri(directories: tuple[Path, ...] = DIRECTORIES) -> str:
    """
    Return the URI of the local hypervisor, modular daemon first.

    Looked up again at every connect: either daemon may be installed or replaced while the agent
    runs. Without any socket it is the monolithic daemon's URI, whose error names the path to check.
    """
    return detected_uris(directories)[0]


def detected_uris(directories: tuple[Path, ...] = DIRECTORIES) -> list[str]:
    """
    Return the URIs of all existing sockets, first those with a visible listener.

    A daemon that has ended may leave its socket beside that of a working one. A listener in another
    network namespace is not visible.
    """
    paths = [directory / name for name in SOCKETS for directory in directories]
    there = [path for path in paths if path.is_socket()] or [directories[0] / SOCKETS[-1]]
    ordered = sorted(there, key=lambda path: len(there) > 1 and not Listener(path).served())
    return [f"qemu+unix:///system?socket={path}" for path in ordered]


def open_session(uri: str, keepalive_seconds: int, keepalive_count: int) -> Session:
    """
    Open a read-only connection, on the calling thread, which may block for long.

    A frozen daemon is noticed after `keepalive_seconds * (keepalive_count + 1)`; a driver without
    keepalives (`test:///default`) is opened without them. Raises `libvirt.libvirtError`.
    """
    return _kept_alive(libvirt.openReadOnly(uri), keepalive_seconds, keepalive_count)


def open_read_write(uri: str, keepalive_seconds: int, keepalive_count: int) -> Session:
    """Open a connection as `open_session` does, but one that could change guests."""
    connection = libvirt.open(read_write_uri(uri))
    return _kept_alive(connection, keepalive_seconds, keepalive_count)


def read_write_uri(uri: str) -> str:
    """Return the URI with the daemon's read-write socket, where it names the read-only one."""
    return _READ_ONLY.sub(r"\1", uri)


def _kept_alive(connection: libvirt.virConnect, seconds: int, count: int) -> Session:
    with contextlib.suppress(libvirt.libvirtError):
        connection.setKeepAlive(seconds, count)
    return Session(connection)


@dataclass(slots=True)
class _Door:
    """
    What is known of the daemon behind a URI: its process while the agent was connected.

    `unseen` says that its process is not visible even while it runs, `why` the reason for not
    activating it before `wake_at`.
    """

    pid: int = 0
    wake_at: float = -math.inf
    unseen: bool = False
    why: str = ENDED


class Opener:
    """
    Opens connections to `uri`, or to the local hypervisor if it is empty; read-only as a rule.

    Of several local sockets it uses the first that answers; one that does not may be left over from
    a daemon that has ended.

    A daemon that was running and has ended is not started again by the agent, although systemd
    would do so on a connection: it was stopped, or its administrator or systemd will restart it. A
    daemon that is idle at the agent's first connection is activated, since it ended for lack of
    clients. Used by many threads.
    """

    def __init__(
        self,
        uri: str,
        keepalive_seconds: int,
        keepalive_count: int,
        look: Callable[[str, str], Listener | None] = listener_of,
        connect: Callable[[str, int, int], Session] = open_session,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        directories: tuple[Path, ...] = DIRECTORIES,
    ) -> None:
        self._uri = uri
        self._keepalive = keepalive_seconds, keepalive_count
        self._look = look
        self._connect = connect
        self._clock = clock
        self._pause = pause
        self._directories = directories
        self._doors: dict[str, _Door] = {}

    def __call__(self) -> Session:
        """Open one; raises `libvirtError`, or `Disconnected` if it would activate a daemon."""
        detected = detected_uris(self._directories)
        error: libvirt.libvirtError | None = None
        for uri in [self._uri] if self._uri else detected:
            try:
                return self._open(uri, detected[0], self._doors.setdefault(uri, _Door()))
            except libvirt.libvirtError as raised:
                error = error or raised
        assert error is not None  # noqa: S101 - there is always one to try
        raise error

    def _open(self, uri: str, detected: str, door: _Door) -> Session:
        listener = self._look(uri, detected)
        if listener is None:
            return self._connect(uri, *self._keepalive)
        self._let_end(listener, door.pid)
        if not door.unseen and listener.asleep():
            if self._clock() < door.wake_at:
                raise Disconnected(door.why)
            door.wake_at = self._clock() + WAKE_SECONDS
        try:
            session = self._connect(uri, *self._keepalive)
        except libvirt.libvirtError as error:
            door.why = str(unreachable(error))
            raise
        door.pid = listener.pid()
        # if a running one cannot be seen, an idle one cannot be told from it either
        door.unseen = not door.pid
        door.wake_at, door.why = math.inf, ENDED
        return session

    def _let_end(self, listener: Listener, pid: int) -> None:
        """Wait for a daemon that has closed all connections: it is ending, or it continues."""
        until = self._clock() + ENDING_SECONDS
        while pid > 0 and listener.pid() == pid and self._clock() < until:
            self._pause(ENDING_STEP_SECONDS)
            if not listener.deserted():
                return

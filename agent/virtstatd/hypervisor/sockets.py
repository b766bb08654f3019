"""Where libvirt listens on this host, and how a read-only session to it is opened."""

from __future__ import annotations

import contextlib
import math
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

WAKE_SECONDS = 60.0
"""How often one that never answered is woken: systemd gives up what it starts too often."""

ENDED = "the daemon has ended, and connecting would start it"

ENDING_SECONDS, ENDING_STEP_SECONDS = 2.0, 0.05
"""How long a daemon that has hung up may need to end, and how often it is looked at."""


def detected_uri(directories: tuple[Path, ...] = DIRECTORIES) -> str:
    """
    Return the URI of the local hypervisor, modular daemon first.

    Looked up anew at every connect: either daemon may be installed or exchanged while we run. With
    no socket at all it is the monolithic daemon's URI, whose error names the path to look at.
    """
    return detected_uris(directories)[0]


def detected_uris(directories: tuple[Path, ...] = DIRECTORIES) -> list[str]:
    """
    Return the URIs of all sockets that there are, those first at which somebody is seen to listen.

    A daemon that has ended may leave its socket beside that of one that works. Who listens in
    another network namespace is not seen.
    """
    paths = [directory / name for name in SOCKETS for directory in directories]
    there = [path for path in paths if path.is_socket()] or [directories[0] / SOCKETS[-1]]
    ordered = sorted(there, key=lambda path: len(there) > 1 and not Listener(path).served())
    return [f"qemu+unix:///system?socket={path}" for path in ordered]


def open_session(uri: str, keepalive_seconds: int, keepalive_count: int) -> Session:
    """
    Open a read-only connection, on the calling thread, which may block for long.

    A frozen daemon is noticed after `keepalive_seconds * (keepalive_count + 1)`; a driver without a
    connection to keep alive (`test:///default`) goes without. Raises `libvirt.libvirtError`.
    """
    connection = libvirt.openReadOnly(uri)
    with contextlib.suppress(libvirt.libvirtError):
        connection.setKeepAlive(keepalive_seconds, keepalive_count)
    return Session(connection)


@dataclass(slots=True)
class _Door:
    """
    What is known of the daemon behind a URI: its process while it was connected to.

    `unseen` says that it cannot be seen even while it runs, `why` what kept it from being woken
    before `wake_at`.
    """

    pid: int = 0
    wake_at: float = -math.inf
    unseen: bool = False
    why: str = ENDED


class Opener:
    """
    Opens read-only connections to `uri`, or to the local hypervisor where it is empty.

    Of several local sockets it is the first that answers; one at which nobody does may be left over
    from a daemon that is gone.

    A daemon that was there and has ended is not started again by us, though systemd would do so for
    whoever connects: it was stopped, or is about to be restarted by those whose task that is. One
    that sleeps when we come is woken, since it ended for want of clients. Used by many threads.
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
        """Open one; raises `libvirt.libvirtError`, or `Disconnected` where it would wake."""
        detected = detected_uris(self._directories)
        error: libvirt.libvirtError | None = None
        for uri in [self._uri] if self._uri else detected:
            try:
                return self._open(uri, detected[0], self._doors.setdefault(uri, _Door()))
            except libvirt.libvirtError as raised:
                error = error or raised
        assert error is not None  # noqa: S101 - there is always one to be tried
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
        # one that cannot be seen even while it runs could not be seen to be asleep either
        door.unseen = not door.pid
        door.wake_at, door.why = math.inf, ENDED
        return session

    def _let_end(self, listener: Listener, pid: int) -> None:
        """Wait for a daemon that has hung up on everybody: it is ending, or it goes on."""
        until = self._clock() + ENDING_SECONDS
        while pid > 0 and listener.pid() == pid and self._clock() < until:
            self._pause(ENDING_STEP_SECONDS)
            if not listener.deserted():
                return

"""Where libvirt listens on this host, and how a read-only session to it is opened."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
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
    for name in SOCKETS:
        for directory in directories:
            if (directory / name).is_socket():
                return f"qemu+unix:///system?socket={directory / name}"
    return f"qemu+unix:///system?socket={directories[0] / SOCKETS[-1]}"


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


class Opener:
    """
    Opens read-only connections to `uri`, or to the local hypervisor where it is empty.

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
    ) -> None:
        self._uri = uri
        self._keepalive = keepalive_seconds, keepalive_count
        self._look = look
        self._connect = connect
        self._clock = clock
        self._pause = pause
        self._pid = 0
        self._wake_at = -math.inf
        self._unseen = False
        self._why = ENDED

    def __call__(self) -> Session:
        """Open one; raises `libvirt.libvirtError`, or `Disconnected` where it would wake."""
        detected = detected_uri()
        uri = self._uri or detected
        listener = self._look(uri, detected)
        if listener is None:
            return self._connect(uri, *self._keepalive)
        self._let_end(listener)
        if not self._unseen and listener.asleep():
            if self._clock() < self._wake_at:
                raise Disconnected(self._why)
            self._wake_at = self._clock() + WAKE_SECONDS
        try:
            session = self._connect(uri, *self._keepalive)
        except libvirt.libvirtError as error:
            self._why = str(unreachable(error))
            raise
        self._pid = listener.pid()
        # one that cannot be seen even while it runs could not be seen to be asleep either
        self._unseen = not self._pid
        self._wake_at, self._why = math.inf, ENDED
        return session

    def _let_end(self, listener: Listener) -> None:
        """Wait for a daemon that has hung up on everybody: it is ending, or it goes on."""
        until = self._clock() + ENDING_SECONDS
        while self._pid > 0 and listener.pid() == self._pid and self._clock() < until:
            self._pause(ENDING_STEP_SECONDS)
            if not listener.deserted():
                return

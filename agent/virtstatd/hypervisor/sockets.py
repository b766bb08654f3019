"""Where libvirt listens on this host, and how a read-only session to it is opened."""

from __future__ import annotations

import contextlib
from pathlib import Path

import libvirt

from virtstatd.hypervisor.lanes import Session


DIRECTORIES = (Path("/run/libvirt"), Path("/var/run/libvirt"))
SOCKETS = ("virtqemud-sock-ro", "libvirt-sock-ro")


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
    connection = libvirt.openReadOnly(uri or detected_uri())
    with contextlib.suppress(libvirt.libvirtError):
        connection.setKeepAlive(keepalive_seconds, keepalive_count)
    return Session(connection)

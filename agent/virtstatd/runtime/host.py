"""The name of this host."""

from __future__ import annotations

import socket


def host_name() -> str:
    """Return the kernel's name of this host (uname(2)'s `nodename`), `localhost` without one."""
    return socket.gethostname() or "localhost"

"""
The agent's messages to systemd: sd_notify(3) without a library.

Without `$NOTIFY_SOCKET`, and if systemd cannot accept a message at this moment, nothing happens: no
method here raises or waits.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


MAX_STATUS = 1000


class Notify:
    """Sends state to the service manager; each method returns whether the message was accepted."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._environ = environ
        self._address = ""
        if address.startswith("/"):
            self._address = address
        elif address.startswith("@"):  # the abstract namespace, whose names begin with a NUL
            self._address = f"\0{address[1:]}"

    @property
    def wanted(self) -> bool:
        """Whether there is a service manager to notify."""
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        """Report that the agent serves, or serves again after `reloading`."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """Set the line that `systemctl status` shows."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """Report that the agent is alive."""
        return self._send("WATCHDOG=1")

    def reloading(self) -> bool:
        """Report that the agent reads its configuration again; `ready` must follow."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str = "") -> bool:
        """Report that the agent is shutting down."""
        return self._send("STOPPING=1", *_status(status))

    def watchdog_seconds(self) -> float | None:
        """Return systemd's time limit between two `watchdog` messages, None if it wants none."""
        if self._environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None  # meant for the process that started this one
        try:
            microseconds = int(self._environ.get("WATCHDOG_USEC", "0"))
        except ValueError:
            return None
        return microseconds / 1e6 if microseconds > 0 else None

    def _send(self, *assignments: str) -> bool:
        if not self._address or not assignments:
            return False
        message = "\n".join(assignments).encode("utf-8", "replace")
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.sendto(message, self._address)
        except (OSError, ValueError):  # ValueError: an address with a NUL inside
            return False
        return True


def _status(text: str) -> tuple[str, ...]:
    # a line break would begin another assignment, and the text may contain a domain's name
    line = "".join(each if each.isprintable() else "?" for each in text[:MAX_STATUS])
    return (f"STATUS={line}",) if line else ()

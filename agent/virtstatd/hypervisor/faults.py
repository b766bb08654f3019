"""The table of what a libvirt error means for the caller."""

from __future__ import annotations

from typing import Final

import libvirt

from virtstatd.errors import Disconnected, Refused, VirtstatdError


TOO_LARGE = (
    "Unable to encode message payload",
    "too many parameters",
    "Too many domain",
    "message too large",
)


FIXES = (
    ("no such file", "start libvirtd or virtqemud, or name its socket in hypervisor.uri"),
    ("connection refused", "start libvirtd or virtqemud"),
    ("permission denied", "libvirt's `unix_sock_ro_perms` must let the agent's user connect"),
    ("authentication", "libvirt's `auth_unix_ro` or polkit must let the agent's user read"),
)
"""The fix if libvirt's socket cannot be opened, by a text in its message."""

READ_WRITE: Final = "libvirt-sock'", "virtqemud-sock'"
WRITING = (
    *FIXES[:2],
    ("permission denied", "the agent's user needs the group libvirt (libvirt-group.conf)"),
    ("authentication", "polkit must let the agent's user manage: the group libvirt can"),
)
"""The same for the read-write socket."""


class Oversize(Refused):
    """The answer does not fit into one of libvirt's messages; ask for fewer domains at once."""


class Gone(Refused):
    """The domain no longer exists, which is a race and not a fault."""


def unreachable(error: libvirt.libvirtError) -> Disconnected:
    """Return why no connection could be opened, and the fix if it is known."""
    message = error.get_error_message() or str(error)
    if "connect socket to" in message or "authentication" in message.casefold():
        writing = any(socket in message for socket in READ_WRITE)
        for said, fix in WRITING if writing else FIXES:
            if said in message.casefold():
                return Disconnected(f"{message}; {fix}")
    return Disconnected(message)


def translated(error: libvirt.libvirtError, *, alive: bool) -> VirtstatdError:
    """
    Return the exception that says what the caller should do about `error`.

    Whether a connection is dead is read from `isAlive`, never from the code: a dead one returns any
    of INTERNAL_ERROR, SYSTEM_ERROR or "cause is unknown".
    """
    message = error.get_error_message() or "the cause is unknown"
    if not alive:
        return Disconnected(message)
    if any(text in message for text in TOO_LARGE):
        return Oversize(message)
    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
        return Gone(message)
    return Refused(message)

"""One table: what a libvirt error means for the caller."""

from __future__ import annotations

import libvirt

from virtstatd.errors import Disconnected, Refused, VirtstatdError


TOO_LARGE = (
    "Unable to encode message payload",
    "too many parameters",
    "Too many domain",
    "message too large",
)


MENDS = (
    ("no such file", "start libvirtd or virtqemud, or name its socket in hypervisor.uri"),
    ("connection refused", "start libvirtd or virtqemud"),
    ("permission denied", "libvirt's `unix_sock_ro_perms` must let the agent's user connect"),
    ("authentication", "libvirt's `auth_unix_ro` or polkit must let the agent's user read"),
)
"""What to do where libvirt's socket does not open, by what its message says."""


class Oversize(Refused):
    """The answer does not fit into one of libvirt's messages; ask for fewer domains at once."""


class Gone(Refused):
    """The domain is not there any more, which is a race and no fault."""


def unreachable(error: libvirt.libvirtError) -> Disconnected:
    """Tell why no connection could be opened, and what to do where that is known."""
    message = error.get_error_message() or str(error)
    if "connect socket to" in message or "authentication" in message.casefold():
        for said, mend in MENDS:
            if said in message.casefold():
                return Disconnected(f"{message}; {mend}")
    return Disconnected(message)


def translated(error: libvirt.libvirtError, *, alive: bool) -> VirtstatdError:
    """
    Tell what the caller should do about `error`.

    A connection's death is read from `isAlive`, never from the code: a dead one answers with
    INTERNAL_ERROR, SYSTEM_ERROR or "cause is unknown", as it comes.
    """
    message = error.get_error_message() or "the cause is unknown"
    if not alive:
        return Disconnected(message)
    if any(text in message for text in TOO_LARGE):
        return Oversize(message)
    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
        return Gone(message)
    return Refused(message)

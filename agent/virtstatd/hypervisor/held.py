"""Whether a guest is held by another client, found out without asking its monitor."""

from __future__ import annotations

from typing import Final

import libvirt


HELD_MILLISECONDS: Final = 500
"""While calls hang, a monitor that has been busy for so long may be the reason."""


def is_held(handle: libvirt.virDomain) -> bool:
    """Return whether a client has waited for a domain's monitor for long; queries no monitor."""
    try:
        state, _, milliseconds = handle.controlInfo()
    except libvirt.libvirtError:  # it has ended, or the driver does not support the call
        return False
    return bool(state) and milliseconds >= HELD_MILLISECONDS

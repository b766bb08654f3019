"""The bulk call on libvirt's own structures: the binding would make objects of each value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import libvirt

from virtstatd._fast import LIBVIRT, TAKE
from virtstatd._fast.records import Libvirt, MakeTake, Records


LIBRARY = "libvirt.so.0"
"""The one that the binding has loaded; nothing else is loaded under this name."""


@dataclass(frozen=True, slots=True)
class Structures:
    """Libvirt's functions, and what makes plans for their records."""

    library: Libvirt
    make: MakeTake

    @contextmanager
    def records(
        self,
        connection: libvirt.virConnect,
        domains: list[libvirt.virDomain] | None,
        bits: int,
        flags: int,
    ) -> Iterator[Records]:
        """
        Ask for the statistics of these domains, None for all, as long as the block lasts.

        Raises libvirtError as the binding does.
        """
        if domains is None:
            records = self.library.all(connection.c_pointer(), bits, flags)
        else:
            records = self.library.of([each.c_pointer() for each in domains], bits, flags)
        if records is None:
            raise libvirt.libvirtError("the statistics of domains failed")
        try:
            yield records
        finally:
            records.free()


@cache
def structures() -> Structures | None:
    """Return them, None without the library in C, or if the loaded libvirt is not as expected."""
    if LIBVIRT is None or TAKE is None:
        return None
    try:
        return Structures(LIBVIRT(LIBRARY), TAKE)
    except OSError:
        return None

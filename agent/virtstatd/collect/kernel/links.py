"""
Counters of the guests' network interfaces: all of them in one pass over the kernel's table.

`/proc/PID/net/dev` of a guest's QEMU has the interfaces of the network namespace that the guest is
in, whichever namespace the agent is in. The kind of an interface's device is read from sysfs, which
shows one namespace: the agent's own, or that of the guest's mounts if the agent may read there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtstatd.model import Reading
from virtstatd.runtime.kernel_files import Folder


Link = tuple[bytes, bool]
"""An interface's name on the host, and whether the host counts its direction as the guest does."""

LinkTable = Mapping[bytes, bytes]
"""The rows of the kernel's table by the interfaces' names."""

KEYS = tuple(f"{way}.{what}" for way in ("rx", "tx") for what in ("bytes", "pkts", "errs", "drop"))

_INFO = "libvirt_domain_interface_stats_info"
_RECEIVED = (0, 1, 2, 3)
_SENT = (8, 9, 10, 11)
_SWAPPED = (*_SENT, *_RECEIVED)  # what a tap receives, its guest sent
_SHARED = (*_RECEIVED, *_SENT)

_OF_A_GUEST: Final = {"tun_flags": False, "macvtap": True, "ipvtap": True}
"""By an entry of a device's directory in sysfs, whether directions are those of the guest."""

_NO_DEVICES: Final = frozenset({"bonding_masters"})
"""Entries in the directory of devices that are no devices."""

_TAPS_OWN: Final = "fe"
"""Prefix of the address of a tap, which libvirt derives from its guest's."""


def nics_of(described: Sequence[Reading]) -> dict[bytes, str]:
    """Return the addresses of the NICs whose description names a device, by that name."""
    return dict(_nics(described))


def _nics(described: Sequence[Reading]) -> Iterator[tuple[bytes, str]]:
    for reading in described:
        for series in reading.shape.series:
            if series.field.family == _INFO:
                labels = dict(series.labels)
                if name := labels.get("target_device"):
                    yield name.encode(), labels.get("mac_address", "").lower()


class Devices:
    """The network devices that sysfs shows."""

    def __init__(self, proc: Path = Path("/proc"), devices: Path = Path("/sys")) -> None:
        self._table = proc / "self/net/dev"
        self._folder = devices / "class/net"

    def links(self, folder: Folder, names: Collection[bytes], rows: LinkTable) -> tuple[Link, ...]:
        """
        Return the guest's interfaces that are its own devices, and the direction of each.

        An interface in the table that cannot be seen in sysfs, or is no device of a guest, is left
        out: nothing is guessed.
        """
        found: list[Link] = []
        for name in names:
            if name in rows:
                entries = self._entries(folder, name.decode(), rows)
                kinds = [kind for entry, kind in _OF_A_GUEST.items() if entry in entries]
                found += [(name, kind) for kind in kinds[:1]]
        return tuple(found)

    def renamed(self, folder: Folder, address: str) -> str:
        """Return the device that has a guest's address, "" if there is none or it is hidden."""
        if not address or not self._is_ours(folder):
            return ""
        with suppress(OSError):
            for device in sorted(self._folder.iterdir()):
                with suppress(OSError):
                    seen = (device / "address").read_text().strip()
                    if seen in (address, _TAPS_OWN + address[2:]):
                        return device.name
        return ""

    def _entries(self, folder: Folder, name: str, rows: LinkTable) -> Collection[str]:
        with suppress(OSError):
            if self._is_ours(folder):
                return os.listdir(self._folder / name)
            shown = set(folder.names("root/sys/class/net")) - _NO_DEVICES
            if shown == {each.decode() for each in rows}:  # it is of the guest's namespace
                return folder.names(f"root/sys/class/net/{name}")
        return ()

    def _is_ours(self, folder: Folder) -> bool:
        """Return whether a guest is in the agent's network namespace: the tables are one file."""
        with suppress(OSError):
            return folder.inode("net/dev") == self._table.stat().st_ino
        return False


def link_table(text: bytes) -> LinkTable:
    """Return the rows of the kernel's table by the interfaces' names."""
    rows = {}
    for line in text.splitlines()[2:]:
        name, _, row = line.rpartition(b":")
        rows[name.lstrip()] = row
    return rows


def counters(row: bytes, *, shared: bool) -> tuple[int, ...]:
    """Return the counters of one row in the order of `KEYS`, as the guest sees them."""
    numbers = row.split()
    return tuple([int(numbers[at]) for at in (_SHARED if shared else _SWAPPED)])

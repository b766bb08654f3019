"""
The storage that a disk is on: a pool, an RBD pool, a mounted file system, a device of the host.

From what the guest's XML says, and for files and devices of this host from the table of mounts and
from sysfs. Nothing on a file system of the network is touched: a server that is away would block
the call.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from virtstatd.runtime.mounts import Mount, mounted


StorageName = tuple[str, str]
"""The kind of a storage, and its name."""

FAR: Final = frozenset(
    {
        *("9p", "afs", "autofs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre"),
        *("nfs", "nfs4", "smb3", "smbfs", "virtiofs"),
    }
)
"""File systems whose server may be away; also those of `fuse.*`."""

NAMELESS: Final = frozenset({"overlay", "ramfs", "rootfs", "tmpfs"})
"""File systems of which there are several from one source."""

LINKS_MAX: Final = 40
"""Symbolic links in a path; the kernel follows no more."""

_RBD: Final = "/dev/rbd/"


Local = Callable[[str, str], StorageName]
"""Names the storage of a path, of a disk of some type."""


def storage_of(disk: Mapping[str, str], local: Local) -> StorageName | None:
    """
    Return the storage of a disk by its labels; None for one without a medium.

    `local` names the storage of a path of the host, of a file or of a device.
    """
    place, kind = disk.get("source_file", ""), disk.get("disk_type", "")
    if not place:
        return None
    if kind == "volume":
        return "pool", place.partition("/")[0]
    if kind == "network":
        return disk.get("source_protocol", kind), place.partition("/")[0] or place
    if kind == "block" and place.startswith(_RBD):
        return "rbd", place.removeprefix(_RBD).partition("/")[0]
    if kind in ("file", "block", "dir") and place.startswith("/"):
        return local(kind, place)
    return kind or "unknown", place


def elsewhere(kind: str, path: str) -> StorageName:
    """Name the storage of a path of another host: the device, or the directory of the file."""
    return ("device", path) if kind == "block" else ("directory", str(PurePosixPath(path).parent))


class Here:
    """Names the storage of paths of this host, by its mounts as they are when it is made."""

    def __init__(self, proc: Path = Path("/proc"), devices: Path = Path("/sys")) -> None:
        self._devices = devices / "class/block"
        # those of the first process are the host's: the agent's own may hide directories
        self._mounts = mounted(proc / "1/mountinfo") or mounted(proc / "self/mountinfo")

    def __call__(self, kind: str, path: str) -> StorageName:
        """Name the storage of a file or a device."""
        found = self.resolved(path)
        if kind == "block":
            return self._device(found)
        mount = self._mount(found)
        if mount is None:
            return elsewhere(kind, path)
        return mount.kind, mount.point if mount.kind in NAMELESS else mount.source

    def resolved(self, path: str) -> str:
        """Follow symbolic links, except for those beyond the mount of a far file system."""
        parts, done, links = deque(path.split("/")), "/", 0
        while parts:
            part = parts.popleft()
            if part in ("", "."):
                continue
            here = os.path.normpath(os.path.join(done, part))  # noqa: PTH118 - strings throughout
            if (mount := self._mount(here)) and (mount.kind in FAR or mount.kind[:5] == "fuse."):
                return os.path.normpath("/".join((here, *parts)))
            done = here
            with suppress(OSError):
                target = os.readlink(here)  # noqa: PTH115 - a string, and none of its parts is read
                links += 1
                if links > LINKS_MAX:
                    return path
                done = "/" if target.startswith("/") else os.path.dirname(here)  # noqa: PTH120
                parts.extendleft(reversed(target.split("/")))
        return done

    def _mount(self, path: str) -> Mount | None:
        """Return the mount that a path is on, the last one where several are at one place."""
        found: Mount | None = None
        for mount in self._mounts:
            inside = f"{path}/".startswith(f"{mount.point.rstrip('/')}/")
            if inside and (found is None or len(mount.point) >= len(found.point)):
                found = mount
        return found

    def _device(self, path: str) -> StorageName:
        """Name the volume group of a logical volume, a multipath device, or the device itself."""
        folder = self._devices / path.rpartition("/")[2] / "dm"
        with suppress(OSError):
            kind, name = ((folder / file).read_text().strip() for file in ("uuid", "name"))
            if kind.startswith("LVM-"):
                return "lvm", _group(name)
            return ("multipath" if kind.startswith("mpath-") else "device"), name
        return "device", path


def _group(name: str) -> str:
    """Return the volume group in `group-volume`, where a dash within a name is doubled."""
    return name.replace("--", "\0").partition("-")[0].replace("\0", "-")

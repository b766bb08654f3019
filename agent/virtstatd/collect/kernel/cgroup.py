"""
A guest's cgroup: its place, and the numbers in its files.

Versions 1 and 2 and a host that has both: each fact comes from version 2 if the guest has a group
there with the file, otherwise from the controller of version 1 that has it. A missing file is a
fact that this host does not count.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from virtstatd._fast.plain import Layout, Parsed
from virtstatd.collect.kernel.blind import mounts
from virtstatd.collect.kernel.controllers import FILES, WANTED, Fact, FactRow, Parse, throttling
from virtstatd.model import Number
from virtstatd.runtime.kernel_files import Descriptors, File, Files, Place


_OWN = re.compile(r"(?:machine-qemu\\x2d|qemu-)(\d+)(?:\\x2d|-)[^/]*\.(?:scope|libvirt-qemu)")
_WITHIN = re.compile(r"/(?:emulator|vcpu\d+|iothread\d+)$")


class Hierarchies:
    """
    Where the cgroups of this host are.

    Paths in /proc/PID/cgroup are relative to the agent's own cgroup namespace, "/../.." if outside
    of it, and a mount may show less than the whole, or more than the namespace has: so a group is
    searched under its mount's root.
    """

    def __init__(self, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> None:
        self.root = root
        found = mounts(proc, "cgroup", "cgroup2")
        self._roots = {point: shown for point, (shown, _) in found.items()}
        both = root / "unified"
        self.unified = both if (both / "cgroup.controllers").exists() else None
        if (root / "cgroup.controllers").exists():
            self.unified = root

    def folders(self, text: str, number: int) -> tuple[dict[str, Path], str]:
        """
        Return the guest's own directories by controller, "" for version 2, and a hidden group.

        `text` is the process' `/proc/PID/cgroup`. A group counts only if its name has libvirt's
        number of this run: the name itself is shortened and not unique.
        """
        found: dict[str, Path] = {}
        hidden = ""
        for line in filter(None, text.split("\n")):  # a path may hold Unicode's ends of lines
            _, controllers, path = line.split(":", 2)
            own = _WITHIN.sub("", path).removesuffix("/libvirt")
            match = _OWN.fullmatch(own.rpartition("/")[2])
            if match is None or int(match[1]) != number:
                continue
            for controller in controllers.split(","):
                names = (controllers, controller) if controllers else ()
                mount = self._first(self.root / name for name in names)
                mount = mount if controllers else self.unified
                if mount and (folder := self._shown(mount, own)):
                    found[controller] = folder
                else:
                    hidden = own
        return found, hidden

    @staticmethod
    def _first(paths: Iterator[Path]) -> Path | None:
        return next((path for path in paths if path.is_dir()), None)

    def _shown(self, mount: Path, group: str) -> Path | None:
        """Return where a mount shows a group, None if it does not."""
        up, parts = _steps(group)
        root_up, root_parts = _steps(self._roots.get(mount.resolve(), "/"))
        if up == root_up and parts[: len(root_parts)] == root_parts:
            folder = mount.joinpath(*parts[len(root_parts) :])
            return folder if folder.is_dir() else None
        if up < root_up and not root_parts:  # beside the agent's own: the namespace hides its path
            pattern = "/".join([*["*"] * (root_up - up), *map(glob.escape, parts)])
            found = list(mount.glob(pattern))
            return found[0] if len(found) == 1 else None
        return None


def _steps(path: str) -> tuple[int, tuple[str, ...]]:
    """Return how often a path goes up from the root of the cgroup namespace, and the rest."""
    parts = tuple(part for part in path.split("/") if part)
    up = sum(part == ".." for part in parts)
    return up, parts[up:]


class Cgroup:
    """The files of one guest's cgroup, kept open."""

    def __init__(self, folders: dict[str, Path], descriptors: Descriptors) -> None:
        own: list[tuple[File, Layout, Parse]] = []
        inner: list[tuple[File, Layout, Parse]] = []
        done: set[str] = set()
        for controller, sources in FILES:
            if controller not in folders:
                continue
            folder = Place(folders[controller])
            if controller in ("", "cpu"):
                limited = _limited(folders[controller], folder, descriptors)
                inner += [(file, Layout.PAIRS, throttling) for file in limited]
            for name, what, layout, parse in sources:
                if done & set(what.split("+")):
                    continue
                with suppress(OSError):
                    file = File(folder, name, descriptors)
                    if _readable(file):
                        own.append((file, layout, parse))
                        done.update(what.split("+"))
                    else:
                        file.close()
        self.missing = WANTED - done if done else frozenset({"cgroups"})
        every = (*own, *inner)
        self._files = Files([file for file, _, _ in every], [layout for _, layout, _ in every])
        self._parses = [parse for _, _, parse in every]
        self._own = len(own)
        self._said: tuple[Parsed | None, ...] = (None,) * len(every)
        self._rows: list[list[FactRow]] = [[]] * len(every)
        self._whole: dict[Fact, Number] = {}

    def read(self) -> dict[Fact, Number]:
        """
        Return the current numbers, the same object as before if nothing has changed.

        Raises OSError when the group has gone, LookupError or ValueError if a file is another's.
        """
        says = self._files.read()
        if says is self._said:
            return self._whole
        for at, (said, former) in enumerate(zip(says, self._said, strict=True)):
            if said is not former:
                self._rows[at] = self._parses[at](said)
        whole: dict[Fact, Number] = {}
        for rows in self._rows[: self._own]:
            whole.update(rows)
        for rows in self._rows[self._own :]:
            whole.update([(fact, whole[fact] + number) for fact, number in rows if fact in whole])
        self._said, self._whole = says, whole
        return whole

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _limited(path: Path, folder: Place, descriptors: Descriptors) -> Iterator[File]:
    """
    Open the files with the throttling of single vCPUs, if they have a limit.

    Libvirt's `<quota>` limits each vCPU in a group of its own, whose throttling the guest's group
    does not count.
    """
    for level in ("", "libvirt/"):  # systemd's scope has the latter
        with suppress(OSError):
            for name in sorted(os.listdir(path / level)):
                if _WITHIN.fullmatch(f"/{name}") and _has_limit(folder, f"{level}{name}"):
                    with suppress(OSError):
                        yield File(folder, f"{level}{name}/cpu.stat", descriptors)


def _has_limit(folder: Place, name: str) -> bool:
    for file, none in (("cpu.max", b"max"), ("cpu.cfs_quota_us", b"-1")):
        with suppress(OSError):
            return folder.read(f"{name}/{file}").split()[:1] != [none]
    return False


def _readable(file: File) -> bool:
    """Return whether a file can be read: with pressure switched off it can only be opened."""
    try:
        file.read()
    except OSError:
        return False
    return True

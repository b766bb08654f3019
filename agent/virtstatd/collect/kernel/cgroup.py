"""
A guest's cgroup: where it is, and what its files say.

Versions 1 and 2 and a host that has both: each fact comes from version 2 where the guest has a
group there with the file, and else from the controller of version 1 that has it. A file that is
not there is a fact that this host does not keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtstatd.collect.kernel.controllers import FILES, WANTED, Fact, FactRow, Parse, throttling
from virtstatd.model import Number
from virtstatd.runtime.kernel_files import Descriptors, File, Files, Place


_OWN = re.compile(r"(?:machine-qemu\\x2d|qemu-)(\d+)(?:\\x2d|-)[^/]*\.(?:scope|libvirt-qemu)")
_WITHIN = re.compile(r"/(?:emulator|vcpu\d+|iothread\d+)$")
_UNREAD: Final = b"\0"
"""What no file says."""


class Hierarchies:
    """Where the cgroups of this host are."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup")) -> None:
        self.root = root
        both = root / "unified"
        self.unified = both if (both / "cgroup.controllers").exists() else None
        if (root / "cgroup.controllers").exists():
            self.unified = root

    def folders(self, text: str, number: int) -> dict[str, Path]:
        """
        Return the guest's own directories by controller, "" for version 2.

        `text` is the process' `/proc/PID/cgroup`. A group counts only when its name has libvirt's
        number of this run: the name itself is shortened and not unique.
        """
        found: dict[str, Path] = {}
        for line in text.splitlines():
            _, controllers, path = line.split(":", 2)
            own = _WITHIN.sub("", path).removesuffix("/libvirt")
            match = _OWN.fullmatch(own.rpartition("/")[2])
            if match is None or int(match[1]) != number:
                continue
            if not controllers:
                if self.unified:
                    found[""] = self.unified / own.lstrip("/")
                continue
            for controller in controllers.split(","):
                for name in (controllers, controller):
                    if (self.root / name).is_dir():
                        found[controller] = self.root / name / own.lstrip("/")
                        break
        return found


class Cgroup:
    """The files of one guest's cgroup, kept open."""

    def __init__(self, folders: dict[str, Path], descriptors: Descriptors) -> None:
        own: list[tuple[File, Parse]] = []
        inner: list[tuple[File, Parse]] = []
        done: set[str] = set()
        for controller, sources in FILES:
            if controller not in folders:
                continue
            folder = Place(folders[controller])
            if controller in ("", "cpu"):
                limited = _limited(folders[controller], folder, descriptors)
                inner += [(file, throttling) for file in limited]
            for name, what, parse in sources:
                if done & set(what.split("+")):
                    continue
                with suppress(OSError):
                    file = File(folder, name, descriptors)
                    if _readable(file):
                        own.append((file, parse))
                        done.update(what.split("+"))
                    else:
                        file.close()
        self.missing = WANTED - done if done else frozenset({"cgroups"})
        self._files = Files(tuple([file for file, _ in (*own, *inner)]))
        self._parses = [parse for _, parse in (*own, *inner)]
        self._own = len(own)
        self._texts = [_UNREAD] * len(self._parses)
        self._rows: list[list[FactRow]] = [[]] * len(self._parses)
        self._whole: dict[Fact, Number] = {}

    def read(self) -> dict[Fact, Number]:
        """
        Return what there is now, the same object as before where nothing has changed.

        Raises OSError when the group has gone.
        """
        texts = self._files.read()
        if texts == self._texts:
            return self._whole
        for at, (text, former) in enumerate(zip(texts, self._texts, strict=True)):
            if text != former:
                self._rows[at] = self._parses[at](text)
        whole: dict[Fact, Number] = {}
        for rows in self._rows[: self._own]:
            whole.update(rows)
        for rows in self._rows[self._own :]:
            whole.update([(fact, whole[fact] + number) for fact, number in rows if fact in whole])
        self._texts, self._whole = texts, whole
        return whole

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()


def _limited(path: Path, folder: Place, descriptors: Descriptors) -> Iterator[File]:
    """
    Open what counts the throttling of single vCPUs, where they have a limit.

    Libvirt's `<quota>` limits each vCPU in a group of its own, which the whole does not count.
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
    """Tell whether a file can be read: where pressure is switched off it only can be opened."""
    try:
        file.read()
    except OSError:
        return False
    return True

"""
What a guest's cgroup counts: CPU time, throttling, pressure, memory and I/O.

Versions 1 and 2 and a host that has both: each fact comes from version 2 where the guest has a
group there with the file, and else from the controller of version 1 that has it. A file that is
not there is a fact that this host does not keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtstatd.local.files import Descriptors, File, Place
from virtstatd.model import Labels, Number


Fact = tuple[str, str, Labels]
"""A series: the catalog's group and key, and the labels."""

Row = tuple[Fact, Number]
Parse = Callable[[bytes], list[Row]]

USAGE: Final[Fact] = ("cpu", "time", ())

_OWN = re.compile(r"(?:machine-qemu\\x2d|qemu-)(\d+)(?:\\x2d|-)[^/]*\.(?:scope|libvirt-qemu)")
_WITHIN = re.compile(r"/(?:emulator|vcpu\d+|iothread\d+)$")
_TICK_NANOSECONDS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_NO_FACT: Final[Labels] = ()


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
        self._inner: list[File] = []
        self._files: list[tuple[File, Parse]] = []
        done: set[str] = set()
        for controller, names in _FILES:
            if controller not in folders:
                continue
            folder = Place(folders[controller])
            if controller in ("", "cpu"):
                self._inner += _limited(folders[controller], folder, descriptors)
            for name, what, parse in names:
                if done & set(what.split("+")):
                    continue
                with suppress(OSError):
                    file = File(folder, name, descriptors)
                    if _readable(file):
                        self._files.append((file, parse))
                        done.update(what.split("+"))
                    else:
                        file.close()
        self.missing = frozenset(_WHAT - done) if done else frozenset({"cgroups"})

    def read(self) -> list[Row]:
        """Return what there is now; raises OSError when the group has gone."""
        rows = [row for file, parse in self._files for row in parse(file.read())]
        for file in self._inner:
            inner = dict(_inner(file.read()))
            rows = [(fact, number + inner.get(fact, 0)) for fact, number in rows]
        return rows

    def close(self) -> None:
        """Let go of the files."""
        for file in (*self._inner, *(file for file, _ in self._files)):
            file.close()
        self._files, self._inner = [], []


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


def _inner(text: bytes) -> list[Row]:
    pairs = _pairs(text)
    nanoseconds = pairs.get(b"throttled_usec", 0) * 1000 + pairs.get(b"throttled_time", 0)
    return _throttling(pairs, nanoseconds)


def _readable(file: File) -> bool:
    """Tell whether a file can be read: where pressure is switched off it only can be opened."""
    try:
        file.read()
    except OSError:
        return False
    return True


def _pairs(text: bytes) -> dict[bytes, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=False))


def _cpu(text: bytes) -> list[Row]:
    """Return CPU time, and throttling where the group can have a limit; microseconds."""
    pairs = _pairs(text)
    rows: list[Row] = [
        (USAGE, pairs[b"usage_usec"] * 1000),
        (_USER, pairs[b"user_usec"] * 1000),
        (_SYSTEM, pairs[b"system_usec"] * 1000),
    ]
    if b"nr_periods" in pairs:
        rows += _throttling(pairs, pairs[b"throttled_usec"] * 1000)
    return rows


def _cpu_v1(text: bytes) -> list[Row]:
    pairs = _pairs(text)
    return _throttling(pairs, pairs[b"throttled_time"])


def _throttling(pairs: dict[bytes, int], nanoseconds: int) -> list[Row]:
    return [
        (_PERIODS, pairs[b"nr_periods"]),
        (_THROTTLED_PERIODS, pairs[b"nr_throttled"]),
        (_THROTTLED, nanoseconds),
    ]


def _usage_v1(text: bytes) -> list[Row]:
    return [(USAGE, int(text))]


def _modes_v1(text: bytes) -> list[Row]:
    pairs = _pairs(text)
    return [
        (_USER, pairs[b"user"] * _TICK_NANOSECONDS),
        (_SYSTEM, pairs[b"system"] * _TICK_NANOSECONDS),
    ]


def _pressure(resource: str) -> Parse:
    labels = (("resource", resource),)
    some: Fact = ("local", "pressure_some", labels)
    full: Fact = ("local", "pressure_full", labels)

    def parse(text: bytes) -> list[Row]:
        totals = text.split(b"total=")[1:]
        return list(zip((some, full), [int(total.split(None, 1)[0]) for total in totals]))  # noqa: B905 - old kernels have no "full" for the CPU

    return parse


def _memory(text: bytes) -> list[Row]:
    return [(_MEMORY, int(text))]


def _events(text: bytes) -> list[Row]:
    pairs = _pairs(text)
    return [(_OOM, pairs[b"oom"]), (_OOM_KILLS, pairs[b"oom_kill"])]


def _events_v1(text: bytes) -> list[Row]:
    pairs = _pairs(text)
    return [(_OOM_KILLS, pairs[b"oom_kill"])] if b"oom_kill" in pairs else []


def _io(text: bytes) -> list[Row]:
    """Return what each disk of the host read and wrote for the group, device by number."""
    found: dict[bytes, dict[bytes, bytes]] = {}
    for line in text.splitlines():
        device, *words = line.split()
        pairs = dict(word.split(b"=", 1) for word in words if b"=" in word)
        if b"rbytes" in pairs:
            found[device] = pairs
    return [
        (("local", key, (("device", device.decode()),)), int(pairs[name]))
        for key, name in _IO_KEYS
        for device, pairs in found.items()
    ]


def _io_v1(ways: Sequence[tuple[bytes, str]]) -> Parse:
    def rows(text: bytes) -> Iterator[Row]:
        lines = [line.split() for line in text.splitlines()]
        for way, key in ways:
            for words in lines:
                if len(words) == 3 and words[1] == way:  # noqa: PLR2004 - device, way, number
                    yield ("local", key, (("device", words[0].decode()),)), int(words[2])

    return lambda text: list(rows(text))


_USER: Final[Fact] = ("cpu", "user", ())
_SYSTEM: Final[Fact] = ("cpu", "system", ())
_PERIODS: Final[Fact] = ("local", "throttle_periods", _NO_FACT)
_THROTTLED_PERIODS: Final[Fact] = ("local", "throttled_periods", _NO_FACT)
_THROTTLED: Final[Fact] = ("local", "throttled", _NO_FACT)
THROTTLING: Final = (_PERIODS, _THROTTLED_PERIODS, _THROTTLED)
_MEMORY: Final[Fact] = ("local", "group_memory", _NO_FACT)
_OOM: Final[Fact] = ("local", "oom", _NO_FACT)
_OOM_KILLS: Final[Fact] = ("local", "oom_kills", _NO_FACT)
_IO_KEYS: Final = (
    ("read_bytes", b"rbytes"),
    ("write_bytes", b"wbytes"),
    ("read_requests", b"rios"),
    ("write_requests", b"wios"),
)

# by controller, "" for version 2: the file, what it is for, and how it is read; the first that is
# there gives what it is for, and the order keeps the series of a family together
_FILES: Final[tuple[tuple[str, tuple[tuple[str, str, Parse], ...]], ...]] = (
    (
        "",
        (
            ("cpu.stat", "cpu time+cpu modes", _cpu),
            ("memory.current", "memory", _memory),
            ("memory.events", "memory events", _events),
            ("io.stat", "io+io requests", _io),
            ("cpu.pressure", "cpu pressure", _pressure("cpu")),
            ("memory.pressure", "memory pressure", _pressure("memory")),
            ("io.pressure", "io pressure", _pressure("io")),
        ),
    ),
    (
        "cpuacct",
        (("cpuacct.usage", "cpu time", _usage_v1), ("cpuacct.stat", "cpu modes", _modes_v1)),
    ),
    ("cpu", (("cpu.stat", "throttling", _cpu_v1),)),
    (
        "memory",
        (
            ("memory.usage_in_bytes", "memory", _memory),
            ("memory.oom_control", "memory events", _events_v1),
        ),
    ),
    (
        "blkio",
        (
            (
                "blkio.throttle.io_service_bytes_recursive",
                "io",
                _io_v1(((b"Read", "read_bytes"), (b"Write", "write_bytes"))),
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "io requests",
                _io_v1(((b"Read", "read_requests"), (b"Write", "write_requests"))),
            ),
        ),
    ),
)
_WHAT: Final = frozenset({"cpu time", "memory", "io", "cpu pressure"})

"""
The files of a cgroup's controllers: what each counts, and how it is parsed.

Names and units are those of version 2; version 1's numbers are converted to them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from virtstatd._fast.plain import Layout
from virtstatd.model import Labels, Number


Fact = tuple[str, str, Labels]
"""A series: the catalog's group and key, and the labels."""

FactRow = tuple[Fact, Number]
Parse = Callable[[Any], list[FactRow]]
"""Makes facts of what a file says, which is of the type that its layout has."""

Source = tuple[str, str, Layout, Parse]
"""A file of a controller, its facts, its layout, and what makes these of it."""

USAGE: Final[Fact] = ("cpu", "time", ())

_TICK_NANOSECONDS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_NO_FACT: Final[Labels] = ()


def _cpu(pairs: dict[bytes, int]) -> list[FactRow]:
    """Return CPU time, and throttling if the group can have a limit; microseconds."""
    rows: list[FactRow] = [
        (USAGE, pairs[b"usage_usec"] * 1000),
        (_USER, pairs[b"user_usec"] * 1000),
        (_SYSTEM, pairs[b"system_usec"] * 1000),
    ]
    if b"nr_periods" in pairs:
        rows += _throttling(pairs, pairs[b"throttled_usec"] * 1000)
    return rows


def _throttling(pairs: dict[bytes, int], nanoseconds: int) -> list[FactRow]:
    return [
        (_PERIODS, pairs[b"nr_periods"]),
        (_THROTTLED_PERIODS, pairs[b"nr_throttled"]),
        (_THROTTLED, nanoseconds),
    ]


def throttling(pairs: dict[bytes, int]) -> list[FactRow]:
    """Return only the throttling, of a `cpu.stat` of either version."""
    nanoseconds = pairs.get(b"throttled_usec", 0) * 1000 + pairs.get(b"throttled_time", 0)
    return _throttling(pairs, nanoseconds)


def _usage_v1(numbers: list[int]) -> list[FactRow]:
    return [(USAGE, numbers[0])]


def _modes_v1(pairs: dict[bytes, int]) -> list[FactRow]:
    return [
        (_USER, pairs[b"user"] * _TICK_NANOSECONDS),
        (_SYSTEM, pairs[b"system"] * _TICK_NANOSECONDS),
    ]


def _pressure(resource: str) -> Parse:
    labels = (("resource", resource),)
    some: Fact = ("local", "pressure_some", labels)
    full: Fact = ("local", "pressure_full", labels)

    # old kernels have no "full" for the CPU
    return lambda totals: list(zip((some, full), totals, strict=False))


def _memory(numbers: list[int]) -> list[FactRow]:
    return [(_MEMORY, numbers[0])]


def _events(pairs: dict[bytes, int]) -> list[FactRow]:
    return [(_OOM, pairs[b"oom"]), (_OOM_KILLS, pairs[b"oom_kill"])]


def _events_v1(pairs: dict[bytes, int]) -> list[FactRow]:
    return [(_OOM_KILLS, pairs[b"oom_kill"])] if b"oom_kill" in pairs else []


def _io(text: bytes) -> list[FactRow]:
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
    def rows(text: bytes) -> Iterator[FactRow]:
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
FILES: Final[tuple[tuple[str, tuple[Source, ...]], ...]] = (
    (
        "",
        (
            ("cpu.stat", "cpu time+cpu modes", Layout.PAIRS, _cpu),
            ("memory.current", "memory", Layout.NUMBERS, _memory),
            ("memory.events", "memory events", Layout.PAIRS, _events),
            ("io.stat", "io+io requests", Layout.TEXT, _io),
            ("cpu.pressure", "cpu pressure", Layout.TOTALS, _pressure("cpu")),
            ("memory.pressure", "memory pressure", Layout.TOTALS, _pressure("memory")),
            ("io.pressure", "io pressure", Layout.TOTALS, _pressure("io")),
        ),
    ),
    (
        "cpuacct",
        (
            ("cpuacct.usage", "cpu time", Layout.NUMBERS, _usage_v1),
            ("cpuacct.stat", "cpu modes", Layout.PAIRS, _modes_v1),
        ),
    ),
    ("cpu", (("cpu.stat", "throttling", Layout.PAIRS, throttling),)),
    (
        "memory",
        (
            ("memory.usage_in_bytes", "memory", Layout.NUMBERS, _memory),
            ("memory.oom_control", "memory events", Layout.PAIRS, _events_v1),
        ),
    ),
    (
        "blkio",
        (
            (
                "blkio.throttle.io_service_bytes_recursive",
                "io",
                Layout.TEXT,
                _io_v1(((b"Read", "read_bytes"), (b"Write", "write_bytes"))),
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "io requests",
                Layout.TEXT,
                _io_v1(((b"Read", "read_requests"), (b"Write", "write_requests"))),
            ),
        ),
    ),
)

WANTED: Final = frozenset({"cpu time", "memory", "io", "cpu pressure"})
"""The facts that a guest's cgroup should count; if it does not, that is logged."""

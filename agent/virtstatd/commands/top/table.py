"""The table of guests: which columns fit, and a line for each guest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from virtstatd.commands.cells import fitted, neutral
from virtstatd.commands.top.lines import (
    GAP,
    MARKS,
    FrameLine,
    FrameSpan,
    Style,
    clipped,
    selected,
    styled,
)
from virtstatd.commands.top.state import Known
from virtstatd.commands.units import (
    any_text,
    bytes_text,
    count_text,
    rate_text,
    ratio_text,
    seconds_text,
)


@dataclass(frozen=True, slots=True)
class TableColumn:
    """
    One column: the key of its value in a guest's row, its heading, width and text.

    Columns are shown in the order of the table; those with a low `rank` remain where it is narrow.
    `down` is whether the largest come first.
    """

    id: str
    title: str
    width: int
    rank: int
    text: Callable[[Any], str]
    down: bool = True
    left: bool = False


NAME: Final = TableColumn("name", "NAME", 14, 0, any_text, down=False, left=True)

COLUMNS: Final = (
    TableColumn("state", "STATE", 8, 10, any_text, down=False, left=True),
    NAME,
    TableColumn("project", "PROJECT", 12, 15, any_text, down=False, left=True),
    TableColumn("vcpus", "vCPU", 5, 11, count_text),
    TableColumn("cpu_ratio", "CPU", 6, 3, ratio_text),
    TableColumn("steal_ratio", "STEAL", 6, 1, ratio_text),
    TableColumn("steal_peak_ratio", "PEAK", 6, 2, ratio_text),
    TableColumn("memory_used_bytes", "MEMORY", 7, 4, bytes_text),
    TableColumn("memory_max_bytes", "OF", 7, 12, bytes_text),
    TableColumn("disk_latency_seconds", "LATENCY", 8, 5, seconds_text),
    TableColumn("disk_read_bytes_per_second", "READ", 8, 6, rate_text),
    TableColumn("disk_write_bytes_per_second", "WRITE", 8, 7, rate_text),
    TableColumn("disk_iops", "IOPS", 6, 13, count_text),
    TableColumn("net_receive_bytes_per_second", "NET IN", 8, 8, rate_text),
    TableColumn("net_transmit_bytes_per_second", "NET OUT", 8, 9, rate_text),
    TableColumn("pressure_cpu_ratio", "PSI CPU", 8, 16, ratio_text),
    TableColumn("pressure_io_ratio", "PSI IO", 7, 14, ratio_text),
    TableColumn("pressure_memory_ratio", "PSI MEM", 8, 17, ratio_text),
    TableColumn("age_seconds", "AGE", 5, 18, seconds_text),
    TableColumn("partition", "PARTITION", 16, 19, any_text, down=False, left=True),
)

LETTERS: Final = {
    "running": "R",
    "blocked": "B",
    "paused": "P",
    "shutdown": "D",
    "shutoff": "O",
    "crashed": "C",
    "pmsuspended": "S",
}
STUCK: Final = "X"
MARK: Final = 4
NAME_MOST: Final = 40


def fitting(width: int) -> list[tuple[TableColumn, int]]:
    """Return the columns that fit, each with its width; the name takes what is left."""
    room = width - MARK - NAME.width
    kept = {NAME.id}
    for column in sorted(COLUMNS, key=lambda each: each.rank):
        if column is NAME:
            continue
        if column.width + len(GAP) > room:
            break
        kept.add(column.id)
        room -= column.width + len(GAP)
    more = min(max(room, 0), NAME_MOST - NAME.width)
    return [
        (column, column.width + more * (column is NAME)) for column in COLUMNS if column.id in kept
    ]


def heading(sort: str, width: int) -> FrameLine:
    """Return the line of headings; the column that is sorted by has a mark."""
    by = sort.removeprefix("-")
    parts = []
    for column, size in fitting(width):
        title = column.title
        if column.id == by:
            title = (">" if sort.startswith("-") else "<") + title
        parts.append(fitted(title, size, right=not column.left))
    return ((fitted(" " * MARK + GAP.join(parts), width), "head"),)


def row(guest: Known, width: int, *, cursor: bool, ascii_only: bool) -> FrameLine:
    """Return the line of a guest."""
    severity = str(guest.get("severity") or "")
    letter = STUCK if guest.get("stuck") else LETTERS.get(str(guest.get("state")), "?")
    style = styled(severity)
    spans: list[FrameSpan] = [(f"{MARKS.get(severity, '  ')}{letter} ", style)]
    for index, (column, size) in enumerate(fitting(width)):
        value = guest.get(column.id)
        if column.id == "state" and guest.get("stuck"):
            value = "STUCK"
        text = neutral(column.text(value), ascii_only=ascii_only)
        shown: Style = style if column is NAME else "plain" if value is not None else "dim"
        gap = GAP if index else ""
        spans.append((gap + fitted(text, size, right=not column.left), shown))
    return selected(spans, width) if cursor else clipped(spans, width)

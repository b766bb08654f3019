"""Lines of a frame: spans of neutral text, each with a style, in cells."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from virtstatd.commands.cells import cells, fitted


Style = Literal["plain", "dim", "head", "good", "warning", "critical", "select"]
FrameSpan = tuple[str, Style]
FrameLine = tuple[FrameSpan, ...]

BARS: Final = "▁▂▃▄▅▆▇█"
ASCII_BARS: Final = "_.-=+*#@"
GAP: Final = " "

MARKS: Final = {"critical": "!!", "warning": " !"}
"""A severity without colours."""


def styled(severity: str) -> Style:
    """Return the style of a severity."""
    if severity == "critical":
        return "critical"
    return "warning" if severity == "warning" else "plain"


def clipped(line: Iterable[FrameSpan], width: int) -> FrameLine:
    """Return a line that ends within `width` cells."""
    kept: list[FrameSpan] = []
    room = width
    for text, style in line:
        shown = text if cells(text) <= room else fitted(text, room)
        if shown:
            kept.append((shown, style))
        room -= cells(shown)
    return tuple(kept)


def selected(line: Iterable[FrameSpan], width: int) -> FrameLine:
    """Return a line as the one that the cursor is on, over the whole width."""
    return ((fitted("".join(text for text, _ in line), width), "select"),)


def headed(text: str, width: int) -> FrameLine:
    """Return a heading over the whole width."""
    return ((fitted(text, width), "head"),)


def parted(parts: Sequence[str], width: int) -> str:
    """Return as many parts as fit whole, two blanks apart."""
    text = ""
    for part in parts:
        longer = f"{text}  {part}" if text else part
        if cells(longer) > width:
            break
        text = longer
    return text


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return a neutral text in lines of at most `width` cells."""
    room = max(width - len(indent), 1)
    lines: list[str] = []
    for line in textwrap.wrap(text, room):
        while cells(line) > room:  # of wide characters only half as many fit
            taken = next(n for n in range(len(line), 0, -1) if n == 1 or cells(line[:n]) <= room)
            lines.append(indent + line[:taken])
            line = line[taken:]  # noqa: PLW2901 - what is left of it
        lines.append(indent + line)
    return lines


def sparkline(
    values: Sequence[float | None],
    width: int,
    *,
    most: float | None = None,
    ascii_only: bool = False,
) -> str:
    """
    Return the last `width` values as bars, blank where there is none.

    `most` is the value of the highest bar; without it the largest of the values is.
    """
    bars = ASCII_BARS if ascii_only else BARS
    shown = list(values)[-width:] if width > 0 else []
    top = most if most is not None else max((each for each in shown if each is not None), default=0)
    text = ""
    for each in shown:
        if each is None:
            text += " "
        else:
            share = min(max(each / top, 0.0), 1.0) if top > 0 else 0.0
            text += bars[round(share * (len(bars) - 1))]
    return text.rjust(max(width, 0))

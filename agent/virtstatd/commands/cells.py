"""
Text from elsewhere in cells of a terminal: nothing of it is interpreted, and its width is known.

Names of guests, disks and labels are what their owners wrote. A terminal obeys control characters,
joins some characters to one glyph, and turns the order of others round, with the numbers beside
them. All of these are shown as a dot.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final


DOT: Final = "·"
QUESTION: Final = "?"

_UNSHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me"})
_TURNING: Final = frozenset({"R", "AL", "AN"})
"""Of writing from right to left: a terminal may move the numbers that follow it."""

_JOINING: Final = re.compile("[\u115f-\u11ff\u3164\uffa0\u2800\ud7b0-\ud7ff\U0001f3fb-\U0001f3ff]")
"""Blank letters, parts of syllables and tones of skin, which have no width of their own."""

_WIDE: Final = frozenset({"W", "F"})


def neutral(text: object, *, ascii_only: bool = False) -> str:
    """Return a text in which each character is shown in one or two cells and does nothing else."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(each, ascii_only) for each in unicodedata.normalize("NFC", text))


def _shown(character: str, ascii_only: bool) -> str:  # noqa: FBT001 - once for each character
    if " " <= character <= "~":
        return character
    if ascii_only:
        return QUESTION
    if unicodedata.category(character) == "Zs":
        return " "
    if (
        unicodedata.category(character) in _UNSHOWN
        or unicodedata.bidirectional(character) in _TURNING
        or _JOINING.match(character)
    ):
        return DOT
    return character


def cells(text: str) -> int:
    """Return the number of cells that a neutral text takes."""
    if text.isascii():
        return len(text)
    return len(text) + sum(unicodedata.east_asian_width(each) in _WIDE for each in text)


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """Return a neutral text in exactly `width` cells; what is cut off ends with a mark."""
    length = cells(text)
    if length > width:
        text, length = _cut(text, width)
    room = " " * (width - length)
    return room + text if right else text + room


def _cut(text: str, width: int) -> tuple[str, int]:
    if width <= 0:
        return "", 0
    mark = "~" if text.isascii() else "…"
    taken = 0
    for index, each in enumerate(text):
        size = cells(each)
        if taken + size > width - 1:
            return text[:index] + mark, taken + 1
        taken += size
    return text, taken

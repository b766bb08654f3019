"""The blocks of an explanation, and how a terminal shows them."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import click


COLUMNS: Final = 80
"""Of what is not a terminal."""

COLUMNS_MIN, COLUMNS_MAX = 40, 100
INDENT: Final = " " * 4


@dataclass(frozen=True, slots=True)
class Heading:
    """A line above the blocks of one subject."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences; names in them are in backquotes."""

    text: str


@dataclass(frozen=True, slots=True)
class Explained:
    """A thing with a name: its facts in a few words, its meaning, and what to do about it."""

    term: str
    facts: str = ""
    text: str = ""
    action: str = ""


HelpBlock = Heading | Paragraph | Explained


def columns() -> int:
    """Return the width of the terminal, within what is easy to read."""
    found = shutil.get_terminal_size((COLUMNS, 24)).columns
    return max(COLUMNS_MIN, min(found, COLUMNS_MAX))


def laid_out(blocks: Iterable[HelpBlock], width: int) -> str:
    """Return the blocks as lines of that width at most, with styles of a terminal."""
    lines: list[str] = []
    before: type[HelpBlock] | None = None
    for block in blocks:
        if before is not None and not (before is type(block) is Explained and not block.text):
            lines.append("")
        lines += _lines(block, width)
        before = type(block)
    return "\n".join(lines) + "\n"


def _lines(block: HelpBlock, width: int) -> Iterator[str]:
    match block:
        case Heading():
            yield from (click.style(line, bold=True) for line in _wrapped(block.text, "", width))
        case Paragraph():
            yield from _wrapped(block.text, "", width)
        case Explained():
            head = f"{block.term} ({block.facts})" if block.facts else block.term
            first, *rest = _wrapped(head, "", width, hang=INDENT)
            name, after = first[: len(block.term)], first[len(block.term) :]
            yield f"{click.style(name, bold=True)}{after}"
            yield from rest
            for text in (block.text, block.action):
                yield from _wrapped(text, INDENT, width)


def _wrapped(text: str, indent: str, width: int, *, hang: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + hang,
        break_long_words=False,
        break_on_hyphens=False,
    )

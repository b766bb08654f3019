"""What the repository's READMEs hold: links, headings, examples, commands."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from virtstatd.commands.reference import PART, TOP, documents


FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@cache
def text_of(file: Path) -> str:
    """Return the text of a file."""
    return file.read_text(encoding="utf-8")


def by_hand(file: Path) -> str:
    """Return what people wrote of a file: without generated parts."""
    return PART.sub("", text_of(file))


def prose(file: Path) -> str:
    """Return a file's text without its fenced blocks."""
    return FENCED.sub("", text_of(file))


def name_of(file: Path) -> str:
    """Return a file's path in the repository."""
    return str(file.relative_to(TOP))


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield the fenced blocks of a language in all files, each with its place."""
    for file in documents():
        for number, found in enumerate(FENCED.finditer(text_of(file)), 1):
            if found[2] == language:
                yield f"{name_of(file)}, block {number}", textwrap.dedent(found[3])


def anchors(file: Path) -> set[str]:
    """Return the anchors of a file's headings, as forges make them."""
    found: list[str] = []
    for title in re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def commands(*programs: str) -> Iterator[tuple[str, str]]:
    """Yield every command of these programs that a file shows, each with its place."""
    for file in documents():
        shown = re.findall(r"^ *[$#] (.+)$", "".join(_consoles(file)), re.MULTILINE)
        shown += [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", prose(file))]
        for each in shown:
            line = re.sub(r"^(sudo|PYTHONPATH=\S+|-u nobody|\.venv/bin/)\s*", "", each)
            if line.split()[0] in programs:
                yield name_of(file), line


def _consoles(file: Path) -> Iterator[str]:
    for found in FENCED.finditer(text_of(file)):
        if found[2] in ("", "console"):
            yield textwrap.dedent(found[3])

"""The mounts of a process, as the kernel lists them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


# numbers, root, point, options, optional fields, and behind the dash kind, source and options
_LINE = re.compile(r"\S+ \S+ \S+ (\S+) (\S+) \S+ (?:.* )?- (\S+) (\S+) (\S+)")


class Mount(NamedTuple):
    """Where something is mounted, the root of it that is shown there, its kind and its source."""

    point: str
    root: str
    kind: str
    source: str
    options: str


def mounted(file: Path) -> list[Mount]:
    """Return the mounts in a `mountinfo`, in the order in which they were made; none without it."""
    found: list[Mount] = []
    try:
        text = file.read_text(errors="surrogateescape")
    except OSError:
        return found
    for line in text.split("\n"):  # a path may hold what Unicode calls the end of a line
        if match := _LINE.match(line):
            root, point, kind, source, options = match.groups()
            found.append(Mount(_plain(point), _plain(root), kind, _plain(source), options))
    return found


def _plain(text: str) -> str:
    r"""Return a path of mountinfo, which has `\040` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)

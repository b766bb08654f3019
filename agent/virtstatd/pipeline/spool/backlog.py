"""What waits in spools, found without opening them: an agent may be using them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtstatd.pipeline.buffer import Tally
from virtstatd.pipeline.spool.checkpoint import NAME
from virtstatd.pipeline.spool.segment import marks


@dataclass(frozen=True, slots=True)
class Backlog:
    """One spool; `waiting` is None where its checkpoint cannot be read."""

    directory: Path
    waiting: Tally | None
    disk_bytes: int

    @property
    def name(self) -> str:
        """The sink that it was made for."""
        return self.directory.name

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self.waiting is not None and not self.waiting.batches


def backlogs(root: Path) -> Iterator[Backlog]:
    """
    Yield every spool under a directory, by name; nothing where there is no directory.

    Raises OSError where this user may not look.
    """
    if root.is_dir():
        for directory in sorted(each for each in root.iterdir() if each.is_dir()):
            size = sum(each.stat().st_size for each in directory.iterdir() if each.is_file())
            yield Backlog(directory, _waiting(directory / NAME), size)


def _waiting(checkpoint: Path) -> Tally | None:
    try:
        content = checkpoint.read_bytes()
    except OSError:
        return None
    known = marks(lambda size, offset: content[offset : offset + size])
    return None if known is None else known[0].end.since(known[0].settled)

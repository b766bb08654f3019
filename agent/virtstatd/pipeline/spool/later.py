"""Spools that a later version of virtstatd has written: kept for that version, never read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.segment import HEADER_BYTES, Foreign, first_position


def set_later_aside(spools: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """
    Rename the spools that only a later version can read; yield the old and the new path.

    One that cannot be renamed stays, and is refused when it is opened.
    """
    files = SpoolFiles()
    for spool in spools:
        if version := _later_format(spool):
            kept = spool.with_name(f"{spool.name}.format-{version}")
            with suppress(OSError):
                lock = files.lock(spool)  # another agent may be using it
                try:
                    files.rename(spool, kept)
                finally:
                    files.close(lock)
                yield spool, kept


def _later_format(spool: Path) -> int | None:
    """Return the format of a segment that this version cannot read, None if there is none."""
    for path in spool.glob("*.segment"):
        with suppress(OSError):
            with path.open("rb") as file:
                head = file.read(HEADER_BYTES)
            try:
                first_position(lambda size, at, head=head: head[at : at + size])  # type: ignore[misc]
            except Foreign as error:
                return error.version
    return None

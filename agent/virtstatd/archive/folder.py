"""The directory of an archive: its names, and files that are there as a whole or not at all."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from virtstatd.archive.journal import FILES, SUFFIX
from virtstatd.archive.old_journal import OLD_SUFFIX
from virtstatd.archive.sorting import TableWriter, table_writer


_FILE = re.compile(r"(\d{4,}-\d\d-\d\dT\d\dZ)(?:\.(\d+))?\.parquet")
_JOURNAL = re.compile(rf"\.(\d+)(?:{re.escape(SUFFIX)}|{re.escape(OLD_SUFFIX)})")
_DRAFT = re.compile(rf"\.{_FILE.pattern}\.new")

HourFiles = dict[str, list[tuple[Path, int]]]
"""The files of each hour with their sizes, in order of time."""


class ArchiveFolder:
    """One directory; everything raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def journals(self) -> list[Path]:
        """Return the journals there are, oldest first."""
        return [self.path / name for name in sorted(filter(_JOURNAL.fullmatch, self._names()))]

    def drafts(self) -> list[Path]:
        """Return the files that were not finished."""
        return [self.path / name for name in filter(_DRAFT.fullmatch, self._names())]

    def hours(self) -> HourFiles:
        """Return the finished files by hour."""
        hours: HourFiles = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                if found := _FILE.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        size = entry.stat().st_size
                        hours.setdefault(found[1], []).append((Path(entry.path), size))
        return {hour: sorted(hours[hour]) for hour in sorted(hours)}

    def journal(self, number: int) -> Path:
        """Return the path of a new journal."""
        return self.path / f".{number:020}{SUFFIX}"

    def flush(self, hour: int, journal: Path) -> Path:
        """Return the path of the flush of a journal into an hour."""
        return self.path / f"{hour_text(hour)}{journal.stem}.parquet"

    def whole(self, hour: str) -> Path:
        """Return the path of an hour that is over."""
        return self.path / f"{hour}.parquet"

    @contextmanager
    def written(self, path: Path, flushes: list[Path] | None = None) -> Iterator[TableWriter]:
        """Yield a writer; the file appears, whole and synced, when the block succeeds."""
        draft = path.with_name(f".{path.name}.new")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            try:
                with table_writer(draft, [each.name for each in flushes or ()]) as file:
                    yield file
                os.fsync(fd)
            finally:
                os.close(fd)
            draft.rename(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise

    def set_aside(self, path: Path) -> None:
        """Rename a file, so that readers skip it."""
        path.rename(path.with_name(f"{path.name}.damaged"))

    def free(self) -> int:
        """Return the bytes of the disk that a user who is not root may still use."""
        return FILES.space(self.path).free

    def sync(self) -> None:
        """Return when the names are durable."""
        FILES.sync_directory(self.path)

    def _names(self) -> list[str]:
        return [each.name for each in self.path.iterdir()]


def hour_text(hour: int) -> str:
    """Return an hour since 1970 as the names of files have it."""
    return time.strftime("%Y-%m-%dT%HZ", time.gmtime(hour * 3600))

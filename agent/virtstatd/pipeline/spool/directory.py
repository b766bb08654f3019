"""The directory of a spool: finds, measures, truncates and removes segments."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from virtstatd.pipeline.spool.checkpoint import UNREADABLE
from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.reader import Segment, scan
from virtstatd.pipeline.spool.segment import Foreign, Position, Read, first_position, next_record


CORRUPT_KEPT = 4

_NAME = re.compile(r"\d{20}\.segment")
_CORRUPT = ".corrupt"


class Directory:
    """Segments as files: found, measured, and removed or set aside."""

    def __init__(self, path: Path, files: SpoolFiles) -> None:
        self.path = path
        self._files = files

    def named(self, position: Position) -> Path:
        """Return the path of the segment that begins at a position."""
        return self.path / f"{position.batches:020}.segment"

    def segments(self) -> list[Segment]:
        """Return the segments, oldest first; rename files that are none."""
        names = sorted(filter(_NAME.fullmatch, self._files.names(self.path)))
        found = [self._found(self.path / name) for name in names]
        return sorted((each for each in found if each), key=lambda each: each.first)

    def end_of(self, segment: Segment, written: Position, *, durable: bool) -> Position | None:
        """
        Return where the last segment ends, None when there is nothing in it.

        A tail beyond `written` is an interrupted write, and is truncated.
        """
        position, offset = segment.first, segment.size
        try:
            with self._opened(segment.path) as (file, read, size):
                position, offset = scan(segment, read, size)
                if durable:  # the writer may have been killed before its sync
                    self._files.sync(file)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            segment.damaged = True
        if position < written:
            segment.damaged = True
        elif offset < segment.size and position > segment.first and not segment.damaged:
            self._cut(segment, offset)
        if position > segment.first:
            return position
        self.discard(segment)
        return None

    def discard(self, segment: Segment) -> None:
        """Remove a segment, or rename it when it is damaged."""
        (self._set_aside if segment.damaged else self.remove)(segment.path)

    def remove(self, path: Path) -> None:
        """Remove a file, which may be gone."""
        with suppress(FileNotFoundError):
            self._files.remove(path)

    def _set_aside(self, path: Path) -> None:
        """Rename a damaged file, and remove all but the newest `CORRUPT_KEPT` of those."""
        with suppress(FileNotFoundError):
            self._files.rename(path, path.with_name(path.name + _CORRUPT))
        every = [name for name in self._files.names(self.path) if name.endswith(_CORRUPT)]
        for name in sorted(every)[:-CORRUPT_KEPT]:
            self.remove(self.path / name)

    def _found(self, path: Path) -> Segment | None:
        """Return a segment that begins with a header, or with a record behind a damaged one."""
        try:
            with self._opened(path) as (_, read, size):
                if (first := first_position(read)) is not None:
                    return Segment(path, first, size)
                if behind := next_record(read, 0, size):
                    return Segment(path, behind.position, size, damaged=True)
        except Foreign as error:
            raise OSError(errno.EPROTONOSUPPORT, str(error), str(path)) from error
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
        self._set_aside(path)
        return None

    def _cut(self, segment: Segment, size: int) -> None:
        file = self._files.open(segment.path)
        try:
            self._files.truncate(file, size)
        finally:
            self._files.close(file)
        segment.size = size

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[int, Read, int]]:
        file = self._files.open(path)
        try:
            yield file, lambda size, at: self._files.read(file, size, at), self._files.size(file)
        finally:
            self._files.close(file)

"""
Batches on their way into an archive: a file that is one segment of a spool.

What a kill or a power cut has left of the last record is no damage, and is ignored. What is damaged
before that costs the records that it hit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from virtstatd.archive.old_journal import OLD_SUFFIX, old_batches
from virtstatd.model import Batch
from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.reader import Segment, SegmentReader
from virtstatd.pipeline.spool.segment import Position, first_position
from virtstatd.pipeline.spool.shapes import KnownShapes
from virtstatd.pipeline.spool.writer import SegmentWriter


SUFFIX = ".segment"

FILES = SpoolFiles()
END = Position(1 << 64)
"""Behind every position that there is."""


class Journal:
    """A file to which batches are appended whole or not at all, until `append` fails."""

    def __init__(self, path: Path, begun_at: int) -> None:
        self.path = path
        self.begun_at = begun_at
        self._end = Position()
        self._writer = SegmentWriter(path, self._end, FILES, KnownShapes())

    @property
    def size(self) -> int:
        """The size of the file."""
        return self._writer.segment.size

    def append(self, batch: Batch) -> None:
        """Write a batch; whatever is raised, only `close` may follow."""
        self._writer.write(self._writer.encoded(self._end, batch))
        self._end = self._end.after(batch)

    def in_place(self) -> bool:
        """Whether the file is still where it was opened."""
        return os.access(self.path, os.F_OK)

    def close(self) -> bool:
        """Close the file; return whether there is a batch in it."""
        self._writer.abandon()
        return not self._writer.empty


class JournalReader:
    """The batches of a journal; after the last one `damaged` is how many could not be read."""

    def __init__(self, path: Path) -> None:
        self.damaged = 0
        self._path = path

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; raises OSError, and ValueError for a journal of a later version."""
        if self._path.suffix == OLD_SUFFIX:
            yield from old_batches(self._path)
            return
        with self._path.open("rb") as file:
            first_position(lambda size, _: file.read(size))
            size = os.fstat(file.fileno()).st_size
        read = 0
        with closing(
            SegmentReader(Segment(self._path, Position(), size), FILES, KnownShapes())
        ) as reader:
            while found := reader.find(reader.position, END):
                yield found.batch
                read += 1
            self.damaged = reader.position.batches - read

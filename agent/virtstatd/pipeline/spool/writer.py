"""Write a segment: a header, then records that rely on those before them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from virtstatd.model import Batch
from virtstatd.pipeline.spool.codec import RecordEncoder
from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.reader import Segment
from virtstatd.pipeline.spool.segment import HEADER_BYTES, Position, header, record
from virtstatd.pipeline.spool.shapes import KnownShapes


class SegmentWriter:
    """
    A new segment, open for writing.

    A record that was encoded and not written ends it: no other may follow.
    """

    def __init__(self, path: Path, first: Position, files: SpoolFiles, shapes: KnownShapes) -> None:
        self.segment = Segment(path, first, 0)
        self.dirty = False
        self._files = files
        self._encoder = RecordEncoder(shapes)
        self._file = files.create(path)
        try:
            self.write(header(first))
        except OSError:
            self.abandon()
            raise

    @property
    def empty(self) -> bool:
        """Whether there is no record in it."""
        return self.segment.size <= HEADER_BYTES

    @property
    def linked(self) -> bool:
        """Whether its file still has a name."""
        return self._files.linked(self._file)

    def encoded(self, position: Position, batch: Batch) -> bytes:
        """Return the next record."""
        return record(position, batch, self._encoder.encode(batch))

    def write(self, content: bytes) -> None:
        """Append a record; `abandon` the segment where that raises OSError."""
        self._files.write(self._file, content, self.segment.size)
        self.segment.size += len(content)
        self.dirty = True

    def sync(self) -> None:
        """Return when everything that was written is durable."""
        self._files.sync(self._file)
        self.dirty = False

    def close(self) -> None:
        """Close the file, and remove it if it is empty."""
        self._files.close(self._file)
        if self.empty:
            with suppress(FileNotFoundError):
                self._files.remove(self.segment.path)

    def abandon(self) -> None:
        """Close a file that could not be written to, at the end of what was."""
        with suppress(OSError):
            self._files.truncate(self._file, self.segment.size)
        with suppress(OSError):
            self.close()

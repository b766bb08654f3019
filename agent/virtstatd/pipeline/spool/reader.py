"""Read the segments of a spool, around whatever is damaged in them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from virtstatd.model import Batch
from virtstatd.pipeline.spool.codec import RecordDecoder, Unreadable
from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.segment import HEADER_BYTES, Position, next_record
from virtstatd.pipeline.spool.shapes import KnownShapes


class Found(NamedTuple):
    """A batch that was read, where it is, and where the next one is."""

    batch: Batch
    position: Position
    after: Position


@dataclass(slots=True, eq=False)
class Segment:
    """A file of the log; a damaged one is set aside when it is done with."""

    path: Path
    first: Position
    size: int
    damaged: bool = False


class SegmentReader:
    """An open segment, read from its beginning: only so are the numbers in it understood."""

    def __init__(self, segment: Segment, files: SpoolFiles, shapes: KnownShapes) -> None:
        self.segment = segment
        self.position = segment.first
        self._files = files
        self._file = files.open(segment.path)
        self._offset = HEADER_BYTES
        self._decoder = RecordDecoder(shapes)

    def find(self, at: Position, limit: Position) -> Found | None:
        """Return the first batch from a position on, None when there is none before a limit."""
        segment = self.segment
        while found := next_record(self._read, self._offset, segment.size):
            if found.begin != self._offset or found.position != self.position:
                segment.damaged = True
            if found.position >= limit:
                return None
            self._offset, self.position = found.end, found.after
            try:
                if found.position >= at:
                    return Found(self._decoder.decode(found.payload), found.position, found.after)
                self._decoder.learn(found.payload)
            except Unreadable:
                segment.damaged = True
        return None

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._files.close(self._file)

    def _read(self, size: int, offset: int) -> bytes:
        return self._files.read(self._file, size, offset)


def scan(segment: Segment, read: Callable[[int, int], bytes], size: int) -> tuple[Position, int]:
    """Return where the records of a segment end, as a position and as an offset."""
    position, offset = segment.first, HEADER_BYTES
    while found := next_record(read, offset, size):
        if found.begin != offset or found.position != position:
            segment.damaged = True
        position, offset = found.after, found.end
    return position, offset

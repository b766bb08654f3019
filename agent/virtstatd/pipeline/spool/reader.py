"""Read the segments of a spool, around whatever is damaged in them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from virtstatd.model import Batch
from virtstatd.pipeline.spool.codec import Decoder, Unreadable
from virtstatd.pipeline.spool.files import Files
from virtstatd.pipeline.spool.segment import HEADER_BYTES, Place, next_record
from virtstatd.pipeline.spool.shapes import Shapes


class Found(NamedTuple):
    """A batch that was read, where it is, and where the next one is."""

    batch: Batch
    place: Place
    after: Place


@dataclass(slots=True, eq=False)
class Segment:
    """A file of the log; a damaged one is set aside when it is done with."""

    path: Path
    first: Place
    size: int
    damaged: bool = False


class Reader:
    """An open segment, read from its beginning: only so are the numbers in it understood."""

    def __init__(self, segment: Segment, files: Files, shapes: Shapes) -> None:
        self.segment = segment
        self.place = segment.first
        self._files = files
        self._file = files.open(segment.path)
        self._offset = HEADER_BYTES
        self._decoder = Decoder(shapes)

    def find(self, at: Place, limit: Place) -> Found | None:
        """Return the first batch from a place on, None when there is none before a limit."""
        segment = self.segment
        while found := next_record(self._read, self._offset, segment.size):
            if found.begin != self._offset or found.place != self.place:
                segment.damaged = True
            if found.place >= limit:
                return None
            self._offset, self.place = found.end, found.after
            try:
                if found.place >= at:
                    return Found(self._decoder.decode(found.payload), found.place, found.after)
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


def scan(segment: Segment, read: Callable[[int, int], bytes], size: int) -> tuple[Place, int]:
    """Return where the records of a segment end, as a place and as an offset."""
    place, offset = segment.first, HEADER_BYTES
    while found := next_record(read, offset, size):
        if found.begin != offset or found.place != place:
            segment.damaged = True
        place, offset = found.after, found.end
    return place, offset

"""
Batches on disk: a log in segments, oldest first, whose damage is counted and skipped.

All calls are for one thread and block on the disk alone. Failures of the disk are raised as
OSError; `open` starts again from what is there then.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from typing import Literal

from virtstatd.model import Batch
from virtstatd.pipeline.spool.checkpoint import UNREADABLE, Checkpoint
from virtstatd.pipeline.spool.directory import Directory
from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.reader import Found, Segment, SegmentReader
from virtstatd.pipeline.spool.segment import HEADER_BYTES, Position
from virtstatd.pipeline.spool.shapes import KnownShapes
from virtstatd.pipeline.spool.writer import SegmentWriter


Sync = Literal["none", "interval", "batch"]

SEGMENT_BYTES = 8 << 20
SEGMENTS_MIN = 8
"""Least number of segments of a full spool: at most an eighth is dropped at once."""

KEEP_FREE_SHARE = 0.05
KEEP_FREE_BYTES = 512 << 20


class TooLargeForSpool(ValueError):  # noqa: N818 - named for what the batch is
    """A batch that is larger than the whole spool may be."""


class Spool:
    """
    The log of one sink, `capacity` bytes of it at most.

    Everything before `settled` need not be kept, `end` is the end of what was written, and
    everything before `forgotten` was dropped for lack of room.
    """

    def __init__(
        self,
        directory: Path,
        *,
        capacity: int,
        sync: Sync = "interval",
        keep_free: tuple[float, int] = (KEEP_FREE_SHARE, KEEP_FREE_BYTES),
        files: SpoolFiles | None = None,
    ) -> None:
        self.directory = directory
        self.settled = Position()
        self.end = Position()
        self.forgotten = Position()
        self._capacity = capacity
        self._segment_bytes = min(SEGMENT_BYTES, capacity // SEGMENTS_MIN)
        self._sync = sync
        self._keep_free = keep_free
        self._files = files or SpoolFiles()
        self._shapes = KnownShapes()
        self._segments: list[Segment] = []
        self._active: SegmentWriter | None = None
        self._reader: SegmentReader | None = None
        self._lock: int | None = None
        self._folder = Directory(directory, self._files)
        self._checkpoint = Checkpoint(directory, self._files)

    @property
    def size(self) -> int:
        """The size of the segments."""
        return sum(segment.size for segment in self._segments)

    def open(self) -> None:
        """Open or create the spool, or reopen it after a failure."""
        self.close()
        self._files.make_directory(self.directory)
        try:
            self._lock = self._files.lock(self.directory)
        except BlockingIOError as error:
            text = "another agent uses this spool"
            raise OSError(errno.EBUSY, text, str(self.directory)) from error
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def append(self, batch: Batch) -> None:
        """
        Write a batch at `end`, and forget the oldest segments until there is room.

        `end` shows whether it was written, also when something failed after that.
        """
        if self._active and self._active.segment.size >= self._segment_bytes:
            self._retire()
        self._make_free()
        active, content = self._encoded(batch)
        try:
            while self.size + len(content) > self._capacity:
                self._forget()
                if active is not self._active:
                    active, content = self._encoded(batch)
            active.write(content)
        except OSError:
            self._abandon()
            raise
        self.end = self.end.after(batch)
        self._checkpoint.write(self.settled, self.end)
        if self._sync == "batch":
            self._make_durable(active)

    def read(self, at: Position, limit: Position) -> Found | None:
        """
        Return the first readable batch from a position on, None when there is none up to a limit.

        Positions rise from call to call, or reading begins again.
        """
        while segment := self._segment(at):
            if segment.first >= limit:
                return None
            try:
                if found := self._reading(segment, at).find(at, limit):
                    return found
            except OSError as error:
                self._stop_reading()
                if error.errno not in UNREADABLE:
                    raise
                segment.damaged = True
            at = self._end(segment)
        return None

    def settle(self, position: Position) -> None:
        """Note that nothing before a position need be kept, and remove segments before it."""
        self.settled = max(self.settled, position)
        if self._checkpoint.opened:
            self._checkpoint.write(self.settled, self.end)
            self._sweep()

    def flush(self) -> None:
        """Sync what was written; raises OSError also when the files were removed."""
        if self._active:
            if not self._active.linked:
                self.close()
                raise OSError(errno.ENOENT, "the spool was removed", str(self.directory))
            if self._active.dirty and self._sync != "none":
                self._make_durable(self._active)
                self._checkpoint.sync()

    def finish(self) -> None:
        """Sync everything, remove settled segments, and close."""
        try:
            if self._checkpoint.opened:
                self._retire()
                self._checkpoint.write(self.settled, self.end)
                self._checkpoint.sync()
                self._sweep()
        finally:
            self.close()

    def close(self) -> None:
        """Close every file."""
        self._stop_reading()
        self._checkpoint.close()
        active, lock = self._active, self._lock
        self._active = self._lock = None
        with suppress(OSError):
            if active:
                active.close()
        with suppress(OSError):
            if lock is not None:
                self._files.close(lock)

    def _load(self) -> None:
        known = self._checkpoint.open()
        self._segments = self._folder.segments()
        written = self.end = max(self.end, known.end if known else Position())
        while self._segments:
            last = self._segments[-1]
            self.end = max(self.end, last.first)
            if scanned := self._folder.end_of(last, written, durable=self._sync != "none"):
                self.end = max(self.end, scanned)
                break
            self._segments.pop()
        first = self._segments[0].first if self._segments else self.end
        self.settled = max(self.settled, known.settled if known else first)
        self._checkpoint.begin(self.settled, self.end)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what is settled: the checkpoint is durable before a segment goes."""
        active = self._active.segment if self._active else None
        durable = False
        while self._segments:
            oldest = self._segments[0]
            if oldest is active or self._end(oldest) > self.settled:
                return
            if not durable:
                self._checkpoint.sync()
                durable = True
            self._segments.remove(oldest)
            self._folder.discard(oldest)

    def _encoded(self, batch: Batch) -> tuple[SegmentWriter, bytes]:
        """Return a record, and the segment whose numbers it uses."""
        active = self._active or self._create()
        try:
            content = active.encoded(self.end, batch)
        except Exception:
            self._retire()  # its numbers no longer match what is on disk
            raise
        if len(content) + HEADER_BYTES > self._capacity:
            self._retire()
            raise TooLargeForSpool(f"a batch of {len(content)} bytes does not fit into the spool")
        return active, content

    def _create(self) -> SegmentWriter:
        path = self._folder.named(self.end)
        active = self._active = SegmentWriter(path, self.end, self._files, self._shapes)
        self._segments.append(active.segment)
        try:
            if self._sync != "none":
                self._files.sync_directory(self.directory)
        except OSError:
            self._abandon()
            raise
        return active

    def _retire(self) -> None:
        """Close the segment that is written to, durably."""
        if self._active and self._active.dirty and self._sync != "none":
            self._make_durable(self._active)
        if active := self._released():
            active.close()

    def _abandon(self) -> None:
        """Close the segment that could not be written to, at the end of what was."""
        if active := self._released():
            active.abandon()

    def _released(self) -> SegmentWriter | None:
        active, self._active = self._active, None
        if active and active.empty:
            self._segments.remove(active.segment)
        return active

    def _make_durable(self, active: SegmentWriter) -> None:
        try:
            active.sync()
        except OSError:
            # The kernel may have dropped pages that it could not write, and reports that only once.
            self._active = None
            with suppress(OSError):
                active.close()
            raise

    def _forget(self) -> None:
        """Drop the oldest segment."""
        oldest = self._segments[0]
        if self._active and self._active.segment is oldest:
            self._active.close()
            self._active = None
        self.forgotten = self._end(oldest)
        self.settled = max(self.settled, self.forgotten)
        self._checkpoint.write(self.settled, self.end)
        self._checkpoint.sync()
        self._segments.remove(oldest)
        self._folder.remove(oldest.path)

    def _make_free(self) -> None:
        """Forget old segments for the sake of others on this file system, all but the newest."""
        share, least = self._keep_free
        space = self._files.space(self.directory)
        while space.free < max(share * space.total, least):
            if len(self._segments) <= 1:
                raise OSError(errno.ENOSPC, "the file system is full", str(self.directory))
            self._forget()
            space = self._files.space(self.directory)

    def _end(self, segment: Segment) -> Position:
        behind = self._segments.index(segment) + 1
        return self._segments[behind].first if behind < len(self._segments) else self.end

    def _segment(self, at: Position) -> Segment | None:
        ends = [each.first for each in self._segments[1:]] + [self.end]
        return next((s for s, end in zip(self._segments, ends, strict=False) if end > at), None)

    def _reading(self, segment: Segment, at: Position) -> SegmentReader:
        reader = self._reader
        if reader and reader.segment is segment and reader.position <= at:
            return reader
        self._stop_reading()
        self._reader = SegmentReader(segment, self._files, self._shapes)
        return self._reader

    def _stop_reading(self) -> None:
        if self._reader:
            self._reader.close()
            self._reader = None

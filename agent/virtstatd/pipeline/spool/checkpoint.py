"""The checkpoint of a spool, in a file that is updated in place, even on a full disk."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.segment import (
    SLOT_BYTES,
    SLOTS,
    CheckpointMarks,
    Position,
    marks,
    slot,
)


NAME = "checkpoint"

UNREADABLE = frozenset({errno.EIO, errno.ENOENT, errno.EUCLEAN, errno.EBADMSG})
"""Errors of reading that mean a bad file, not a failing disk."""


class Checkpoint:
    """
    An open checkpoint: created under another name, renamed, then overwritten in place.

    A full disk has no room for another file. Room is made by removing segments, and a segment must
    not be removed before the checkpoint records that.
    """

    def __init__(self, directory: Path, files: SpoolFiles) -> None:
        self._directory = directory
        self._files = files
        self._serial = 0
        self._durable = self._written = 0
        """The slots that were synced and written last: power and the process may fail any time."""
        self._file: int | None = None

    @property
    def opened(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def open(self) -> CheckpointMarks | None:
        """Return what an earlier run wrote; None, and nothing is open, when that is unreadable."""
        try:
            file = self._files.open(self._directory / NAME)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            return None
        known = None
        try:
            known = marks(lambda size, offset: self._files.read(file, size, offset))
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
        finally:
            if known is None:
                self._files.close(file)
        if known is None:
            return None
        self._file = file
        newest, self._durable = known
        self._written = self._durable
        self._serial = newest.serial
        return newest

    def begin(self, settled: Position, end: Position) -> None:
        """Write and sync the opened checkpoint, or create one."""
        made = self._file is None
        if made:
            self._file = self._files.create(self._directory / f"{NAME}.new")
            self._files.write(self._file, bytes(len(SLOTS) * SLOT_BYTES), 0)  # room on a full disk
        else:
            self.sync()  # what was read may not be on the disk yet
        self.write(settled, end)
        self.sync()
        if made:
            self._files.rename(self._directory / f"{NAME}.new", self._directory / NAME)
            self._files.sync_directory(self._directory)

    def write(self, settled: Position, end: Position) -> None:
        """Record what is settled and how far was written."""
        if self._file is not None:
            self._serial += 1
            place = next(each for each in SLOTS if each not in (self._durable, self._written))
            content = slot(CheckpointMarks(self._serial, settled, end))
            self._files.write(self._file, content, place * SLOT_BYTES)
            self._written = place

    def sync(self) -> None:
        """Return when the records are durable."""
        if self._file is not None:
            self._files.sync(self._file)
            self._durable = self._written

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):
                self._files.close(self._file)
            self._file = None

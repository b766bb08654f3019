"""What a spool has settled, in a file that needs no room to be brought up to date."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from virtstatd.pipeline.spool.files import SpoolFiles
from virtstatd.pipeline.spool.segment import CheckpointMarks, Position, marks, slot


NAME = "checkpoint"

UNREADABLE = frozenset({errno.EIO, errno.ENOENT, errno.EUCLEAN, errno.EBADMSG})
"""What reading a file answers when the file, and not the disk, is to be given up."""


class Checkpoint:
    """
    An open checkpoint. It is made at once under another name, and then written over in place.

    A full disk has no room for another file, and being full is mended by removing segments, which
    must not go before the checkpoint says so.
    """

    def __init__(self, directory: Path, files: SpoolFiles) -> None:
        self._directory = directory
        self._files = files
        self._serial = 0
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
        if known is not None:
            self._file = file
            self._serial = known.serial
        return known

    def begin(self, settled: Position, end: Position) -> None:
        """Write durably what an opened one says, or make one."""
        made = self._file is None
        if made:
            self._file = self._files.create(self._directory / f"{NAME}.new")
        self.write(settled, end)
        self.sync()
        if made:
            self._files.rename(self._directory / f"{NAME}.new", self._directory / NAME)
            self._files.sync_directory(self._directory)

    def write(self, settled: Position, end: Position) -> None:
        """Say what is settled and how far was written."""
        if self._file is not None:
            self._serial += 1
            content, offset = slot(CheckpointMarks(self._serial, settled, end))
            self._files.write(self._file, content, offset)

    def sync(self) -> None:
        """Return when what was said is durable."""
        if self._file is not None:
            self._files.sync(self._file)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):
                self._files.close(self._file)
            self._file = None

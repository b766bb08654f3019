"""The operations on files that a spool is made of; tests put a file system of their own here."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import NamedTuple


class Space(NamedTuple):
    """Bytes of a file system."""

    free: int
    total: int


class SpoolFiles:
    """The kernel's files; every operation may block without end, and raises OSError."""

    def make_directory(self, path: Path) -> None:
        """Create a directory that only its owner can read, unless it exists."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock(self, path: Path) -> int:
        """Lock a directory and return the lock's descriptor; BlockingIOError when it is locked."""
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(held)
            raise
        return held

    def names(self, path: Path) -> list[str]:
        """Return what is in a directory."""
        return os.listdir(path)

    def open(self, path: Path) -> int:
        """Open a file to read and write."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def create(self, path: Path) -> int:
        """Open an empty file, new or emptied."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, 0o600)

    def read(self, file: int, size: int, offset: int) -> bytes:
        """Return `size` bytes from an offset, fewer at the end of the file."""
        pieces = []
        while size > 0 and (piece := os.pread(file, size, offset)):
            pieces.append(piece)
            size -= len(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, file: int, content: bytes, offset: int) -> None:
        """Write everything, or raise with some of it written."""
        rest = memoryview(content)
        while rest:
            written = os.pwrite(file, rest, offset)
            rest = rest[written:]
            offset += written

    def truncate(self, file: int, size: int) -> None:
        """Truncate a file to a size in bytes."""
        os.ftruncate(file, size)

    def size(self, file: int) -> int:
        """Return the size of a file."""
        return os.fstat(file).st_size

    def linked(self, file: int) -> bool:
        """Return whether an open file still has a name."""
        return os.fstat(file).st_nlink > 0

    def sync(self, file: int) -> None:
        """Return when the content of a file is durable."""
        os.fdatasync(file)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory are durable."""
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def rename(self, path: Path, to: Path) -> None:
        """Rename a file, replacing one of that name."""
        path.rename(to)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def close(self, file: int) -> None:
        """Close a file or give up a lock."""
        os.close(file)

    def space(self, path: Path) -> Space:
        """Return the space of the file system, as a user who is not root has it."""
        system = os.statvfs(path)
        return Space(system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize)

"""
Small files of the kernel that are kept open and read repeatedly.

Reading through an open descriptor costs a fifth of opening and reading. And an open directory of
/proc stays bound to its process: after the process has ended every read fails, so that another
process with the same number is never read by mistake.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from virtstatd._fast import KEPT
from virtstatd._fast.plain import READ_BYTES, Layout, Parsed, ParsedTexts, PlainKept


def descriptors_allowed(most: int = 1 << 16) -> int:
    """
    Raise the limit of descriptors up to `most`, as far as allowed, and return the new limit.

    A login shell's limit is 1,024, for the sake of programs that use `select`; this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Descriptors:
    """How many descriptors may still be kept; a file without one is opened at each read."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self) -> bool:
        """Return whether one more may be kept."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Return one after its file was closed."""
        self._left += 1


class Folder:
    """An open directory, closed with its last reference; raises OSError if it does not exist."""

    def __init__(self, path: Path | str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Close the directory; files opened in it stay open."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        # threads share a guest's directory: the last one that reads in it closes it
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def open(self, name: str) -> int:
        """Return a descriptor of a file in it."""
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=self._descriptor)

    def read(self, name: str, size: int = READ_BYTES) -> bytes:
        """Return a file's contents, read once."""
        return _read_once(self.open(name), size)

    def read_whole(self, name: str) -> bytes:
        """Return the contents of a file that may be longer than a single read brings."""
        return _read_to_end(self.open(name))

    def inode(self, name: str) -> int:
        """Return the number of a file in it."""
        return os.stat(name, dir_fd=self._descriptor).st_ino

    def names(self, name: str) -> list[str]:
        """Return the names in a directory in it."""
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._descriptor)
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)


class Place:
    """
    A directory by its path, for files whose names are never reused.

    Unlike a `Folder` it costs no descriptor.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def open(self, name: str) -> int:
        """Return a descriptor of a file in it."""
        return os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_NONBLOCK)

    def read(self, name: str, size: int = READ_BYTES) -> bytes:
        """Return a file's contents, read once."""
        return _read_once(self.open(name), size)

    def read_whole(self, name: str) -> bytes:
        """Return the contents of a file that may be longer than a single read brings."""
        return _read_to_end(self.open(name))


class File:
    """One file of a folder, kept open if descriptors are left; raises OSError like `open`."""

    __slots__ = ("_descriptor", "_descriptors", "_folder", "_name")

    def __init__(self, folder: Folder | Place, name: str, descriptors: Descriptors) -> None:
        self._folder = folder
        self._name = name
        self._descriptors = descriptors
        self._descriptor = folder.open(name)
        if not descriptors.take():
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> bytes:
        """Return the contents as they are now; raises OSError once the process has ended."""
        if self._descriptor < 0:
            return self._folder.read(self._name)
        return os.pread(self._descriptor, READ_BYTES, 0)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._descriptors.give_back()

    @property
    def descriptor(self) -> int:
        """The descriptor that is kept, -1 without one."""
        return self._descriptor


class Files:
    """
    Files that are read and closed together, each with its layout; made for thousands a second.

    They are read in one call without the interpreter's lock, unless descriptors are short.
    """

    __slots__ = ("_files", "_kept", "_texts")

    def __init__(self, files: Sequence[File], layouts: Sequence[Layout]) -> None:
        self._files = files
        self._kept: PlainKept | None = None
        self._texts: ParsedTexts | None = None
        descriptors, letters = [file.descriptor for file in files], "".join(layouts)
        if -1 in descriptors:
            self._texts = ParsedTexts(letters)
        else:
            self._kept = KEPT(descriptors, letters)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._files)

    def read(self) -> tuple[Parsed, ...]:
        """
        Return what each says now, the same object as before if none has changed.

        Raises OSError like `File.read`, and ValueError if a file is not written as its layout says.
        """
        if self._texts is None:
            return self._kept.read() if self._kept else ()
        return self._texts.take([file.read() for file in self._files])

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        self._files, self._kept, self._texts = (), None, None


def _read_once(descriptor: int, size: int) -> bytes:
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def _read_to_end(descriptor: int) -> bytes:
    try:
        return b"".join(iter(lambda: os.read(descriptor, READ_BYTES), b""))
    finally:
        os.close(descriptor)

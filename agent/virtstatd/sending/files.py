"""Outputs for lines: a file with rotation, standard output. All calls may block."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import Rejected, StartError, TryLater


class Output(Protocol):
    """Takes whole batches, and raises what a sink's `send` raises."""

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write all of a batch, or raise."""
        ...

    def close(self) -> None:
        """Close the output."""
        ...


class StandardOutput:
    """Standard output: a pipe, a terminal or a file."""

    def __init__(self) -> None:
        try:
            self._fd = os.dup(1)
        except OSError as error:
            raise StartError(
                "standard output is closed; open it, or choose a file as target"
            ) from error

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write all of a batch, however long the reader takes."""
        try:
            for piece in pieces:
                write_all(self._fd, piece)
        except BrokenPipeError as error:
            raise Rejected("the reader of standard output is gone") from error
        except OSError as error:
            raise TryLater(f"standard output: {error.strerror}") from error

    def close(self) -> None:
        """Close the duplicate; standard output itself stays open."""
        os.close(self._fd)


class FileOutput:
    """
    A file that batches are appended to whole or not at all.

    A file that would grow past `rotate_bytes` (0 is never) is renamed to `.1`, `.1` to
    `.2` and so on up to `rotate_keep`. A file that another program has renamed or removed is
    created again.
    """

    def __init__(
        self, path: Path, rotate_bytes: int, rotate_keep: int, log: FilteringBoundLogger
    ) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._rotate_keep = rotate_keep
        self._log = log
        self._rotating = True
        self._fd = -1
        try:
            self._open()
        except OSError as error:
            raise StartError(
                f"cannot write {path}: {error.strerror}; {_fix(error, path)}"
            ) from error

    def write(self, pieces: Iterable[bytes]) -> None:
        """Append all pieces; truncate what a failed write has left of them."""
        text = b"".join(pieces)
        try:
            if self._was_moved():
                self._open()
            size = os.fstat(self._fd).st_size
            if self._rotate_bytes and size > 0 and size + len(text) > self._rotate_bytes:
                self._rotate()
            self._append(text)
        except OSError as error:
            raise TryLater(f"{self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> None:
        # O_NONBLOCK for the open alone: that of a pipe would wait for its other end
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o640)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file")
        os.set_blocking(fd, True)
        self.close()
        self._fd = fd

    def _was_moved(self) -> bool:
        if self._fd < 0:
            return True
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _rotate(self) -> None:
        try:
            for number in range(self._rotate_keep - 1, 0, -1):
                with suppress(FileNotFoundError):
                    self._numbered(number).rename(self._numbered(number + 1))
            self._path.rename(self._numbered(1))
        except OSError as error:  # better a long file than none
            if self._rotating:
                self._rotating = False
                self._log.warning("file.unrotated", path=str(self._path), error=error.strerror)
            return
        self._rotating = True
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _append(self, text: bytes) -> None:
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            text = b"\n" + text  # a writer was killed in the middle of a line
        try:
            write_all(self._fd, text)
        except OSError:
            os.ftruncate(self._fd, size)
            raise


def check_writable(path: Path) -> None:
    """Raise StartError where a file cannot be appended to, or made; it is neither here."""
    folder = path.parent
    try:
        reason, number = "not a regular file", errno.EINVAL
        if stat.S_ISREG(path.stat().st_mode):
            reason, number = "", 0 if os.access(path, os.R_OK | os.W_OK) else errno.EACCES
    except FileNotFoundError:
        reason, number = "", 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
        if not folder.is_dir():
            number = errno.ENOENT
    except OSError as error:
        reason, number = "", error.errno or errno.EIO
    if number:
        fix = _fix(OSError(number, ""), path)
        raise StartError(f"cannot write {path}: {reason or os.strerror(number)}; {fix}")


def write_all(fd: int, text: bytes) -> None:
    """Write all of a text, however many calls that takes."""
    view = memoryview(text)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # another process that shares it has made it non-blocking
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def _fix(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"create the directory {path.parent}"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "let the agent's user write there or choose another target"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room or choose another target"
    return "choose another target"

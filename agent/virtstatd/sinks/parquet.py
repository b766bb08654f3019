"""
An archive of Parquet files, one per hour, for DuckDB and everything else that reads them.

A batch is delivered when it is in a journal beside the files: a kill loses nothing, and a power cut
what the kernel had not written yet. Journals become files on a second thread, so that no batch ever
waits for a disk that is busy with an hour.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa  # type: ignore[import-untyped]
from msgspec import Meta

from virtstatd.archive.archive import Archive, DiskLimits
from virtstatd.errors import StartError
from virtstatd.runtime.host import host_name
from virtstatd.runtime.worker import Worker
from virtstatd.sending.handover import Handover
from virtstatd.sending.named import Named
from virtstatd.sink import Batch, Delivery, Opening, Send


CLOSE_SECONDS = 0.9
FLUSH_SECONDS = 0.3
"""For a last flush; what is left then stays in its journal until the next start."""

PATIENCE_SECONDS = 3.0
"""For the last owner of the directory to finish its last flush."""

DAY_NS = 86400 * 10**9
SECOND_NS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Parquet(Named):
    """Keep every number in Parquet files, one per hour: an archive that DuckDB reads in place."""

    directory: Annotated[
        str, Meta(description="Directory of the files, one per sink; it is created if missing.")
    ] = "/var/lib/virtstatd/archive"
    flush_seconds: Annotated[
        float,
        Meta(description="Most seconds until numbers can be read.", ge=1, le=3600),
    ] = 60.0
    keep_bytes: Annotated[
        int,
        Meta(description="Size from which the oldest hours are removed; 0 is no limit.", ge=0),
    ] = 10_000_000_000
    keep_days: Annotated[
        float, Meta(description="Age at which hours are removed; 0 is no limit.", ge=0, le=36500)
    ] = 0.0
    free_bytes: Annotated[
        int,
        Meta(
            description="Free space to leave on the disk; the oldest hours are removed for it.",
            ge=0,
        ),
    ] = 1_000_000_000

    delivery: ClassVar[Delivery] = "memory"

    def __post_init__(self) -> None:
        if not self.directory.startswith("/") or "\0" in self.directory:
            raise ValueError("directory: must be absolute")

    def check_here(self) -> None:
        """Raise StartError where the directory cannot be written or made."""
        _check_directory(Path(self.directory))

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Lock the directory, and flush what the last run has left."""
        directory = Path(self.directory)
        # the system's allocator gives back at once what an hour has needed
        pa.set_memory_pool(pa.system_memory_pool())
        lock = await _taken(directory)
        try:
            archive = Archive(
                directory,
                self.host or host_name(),
                DiskLimits(self.keep_bytes, int(self.keep_days * DAY_NS), self.free_bytes),
                int(self.flush_seconds * SECOND_NS),
                opening.log,
            )
        except BaseException:
            os.close(lock)
            raise
        front = Worker(f"sink {opening.name}")
        back = Worker(f"archive {opening.name}")
        handover = Handover(front, archive.append)
        settled = back.submit(archive.settle)

        async def send(batch: Batch) -> None:
            nonlocal settled
            await handover.send(batch)
            if archive.flushable.is_set() and settled.done():
                settled = back.submit(archive.settle)

        try:
            yield send
        finally:
            archive.until = time.monotonic() + FLUSH_SECONDS
            closed = front.submit(archive.close)
            front.close()
            await asyncio.wait([closed], timeout=FLUSH_SECONDS)
            back.submit(archive.settle)
            released = back.submit(lambda: os.close(lock))
            back.close()
            await asyncio.wait([released], timeout=CLOSE_SECONDS - FLUSH_SECONDS)


async def _taken(directory: Path) -> int:
    """Lock the directory and return the descriptor of the lock."""
    fd = _lock_file(directory)
    patience_until = time.monotonic() + PATIENCE_SECONDS
    try:
        # there is no event for a lock that becomes free
        while not (locked := _locked(fd)) and time.monotonic() < patience_until:  # noqa: ASYNC110
            await asyncio.sleep(PATIENCE_SECONDS / 50)
    except BaseException:
        os.close(fd)
        raise
    if locked:
        return fd
    os.close(fd)
    raise StartError(f"{directory} is in use by another sink; give each a directory of its own")


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _check_directory(directory: Path) -> None:
    """Raise StartError where the lock's file could not be made; who holds it is another matter."""
    lock = directory / ".lock"
    if not directory.exists():
        if not directory.parent.is_dir():
            raise _unwritable("directory: ", directory, errno.ENOENT)
        directory, lock = directory.parent, directory
    if not directory.is_dir():
        raise _unwritable("directory: ", directory, errno.ENOTDIR)
    if not os.access(directory, os.W_OK | os.X_OK) or (
        lock.exists() and not os.access(lock, os.R_OK | os.W_OK)
    ):
        raise _unwritable("directory: ", directory, errno.EACCES)


def _lock_file(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o750, exist_ok=True)
        return os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise _unwritable("", directory, error.errno or 0) from error


def _unwritable(option: str, directory: Path, number: int) -> StartError:
    fix = (
        f"create {directory.parent}"
        if number == errno.ENOENT
        else "let the agent's user write there, or choose another directory"
    )
    return StartError(f"{option}cannot write {directory}: {os.strerror(number)}; {fix}")

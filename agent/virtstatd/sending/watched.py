"""What is made of files: read on a thread, since a file may hang, and again when they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from virtstatd.errors import StartError
from virtstatd.runtime.worker import Worker
from virtstatd.sending.paths import path_of


LOOK_SECONDS = 1.0
"""Time between two looks at the files."""

PATIENCE_SECONDS = 0.5
"""Time that a check gets before what was read last is used; it goes on nevertheless."""

FIRST_SECONDS = 5.0
"""Time that the first look gets."""

FileMark = tuple[int, int, int] | None
"""Inode, size and time of change of a file, None for one that is not there."""

T = TypeVar("T")


class Watched(Generic[T]):
    """
    What `make` returns, made again when one of the files changes.

    While the files are not there, do not fit or do not answer, what was made last stays in use.
    `names` are as options have them: paths, or systemd's credentials.
    """

    def __init__(
        self,
        names: Sequence[str],
        make: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = names
        self._make = make
        self._clock = clock
        self._made: T | None = None
        self._marks: tuple[FileMark, ...] | None = None
        self._looking: asyncio.Future[None] | None = None
        self._next = clock()

    async def first(self) -> T:
        """Return what the files hold at the start; raise StartError where that cannot be used."""
        looking = self._begin()
        await asyncio.wait([looking], timeout=FIRST_SECONDS)
        if not looking.done():
            raise StartError(f"cannot read {' and '.join(self._names)}: no answer; see what hangs")
        looking.result()
        self._next = self._clock() + LOOK_SECONDS
        return cast("T", self._made)

    async def get(self, *, at_once: bool = False) -> T:
        """
        Return what the files hold now, or held when they could be read last.

        They are looked at once a second at most, with `at_once` for each call.
        """
        if self._looking is None and (at_once or self._clock() >= self._next):
            self._looking = self._begin()
            await asyncio.wait([self._looking], timeout=PATIENCE_SECONDS)
        if self._looking is not None and self._looking.done():
            self._looking = None
            self._next = self._clock() + LOOK_SECONDS
        return cast("T", self._made)

    def _begin(self) -> asyncio.Future[None]:
        worker = Worker("files of a sink")  # each has its own: one may never come back
        looking = worker.submit(self._look)
        worker.close()
        return looking

    def _look(self) -> None:
        marks = tuple(map(_mark, self._names))
        if marks != self._marks:
            self._made = self._make()
            self._marks = marks  # not before: half of a pair may have been written yet


def _mark(name: str) -> FileMark:
    try:
        found = path_of(name).stat()
    except (StartError, OSError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

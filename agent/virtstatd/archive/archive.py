"""
A directory of Parquet files, one per hour, that can be read at any time.

    .NUMBER.segment                 what came since the last flush
    2026-11-21T04Z.NUMBER.parquet   a flush of the current hour
    2026-11-21T04Z.parquet          an hour that is over: its flushes, sorted into one file

Every file is written under a hidden name, synced and renamed. A flush bears the number of its
journal, and the file of an hour knows which flushes it holds: whatever a crash interrupts is done
again, or cleaned up, with the same outcome.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
from structlog.typing import FilteringBoundLogger

from virtstatd.archive.folder import ArchiveFolder, hour_text
from virtstatd.archive.journal import Journal, JournalReader
from virtstatd.archive.rows import HOUR_NS, arrow_table, run_chunks, runs_by_hour
from virtstatd.archive.sorting import (
    GROUP_ROWS,
    SLICE_ROWS,
    flushes_in,
    readable,
    slices,
)
from virtstatd.errors import TryLater
from virtstatd.model import Batch


JOURNAL_BYTES = 2 << 20
"""Size at which a journal is flushed early: it bounds the memory of a flush."""

PORTION_ROWS = 16384
"""Rows that are written at a time: some hundredths of a second."""

LATENESS_NS = 60 * 10**9
"""Nanoseconds after the end of an hour until it counts as over."""


class _Ended(Exception):  # noqa: N818 - nothing is wrong
    """The agent ends; what is left is done at the next start."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """What the archive may take of its disk; 0 is no limit."""

    keep_bytes: int
    keep_ns: int
    free_bytes: int


class Archive:
    """
    The files of one directory: `append` and `close` on one thread, `settle` on another.

    What `settle` has not done at the monotonic time `until` is left to the next run.

    An hour is over when batches come that were taken a minute after it. Their times are the only
    clock, so that what arrives late finds its hour, and a step of the wall clock loses nothing.
    """

    def __init__(
        self,
        directory: Path,
        host: str,
        limits: DiskLimits,
        flush_ns: int,
        log: FilteringBoundLogger,
    ) -> None:
        self.flushable = threading.Event()
        self.until = math.inf
        self._folder = ArchiveFolder(directory)
        self._host = host
        self._limits = limits
        self._flush_ns = flush_ns
        self._log = log
        self._journal: Journal | None = None
        self._hour: int | None = None
        self._sorted_before: int | None = None
        self._failing = False
        self._trimming = threading.Lock()
        self._closed = deque(self._folder.journals())
        self._drafts = self._folder.drafts()
        self._unchecked = True

    def append(self, batch: Batch) -> None:
        """Write a batch into the journal, or raise TryLater."""
        if not batch.readings:
            return
        try:
            if self._free() < 0:
                self._trim()
            if self._free() < 0:
                raise TryLater(f"{self._folder.path}: its disk is full up to free_bytes")
            self._written(self._journal_for(batch), batch)
        except OSError as error:
            raise TryLater(f"{self._folder.path}: {error.strerror or error}") from error

    def _written(self, journal: Journal, batch: Batch) -> None:
        try:
            journal.append(batch)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Close the journal, for `settle` to flush it."""
        journal, self._journal = self._journal, None
        if journal is not None and journal.close():
            self._closed.append(journal.path)
            self.flushable.set()

    def settle(self) -> None:
        """Flush closed journals, sort hours that are over, remove the oldest above the limits."""
        self.flushable.clear()
        try:
            self._clean()
            while self._closed:
                self._flush(self._closed[0])
                self._closed.popleft()
            self._sort_before(self._hour)
            self._trim()
        except _Ended:
            pass
        except OSError as error:  # all is tried again
            if not self._failing:
                self._failing = True
                self._log.warning("archive.interrupted", reason=error.strerror or str(error))
        else:
            if self._failing:
                self._failing = False
                self._log.info("archive.continued")
        finally:
            pa.default_memory_pool().release_unused()

    def _go_on(self) -> None:
        """Raise _Ended after `until`: a thread inside Arrow crashes a process that exits."""
        if time.monotonic() >= self.until:
            raise _Ended

    def _free(self) -> int:
        """Return the bytes of the disk that may still be used."""
        return self._folder.free() - self._limits.free_bytes

    def _journal_for(self, batch: Batch) -> Journal:
        hour = (batch.taken_at - LATENESS_NS) // HOUR_NS
        journal = self._journal
        if journal is not None and (
            hour != self._hour
            or journal.size >= JOURNAL_BYTES
            or abs(batch.taken_at - journal.begun_at) >= self._flush_ns
            or not journal.in_place()
        ):
            self.close()
        if self._journal is None:
            # a number that never comes again, whatever the batches' time
            self._journal = Journal(self._folder.journal(time.time_ns()), batch.taken_at)
        self._hour = hour
        return self._journal

    def _clean(self) -> None:
        """Remove what a crash has left; only the first call does it."""
        if not self._unchecked:
            return
        for draft in self._drafts:
            draft.unlink(missing_ok=True)
        for hour in self._folder.hours():
            self._flushes_of(hour)
        self._unchecked = False

    def _flush(self, journal: Path) -> None:
        """Turn a journal into files, of two hours at the turn of one."""
        try:
            batches = JournalReader(journal)
            for hour, runs in runs_by_hour(batches, self._host).items():
                with self._folder.written(self._folder.flush(hour, journal)) as file:
                    for some in run_chunks(runs, PORTION_ROWS):
                        self._go_on()
                        file.write_table(arrow_table(some, self._host), row_group_size=GROUP_ROWS)
            if batches.damaged:
                self._set_aside(journal, f"{batches.damaged} batches of it are damaged")
            else:
                journal.unlink()
        except FileNotFoundError:
            if not self._folder.path.is_dir():
                raise
            self._log.error("archive.lost", file=str(journal), reason="was removed")
        except (OSError, _Ended):
            raise
        except Exception as error:  # noqa: BLE001 - it must not keep back those after it
            self._set_aside(journal, f"{type(error).__name__}: {error}")
        # a flush must not be sorted into its hour while its journal may come back
        self._folder.sync()

    def _sort_before(self, hour: int | None) -> None:
        if hour is None or hour == self._sorted_before:
            return
        over = [each for each in self._folder.hours() if each < hour_text(hour)]
        for each in over:
            if flushes := self._flushes_of(each):
                self._sort(each, flushes)
        self._sorted_before = hour

    def _flushes_of(self, hour: str) -> list[tuple[Path, int]]:
        """Return the flushes that the file of an hour does not hold, and remove those it does."""
        whole = self._folder.whole(hour)
        flushes = [each for each in self._folder.hours().get(hour, ()) if each[0] != whole]
        if not flushes or not whole.exists():
            return flushes
        try:
            held = flushes_in(whole)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            self._set_aside(whole, str(error))
            return flushes
        for path, _ in flushes:
            if path.name in held:
                path.unlink(missing_ok=True)
        self._folder.sync()
        return [each for each in flushes if each[0].name not in held]

    def _sort(self, hour: str, flushes: list[tuple[Path, int]]) -> None:
        whole = self._folder.whole(hour)
        if self._free() < sum(size for _, size in self._folder.hours()[hour]):
            return  # it can be read as it is
        paths = [path for path, _ in flushes]
        sources = [*paths, whole] if whole.exists() else paths
        try:
            with self._folder.written(whole, paths) as file:
                for rows in slices(sources):
                    self._go_on()
                    file.write_table(rows, row_group_size=2 * SLICE_ROWS)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            for path in sources:
                if not readable(path):
                    self._set_aside(path, str(error))
            return
        for path in paths:
            path.unlink(missing_ok=True)
        self._folder.sync()

    def _trim(self) -> None:
        """Remove the oldest hours, but never the newest, until all limits are kept."""
        with self._trimming:
            files = self._folder.hours()
            total = sum(size for of_hour in files.values() for _, size in of_hour)
            oldest = ""
            if self._limits.keep_ns and self._hour is not None:
                oldest = hour_text(self._hour - self._limits.keep_ns // HOUR_NS)
            removed = freed = 0
            for hour in list(files)[:-1]:
                too_much = 0 < self._limits.keep_bytes < total
                if not (too_much or hour < oldest or self._free() < 0):
                    break
                for path, size in files[hour]:
                    path.unlink(missing_ok=True)
                    total -= size
                    freed += size
                removed += 1
            if removed:
                self._log.info("archive.trimmed", hours=removed, bytes=freed)

    def _set_aside(self, path: Path, reason: str) -> None:
        """Rename a damaged file, so that readers skip it and a person can look at it."""
        self._folder.set_aside(path)
        self._log.error("archive.damaged", file=str(path), reason=reason)

"""A page in a file, for node_exporter's textfile collector and everything that works like it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from virtstatd.errors import StartError, VirtstatdError
from virtstatd.runtime.clock import boottime
from virtstatd.runtime.worker import Worker
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages
from virtstatd.sink import Batch, Delivery, Opening, Send
from virtstatd.sinks.other_names import PATIENCE_SECONDS, OtherNames


CLOSE_SECONDS = 1.0
HANG_SECONDS = 10.0
"""A write that takes longer is reported, and its page is too old to be put in place."""

GATHER_SECONDS = 1.0
"""How long after the first batch the first page is written: the other ones of a poll follow it."""


class Outdated(VirtstatdError):  # noqa: N818 - what became of the page
    """Writing took so long that the page is not what it would be now; it was not put in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Textfile(OtherNames):
    """
    Keep the latest readings in a file for node_exporter, replaced whole at an interval.

    What changes between two writes waits for the next one, so a reading may stay in the file for an
    interval longer than on the page. The file is removed at the end, so that no old numbers are
    shown as current. After a kill it stays; `node_textfile_mtime_seconds` is its age.
    """

    path: Annotated[
        str, Meta(description="File in the collector's directory; it must end in `.prom`.")
    ] = "/var/lib/prometheus/node-exporter/virtstatd.prom"
    interval_seconds: Annotated[
        float,
        Meta(
            description="Least seconds between two writes; use the interval of the scrapes.",
            ge=1,
            le=3600,
        ),
    ] = 15.0

    delivery: ClassVar[Delivery] = "latest"

    def __post_init__(self) -> None:
        if not (self.path.startswith("/") and self.path.endswith(".prom")) or "\0" in self.path:
            raise ValueError("path: must be absolute and end in .prom")

    def check_here(self) -> None:
        """Raise StartError where no file can be made in the directory."""
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise StartError(f"path: cannot write {self.path}; create the directory {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            fix = "let the agent's user, and its unit by `ReadWritePaths=`, write in"
            raise StartError(f"path: cannot write {self.path}; {fix} {folder}")

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Yield a send that never waits for the disk, and remove the file at the end."""
        self.check_here()
        latest = Latest(boottime)
        file = PageFile(Path(self.path), Worker(f"sink {opening.name}"))
        writer = PageWriter(latest, file, opening.log, self.interval_seconds)
        translated = self.translating(PATIENCE_SECONDS)

        async def send(batch: Batch) -> None:
            latest.put(translated(batch))
            writer.begin()

        writing = asyncio.create_task(writer.run(), name=f"sink {opening.name}")
        try:
            yield send
        finally:
            writing.cancel()
            await asyncio.wait([writing])
            await file.close()


class PageFile:
    """A file that readers find whole or not at all."""

    def __init__(self, path: Path, worker: Worker, clock: Callable[[], float] = boottime) -> None:
        self.path = path
        # always the same: what a kill has left is overwritten, and no collector reads the name
        self._draft = path.with_name(f".{path.name}.new")
        self._worker = worker
        self._clock = clock

    def replace(self, parts: Iterable[bytes | bytearray]) -> asyncio.Future[None]:
        """Put a page in place of the one before; the future fails with OSError or Outdated."""
        made = self._clock()
        return self._worker.submit(lambda: self._write(parts, made + HANG_SECONDS))

    async def close(self) -> None:
        """Remove the file, waiting a second at most for a disk that hangs."""
        removed = self._worker.submit(lambda: self.path.unlink(missing_ok=True))
        self._worker.close()
        await asyncio.wait([removed], timeout=CLOSE_SECONDS)

    def _write(self, parts: Iterable[bytes | bytearray], until: float) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(self._draft, flags, 0o644), "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # the collector is another user
                file.writelines(parts)
            current = self._clock() < until
            if current:
                self._draft.rename(self.path)
        except OSError:
            with suppress(OSError):
                self._draft.unlink()
            raise
        if not current:
            self._draft.unlink()
            raise Outdated(f"{self.path}: the disk hung")


class PageWriter:
    """Writes what is held, once per interval at most and only where something has changed."""

    def __init__(
        self,
        latest: Latest,
        file: PageFile,
        log: FilteringBoundLogger,
        interval: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._latest = latest
        self._pages = Pages(latest, log)
        self._file = file
        self._log = log
        self._interval = interval
        self._sleep = sleep
        self._begun = asyncio.Event()
        self._written = 0
        self._failing = False

    def begin(self) -> None:
        """Write from now on: there is something to show."""
        self._begun.set()

    async def run(self) -> None:
        """Write until cancelled."""
        await self._begun.wait()
        await self._sleep(min(GATHER_SECONDS, self._interval))
        while True:
            try:
                await self._write()
            except Outdated:
                continue
            except OSError as error:
                self._fails(error.strerror or str(error))
            except Exception as error:  # noqa: BLE001 - the next page may be free of what is odd
                self._fails(f"{type(error).__name__}: {error}", error)
            await self._sleep(self._interval)

    async def _write(self) -> None:
        version = self._latest.version
        if version == self._written:
            return
        written = self._file.replace(await self._pages.parts(openmetrics=False))
        await asyncio.wait([written], timeout=HANG_SECONDS)
        if not written.done():
            self._fails("the disk does not answer")
            await asyncio.wait([written])
        written.result()
        self._written = version
        if self._failing:
            self._failing = False
            self._log.info("sink.recovered")

    def _fails(self, reason: str, trace: Exception | None = None) -> None:
        if not self._failing:
            self._failing = True
            outcome = "error" if trace else "later"
            text = f"{self._file.path}: {reason}"
            self._log.warning("sink.failing", outcome=outcome, reason=text, exc_info=trace)

"""A page in a file, for node_exporter's textfile collector and everything that works like it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.errors import StartError, TryLater
from virtstatd.runtime.clock import boottime
from virtstatd.runtime.worker import Worker
from virtstatd.sending.handover import Handover
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Page, Pages
from virtstatd.sink import Batch, Delivery, Opening, Send


CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Textfile:
    """
    Keep the latest readings in a file for node_exporter, replaced whole with every batch.

    The file is removed at the end, so that no old numbers are shown as current. After a kill it
    stays; `node_textfile_mtime_seconds` is its age.
    """

    path: Annotated[
        str, Meta(description="File in the collector's directory; it must end in `.prom`.")
    ] = "/var/lib/prometheus/node-exporter/virtstatd.prom"

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
        """Yield a send that writes the page, and remove the file at the end."""
        self.check_here()
        path = Path(self.path)
        file = _File(path, Worker(f"sink {opening.name}"))
        latest = Latest(boottime)
        pages = Pages(latest, opening.log)

        async def send(batch: Batch) -> None:
            latest.put(batch)
            await file.replace(await pages.get(openmetrics=False))

        try:
            yield send
        finally:
            await file.close()


class _File:
    """A file that readers find whole or not at all."""

    def __init__(self, path: Path, worker: Worker) -> None:
        self._path = path
        # always the same: what a kill has left is overwritten, and no collector reads the name
        self._draft = path.with_name(f".{path.name}.new")
        self._worker = worker
        self._handover = Handover[Page](worker, self._write)

    async def replace(self, page: Page) -> None:
        """Put the page in place of the one before; raise TryLater when that fails."""
        try:
            await self._handover.send(page)
        except OSError as error:
            raise TryLater(f"{self._path}: {error.strerror}") from error

    async def close(self) -> None:
        """Remove the file, waiting a second at most for a disk that hangs."""
        removed = self._worker.submit(lambda: self._path.unlink(missing_ok=True))
        self._worker.close()
        await asyncio.wait([removed], timeout=CLOSE_SECONDS)

    def _write(self, page: Page) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(self._draft, flags, 0o644), "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # the collector is another user
                for piece in page.plain():
                    file.write(piece)
            self._draft.rename(self._path)
        except OSError:
            with suppress(OSError):
                self._draft.unlink()
            raise

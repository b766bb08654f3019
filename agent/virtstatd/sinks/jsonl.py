"""JSON lines to standard output, a file or a socket; the format is `formats/json_lines.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.errors import StartError
from virtstatd.formats.json_lines import Lines
from virtstatd.runtime.worker import Worker
from virtstatd.sending.files import FileOutput, Output, StandardOutput, check_writable
from virtstatd.sending.handover import Handover
from virtstatd.sending.link import Stream
from virtstatd.sending.named import ByHost, Named
from virtstatd.sink import Batch, Delivery, Opening, Send


STDOUT = "stdout"
UNIX = "unix:"
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Jsonl(Named):
    """Write every reading as JSON lines; a file is rotated by size, a socket connected again."""

    target: Annotated[
        str,
        Meta(description="`stdout`, the path of a file, or `unix:` and the path of a socket."),
    ] = STDOUT
    rotate_bytes: Annotated[
        int, Meta(description="Size from which a file is rotated; 0 is never.", ge=0)
    ] = 100_000_000
    rotate_keep: Annotated[
        int, Meta(description="Number of rotated files to keep.", ge=1, le=1000)
    ] = 5

    delivery: ClassVar[Delivery] = "memory"
    records: ClassVar[bool] = True

    def __post_init__(self) -> None:
        path = self.target.removeprefix(UNIX)
        if self.target != STDOUT and (not path.startswith("/") or "\0" in path):
            raise ValueError(
                "target: must be stdout, an absolute path, or unix: and an absolute path"
            )

    def check_here(self) -> None:
        """Raise StartError where the file cannot be written."""
        if self.target != STDOUT and not self.target.startswith(UNIX):
            try:
                check_writable(Path(self.target))
            except StartError as error:
                raise StartError(f"target: {error}") from error

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Open the file at once, a socket with the first batch."""
        if self.target.startswith(UNIX):
            path = self.target.removeprefix(UNIX)
            stream = Stream(path, lambda: asyncio.open_unix_connection(path))
            lines = ByHost(self.host, Lines)
            try:
                yield lambda batch: stream.send(lines().pieces(batch))
            finally:
                await stream.close()
            return
        output = StandardOutput() if self.target == STDOUT else self._file(opening)
        threaded = _Threaded(output, opening.name, self.host)
        try:
            yield threaded.send
        finally:
            await threaded.close()

    def _file(self, opening: Opening) -> FileOutput:
        return FileOutput(Path(self.target), self.rotate_bytes, self.rotate_keep, opening.log)


class _Threaded:
    """An output that blocks, on a thread of its own."""

    def __init__(self, output: Output, name: str, host: str) -> None:
        lines = ByHost(host, Lines)
        self._output = output
        self._worker = Worker(f"sink {name}")
        handover = Handover[Batch](self._worker, lambda batch: output.write(lines().pieces(batch)))
        self.send = handover.send

    async def close(self) -> None:
        """Close when all is written, waiting a second at most for a write that is stuck."""
        closed = self._worker.submit(self._output.close)
        self._worker.close()
        await asyncio.wait([closed], timeout=CLOSE_SECONDS)

"""What a destination has refused, with its reason, in a small file that is rotated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import TryLater
from virtstatd.runtime.worker import Worker
from virtstatd.sending.files import FileOutput


CLOSE_SECONDS = 1.0
WAIT_SECONDS = 1.0
"""Time to wait for the disk; what it has not taken by then it takes later or never."""

Bury = Callable[[str, int, bytes], Awaitable[None]]
"""Keep a reason, a number of samples and the body that held them."""


@asynccontextmanager
async def dead_letters(
    path: str, limit: int, log: FilteringBoundLogger
) -> AsyncIterator[Bury | None]:
    """Yield what keeps refused requests in a file and one before it; None without a path."""
    if not path:
        yield None
        return
    output = FileOutput(Path(path), limit // 2, 1, log)
    worker = Worker("dead letters")

    async def bury(reason: str, samples: int, body: bytes) -> None:
        letter = {
            "time": datetime.now(UTC).isoformat(),
            "reason": reason,
            "samples": samples,
            "body": body[: limit // 4].decode("utf-8", "replace"),
        }
        line = json.dumps(letter).encode() + b"\n"
        written = worker.submit(lambda: output.write([line]))
        await asyncio.wait([written], timeout=WAIT_SECONDS)
        if written.done() and isinstance(fault := written.exception(), TryLater):
            log.warning("file.unwritten", path=path, error=str(fault))

    try:
        yield bury
    finally:
        closed = worker.submit(output.close)
        worker.close()
        await asyncio.wait([closed], timeout=CLOSE_SECONDS)

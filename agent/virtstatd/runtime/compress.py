"""Compression by gzip, as HTTP, gRPC and the page use it: the fastest level."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable


GZIP_BITS = 16 + zlib.MAX_WBITS
"""What zlib calls a gzip header around its data."""

LEVEL = 1

ASIDE_BYTES = 262_144
"""Size from which compressing takes milliseconds."""


def gzipped(body: bytes) -> bytes:
    """Return a body compressed."""
    return zlib.compress(body, LEVEL, wbits=GZIP_BITS)


async def compressed(body: bytes, how: Callable[[bytes], bytes] = gzipped) -> bytes:
    """Return a body compressed; a large one on a thread, so that the event loop goes on."""
    return how(body) if len(body) < ASIDE_BYTES else await asyncio.to_thread(how, body)

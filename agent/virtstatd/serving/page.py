"""The scrape page: every family in one block, rendered in steps and compressed off the loop."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from virtstatd.formats.prometheus_text import END_OF_OPENMETRICS, Family, with_created
from virtstatd.model import Kind
from virtstatd.runtime.compress import GZIP_BITS, LEVEL
from virtstatd.serving.latest import Latest


STEP_SECONDS = 0.004  # the loop belongs to others after that long
SLICE_BYTES = 16384
COMPRESSED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page, compressed; `length` is that of the plain text.

    Only the compressed text is kept: a client that reads slowly, or never, holds a tenth.
    """

    compressed: bytes
    length: int

    def plain(self) -> Iterator[bytes]:
        """Yield the page in slices, decompressed one by one."""
        inflating = zlib.decompressobj(GZIP_BITS)
        for start in range(0, len(self.compressed), SLICE_BYTES):
            piece = self.compressed[start : start + SLICE_BYTES]
            while piece:
                yield inflating.decompress(piece, 4 * SLICE_BYTES)
                piece = inflating.unconsumed_tail
        yield inflating.flush()


class Pages:
    """Render the page of what is held now, once per version and format for all clients."""

    def __init__(self, latest: Latest, log: FilteringBoundLogger) -> None:
        self._latest = latest
        self._log = log
        self._made: dict[bool, tuple[int, Page]] = {}
        self._making = asyncio.Lock()
        self._clashed: set[str] = set()

    async def get(self, *, openmetrics: bool) -> Page:
        """Return the page in one of the two formats."""
        async with self._making:
            version = self._latest.version
            made, page = self._made.get(openmetrics, (-1, Page(b"", 0)))
            if made != version:
                parts = await self.parts(openmetrics=openmetrics)
                page = await asyncio.get_running_loop().run_in_executor(None, _compressed, parts)
                self._made[openmetrics] = (version, page)
            return page

    async def parts(self, *, openmetrics: bool) -> list[bytes | bytearray]:
        """Return the page in pieces, neither joined nor compressed, for what is no client."""
        blocks = await self._blocks(openmetrics=openmetrics)
        parts: list[bytes | bytearray] = []
        for name in sorted(blocks):
            family, lines = blocks[name]
            parts += (family.openmetrics if openmetrics else family.text, lines)
        if openmetrics:
            parts.append(END_OF_OPENMETRICS)
        return parts

    async def _blocks(self, *, openmetrics: bool) -> dict[str, tuple[Family, bytearray]]:
        """Sort the lines of everything that is shown into one block per family."""
        blocks: dict[str, tuple[Family, bytearray]] = {}
        step_ends = time.monotonic() + STEP_SECONDS
        for group in self._latest.together():
            for held, template in zip(group, self._latest.planned(group), strict=True):
                rendered = template.render(held.reading.values, held.labels)
                for family, lines in zip(template.families, rendered, strict=True):
                    if openmetrics and held.began and family.kind is Kind.COUNTER:
                        lines = with_created(lines, family, held.began)  # noqa: PLW2901 - more of it
                    block = blocks.get(family.name)
                    if block is None:
                        blocks[family.name] = (family, bytearray(lines))
                    elif block[0].kind is family.kind:
                        block[1].extend(lines)
                    elif family.name not in self._clashed:
                        self._clashed.add(family.name)
                        self._log.error("family.clashed", family=family.name, left_out=family.kind)
            if time.monotonic() >= step_ends:
                await asyncio.sleep(0)
                step_ends = time.monotonic() + STEP_SECONDS
        return blocks


def _compressed(parts: list[bytes | bytearray]) -> Page:
    """Compress a page; runs in a thread, and zlib works without the interpreter's lock."""
    deflating = zlib.compressobj(level=LEVEL, wbits=GZIP_BITS)
    pieces: list[bytes] = []
    length = 0
    for part in parts:
        length += len(part)
        pieces += [
            deflating.compress(memoryview(part)[start : start + COMPRESSED_AT_ONCE])
            for start in range(0, len(part), COMPRESSED_AT_ONCE)
        ]
    pieces.append(deflating.flush())
    return Page(b"".join(pieces), length)

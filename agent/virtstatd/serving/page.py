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

Blocks = dict[str, tuple[Family, bytearray]]
"""The lines of each family, by its name."""


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

    async def _blocks(self, *, openmetrics: bool) -> Blocks:
        """Sort the lines of everything that is shown into one block per family."""
        blocks: Blocks = {}
        known: dict[int, tuple[tuple[Family, ...], tuple[bytearray, ...]]] = {}
        step_ends = time.monotonic() + STEP_SECONDS
        for group in self._latest.together():
            for held, template in zip(group, self._latest.planned(group), strict=True):
                families = template.families
                same = known.get(id(families))
                if same is None:  # it keeps them, so that no others get their number
                    same = known[id(families)] = families, self._places(families, blocks)
                if openmetrics and held.began:
                    rendered = template.render(held.reading.values, held.labels)
                    for family, lines, block in zip(families, rendered, same[1], strict=True):
                        counts = family.kind is Kind.COUNTER
                        block.extend(with_created(lines, family, held.began) if counts else lines)
                else:
                    template.append(held.reading.values, held.labels, same[1])
            if time.monotonic() >= step_ends:
                await asyncio.sleep(0)
                step_ends = time.monotonic() + STEP_SECONDS
        return blocks

    def _places(self, families: tuple[Family, ...], blocks: Blocks) -> tuple[bytearray, ...]:
        """Return the block of each family; one that nothing shows if another kind has its name."""
        places: list[bytearray] = []
        for family in families:
            first, block = blocks.setdefault(family.name, (family, bytearray()))
            if first.kind is not family.kind:
                block = bytearray()
                if family.name not in self._clashed:
                    self._clashed.add(family.name)
                    self._log.error("family.clashed", family=family.name, left_out=family.kind)
            places.append(block)
        return tuple(places)


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

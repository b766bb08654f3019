"""
Gauges of StatsD, with tags as DogStatsD writes them.

`libvirt_domain_block_stats_read_bytes_total:4096|g|#host:node1,domain:web,target_device:vda`

Every number is a gauge, counters included: the agent has their absolute values, and StatsD's own
counters want differences. A number with a sign is set as it is by DogStatsD; the StatsD of old,
which has no tags either, takes it for a change. The grammar has no escapes: in tags, what is no
letter, digit, `_`, `-`, `.`, `/`, `@` or `+` becomes `%` and two hexadecimal digits. NaN and
infinity are left out. There is no time in the protocol, so nothing is sent again later.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from virtstatd.formats.chunks import packed, whole_lines
from virtstatd.formats.naming import labels_of, name_of
from virtstatd.formats.words import DOMAIN, Flat, word
from virtstatd.model import Batch, Labels, Series


IN_TAGS = "./@+"
PIECE_BYTES = 65536


class StatsdGauges:
    """The lines of batches."""

    def __init__(self, prefix: str, host: str) -> None:
        self._prefix = prefix
        self._host = f"host:{word(host, IN_TAGS)}"
        self._flat = Flat(self._line)

    def datagrams(self, batch: Batch, limit: int) -> Iterator[bytes]:
        """Yield the lines in datagrams of this many bytes; a longer line is one of its own."""
        rest = b""
        for text in packed(self.readings(batch), PIECE_BYTES):  # small enough for the CPU's cache
            *whole, rest = whole_lines(rest + text, limit)
            yield from whole
        if rest:
            yield rest

    def readings(self, batch: Batch) -> Iterator[bytes]:
        """Yield the lines of each reading."""
        for reading in batch.readings:
            domain = _tags(reading.domain.labels) if reading.domain else ""
            yield self._flat.render(reading, domain).encode()

    def _line(self, series: Series) -> tuple[str, str]:
        before = f"{self._prefix}{name_of(series)}:"
        return before, f"|g|#{self._host}{DOMAIN}{_tags(labels_of(series))}"


@functools.lru_cache(maxsize=4096)
def _tags(labels: Labels) -> str:
    return "".join(f",{word(key)}:{word(text, IN_TAGS)}" for key, text in labels)

"""What each disk of a guest does, as its history has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtstatd.insight.guests import DISK_TIMES
from virtstatd.insight.lookup import Lookup


_B: Final = "libvirt_domain_block_stats"
_COUNTERS: Final = (*DISK_TIMES, f"{_B}_read_bytes", f"{_B}_write_bytes")


def disk_numbers(look: Lookup) -> Iterator[tuple[str, list[float | None]]]:
    """Yield each disk with its numbers, in the order of `history.DISK_SERIES`."""
    seconds = look.seconds(_COUNTERS[0])
    for disk, grown in look.grown(_COUNTERS, "target_device"):
        reads, writes, reading, writing, read, written = grown
        rates = [
            each if each is None else each / seconds for each in (read, written, reads, writes)
        ]
        yield disk, [*rates, _mean(reading, reads), _mean(writing, writes)]


def _mean(seconds: float | None, requests: float | None) -> float | None:
    return seconds / requests if seconds is not None and requests else None

"""The first words of a start: what was found, what is missing, and what to do next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Up
from virtstatd.runtime.waiting import first_of
from virtstatd.service.collecting import Collecting


FOUND_SECONDS: Final = 10.0
"""How long libvirt is waited for before it counts as missing."""

WELL: Final = "virtstatd status says what hurts, virtstatd top shows the guests"
MISSING: Final = "virtstatd doctor says how to get what is missing"


async def report_found(
    left: Collecting,
    up: Up,
    sinks: Sequence[str],
    page: str,
    log: FilteringBoundLogger,
    stop: asyncio.Event,
) -> None:
    """Log once what there is, as soon as libvirt answers or has not for a while."""
    coming = up.coming()
    if not up:
        await first_of(coming, stop, seconds=FOUND_SECONDS)
    up.forget(coming)
    if stop.is_set():
        return
    missing = list(_missing(left, up, sinks, page))
    log.info(
        "agent.found",
        libvirt=left.hypervisor.connection.version or None,
        guests=len(left.hypervisor.inventory),
        sources=[each.name for each in left.collectors],
        sinks=list(sinks),
        page=page or None,
        missing=missing,
        next=MISSING if missing else WELL,
    )


def _missing(left: Collecting, up: Up, sinks: Sequence[str], page: str) -> Iterator[str]:
    if not up:
        yield "libvirt does not answer"
    if left.hypervisor.elsewhere:
        yield f"numbers of the kernel: {left.hypervisor.elsewhere}"
    if not sinks:
        yield "a sink: nothing is sent"
    if not page:
        yield "a page: neither [web] nor a sink of type prometheus"

"""Which groups the kernel collector reads, of how many guests, so that libvirt is polled less."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from msgspec import structs
from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collect.bulk.answer import SPARED
from virtstatd.collect.bulk.options import TIERS, PollOptions, slow_interval
from virtstatd.collect.bulk.poller import Poller
from virtstatd.collect.descriptions.reader import DescriptionReader
from virtstatd.collect.kernel.collector import KernelCollector
from virtstatd.collector import Up
from virtstatd.commands.doctor.check import Check
from virtstatd.commands.doctor.guests import GuestFacts
from virtstatd.config.file import Config
from virtstatd.pipeline.one_source import OneSource
from virtstatd.service.collecting import collecting


def told_checks(poll: PollOptions, counts: Mapping[str, int], guests: int) -> Iterator[Check]:
    """Yield, for each such group, of how many guests the kernel has nearly all of it."""
    for tier in TIERS:
        named = getattr(poll, tier).named
        for group in getattr(poll, tier).groups:
            if group not in SPARED:
                continue
            seconds = f"{slow_interval(group, poll.extra.interval_seconds):g} s"
            of = f"{counts.get(group, 0)} of {guests} guests"
            text = f"{group}: the kernel has nearly all of it for {of}"
            if not named:
                yield Check("sources", "ok", f"{text}, libvirt is polled for it every {seconds}")
            elif counts.get(group):
                fix = f"leave out [poll.{tier}] groups, and libvirt is polled every {seconds}"
                yield Check("sources", "note", f"{text}, libvirt is polled for all", fix)


async def spared_guests(
    config: Config, found: GuestFacts, log: FilteringBoundLogger
) -> dict[str, int]:
    """
    Return of how many guests each group need not be polled often.

    The kernel is read, and libvirt is polled for everything once, as if no groups were named.
    """
    poll = _unnamed(config.collect["poll"])
    config = structs.replace(config, collect={**config.collect, "poll": poll}, collectors=())
    emit = OneSource([], log)
    async with collecting(
        config, catalogs.shipped(), emit, log, up=Up(up=True), left=emit.left
    ) as left:
        left.hypervisor.inventory.restart(found.guests)
        counts: dict[str, int] = {}
        for wanted in (DescriptionReader, KernelCollector, Poller):
            for each in left.collectors:
                if not isinstance(each, wanted):
                    continue
                if isinstance(each, DescriptionReader):
                    await each.read_all(asyncio.Event())
                else:
                    await each.once(left.emit)
                if isinstance(each, Poller):
                    counts = each.spared()
        return counts


def _unnamed(poll: PollOptions) -> PollOptions:
    """Return the same intervals with the groups of the default."""
    usual = PollOptions()
    tiers = {
        name: structs.replace(getattr(poll, name), groups=getattr(usual, name).groups)
        for name in TIERS
    }
    return structs.replace(poll, **tiers)

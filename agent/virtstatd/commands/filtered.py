"""What the filter of a configuration leaves of the guests that run here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec import structs
from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collect.descriptions.reader import DescriptionReader
from virtstatd.collector import Up
from virtstatd.config.file import Config
from virtstatd.config.options import Fault
from virtstatd.errors import VirtstatdError
from virtstatd.hypervisor.filter import FilterOptions, GuestFilter, facts_of
from virtstatd.hypervisor.lanes import Session
from virtstatd.hypervisor.loop import events_on
from virtstatd.model import Batch
from virtstatd.service.collecting import collecting


ACTIVE = 1
"""VIR_CONNECT_LIST_DOMAINS_ACTIVE."""

KnownGuest = tuple[str, str, dict[str, str]]
"""Name, UUID, and the labels of a guest."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """A sentence about what the filter does here, and the rules that match no guest."""

    text: str
    notes: Sequence[Fault] = ()


async def filtered_here(config: Config, log: FilteringBoundLogger) -> Filtered | None:
    """Ask libvirt who runs, and apply the rules; None without any."""
    options = config.filter
    if GuestFilter(options).everything:
        return None
    try:
        guests = await _guests(config, log)
    except VirtstatdError as error:
        return Filtered(f"filter: libvirt did not list the running guests: {error}")
    left = sum(bool(GuestFilter(options).admits(*guest)) for guest in guests)
    text = f"filter: {left} of {len(guests)} active guests are monitored"
    return Filtered(text, tuple(_unmatched(options, guests)) if guests else ())


def _unmatched(options: FilterOptions, guests: Sequence[KnownGuest]) -> Iterator[Fault]:
    for option, rules in (("include", options.include), ("exclude", options.exclude)):
        for at, rule in enumerate(rules):
            if not any(rule.matches(*guest) for guest in guests):
                text = f"matches none of the {len(guests)} active guests"
                yield Fault(("filter", option, at), text)


async def _guests(config: Config, log: FilteringBoundLogger) -> list[KnownGuest]:
    """List the guests that run; their XML is read only if a rule is about it."""
    events_on(asyncio.get_running_loop())
    options = config.filter
    rules = (*options.include, *options.exclude)
    bare = structs.replace(config, filter=FilterOptions(), collectors=())
    async with collecting(bare, catalogs.shipped(), _ignored, log, up=Up(up=True)) as left:
        inventory = left.hypervisor.inventory
        running = await left.hypervisor.lanes.run(_running, config.hypervisor.deadline_seconds)
        inventory.restart(running)
        if any(rule.partition or rule.labels for rule in rules):
            for each in left.collectors:
                if isinstance(each, DescriptionReader):
                    await each.read_all(asyncio.Event())
        return [(each.name, each.uuid, facts_of(of)) for each, of in inventory.domains()]


def _running(session: Session) -> list[tuple[str, str, int]]:
    active = session.connection.listAllDomains(ACTIVE)
    return [(domain.UUIDString(), domain.name(), domain.ID()) for domain in active]


def _ignored(_: Batch) -> None:
    """Drop a batch: nothing is sent here."""

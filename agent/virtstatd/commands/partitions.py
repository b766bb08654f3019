"""Print the tree of partitions: what each level uses in a second, against its limits."""

from __future__ import annotations

import asyncio
import time

from structlog.typing import FilteringBoundLogger

from virtstatd import catalog as catalogs
from virtstatd.collect.descriptions.reader import DescriptionReader
from virtstatd.collect.kernel.collector import KernelCollector
from virtstatd.collect.kernel.tree import as_text
from virtstatd.collector import Up
from virtstatd.config.file import Config
from virtstatd.errors import StartError
from virtstatd.hypervisor.lanes import Session
from virtstatd.hypervisor.loop import events_on
from virtstatd.model import Batch
from virtstatd.service.collecting import collecting


ACTIVE = 1
"""VIR_CONNECT_LIST_DOMAINS_ACTIVE."""

LOOK_SECONDS = 1.0
"""Time between the two readings; the usage in this time is shown."""


async def partition_tree(config: Config, log: FilteringBoundLogger) -> str:
    """
    Return the tree as text.

    Raises `StartError` if the guests' processes are not on this host, `Disconnected` if libvirt
    cannot be reached: only libvirt knows which guest is in which partition.
    """
    events_on(asyncio.get_running_loop())
    async with collecting(config, catalogs.shipped(), _ignored, log, up=Up(up=True)) as left:
        kernels = (each for each in left.collectors if isinstance(each, KernelCollector))
        descriptions = (each for each in left.collectors if isinstance(each, DescriptionReader))
        kernel = next(kernels, None)
        if kernel is None:
            raise StartError("partitions are read from the kernel of the guests' own host")
        survey, hypervisor = kernel.survey, left.hypervisor
        running = await hypervisor.lanes.run(_running, config.hypervisor.deadline_seconds)
        hypervisor.inventory.restart(running)
        for each in descriptions:
            await each.read_all(asyncio.Event())
        try:
            survey.look(whole=True)
            before, began = survey.partitions(), time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
            survey.look(whole=True)
            now, ended = survey.partitions(), time.monotonic()
        finally:
            survey.close()
    if not now:
        return "no partitions: none of libvirt's guests runs on this host\n"
    return as_text(before, now.values(), ended - began)


def _ignored(_: Batch) -> None:
    """Drop a batch: nothing is sent here."""


def _running(session: Session) -> list[tuple[str, str, int]]:
    active = session.connection.listAllDomains(ACTIVE)
    return [(domain.UUIDString(), domain.name(), domain.ID()) for domain in active]

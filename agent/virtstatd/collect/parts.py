"""What the collectors of the agent are built from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.hypervisor.hypervisor import Hypervisor


@dataclass(frozen=True, slots=True)
class Parts:
    """
    What the collectors of the agent are built from.

    `polled` are the groups of the catalog that the bulk calls ask for. `allowed` is what polling
    may cost, in CPU seconds per second, infinite without a budget. `news` is set where the agent's
    own numbers are to be sent at once.
    """

    catalog: Catalog
    hypervisor: Hypervisor
    log: FilteringBoundLogger
    polled: frozenset[str]
    allowed: float
    news: asyncio.Event

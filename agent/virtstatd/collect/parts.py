"""The parts from which the built-in collectors are built."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.collector import Collector
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.model import Domain, Shape


PollSeconds = Annotated[
    float, Meta(description="Seconds from one poll to the next.", ge=1, le=86400)
]
"""An option of collectors that are polled on their own."""


Left = Callable[[Domain, Shape], Shape | None]
"""Returns the part of a shape of libvirt's that the kernel collector does not read at present."""


@dataclass(frozen=True, slots=True)
class Parts:
    """
    What the collectors of the agent are built from.

    `polled` are the groups of the catalog that the bulk calls poll. `allowed` is what polling may
    cost, in CPU seconds per second, infinite without a budget. `news` is set when the agent's own
    numbers must be sent immediately. `left` is None where no kernel's readings are passed on.
    """

    catalog: Catalog
    hypervisor: Hypervisor
    log: FilteringBoundLogger
    polled: frozenset[str]
    allowed: float
    news: asyncio.Event
    left: Left | None = None


@dataclass(frozen=True, slots=True)
class CollectorKind:
    """
    A built-in collector: its name, its table in the configuration, and its builder.

    `build` is called with the table's options, if there is a table, and the parts. It returns None
    if the collector is switched off or does not apply here. `note` returns what `virtstatd check`
    says of the options, empty for nothing.
    """

    name: str
    build: Callable[..., Collector | None]
    table: str = ""
    options: type | None = None
    note: Callable[[Any], str] = lambda _: ""

    def built(self, options: Any, parts: Parts) -> Collector | None:
        """Return the collector, None if it is off or does not apply."""
        return self.build(parts) if self.options is None else self.build(options, parts)

"""Outlets that run while a test sends to them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from virtstatd.collector import Emit
from virtstatd.config.file import parse_config
from virtstatd.pipeline.outlet import Outlet
from virtstatd.service import sending
from virtstatd.service.passing import passing_on


@asynccontextmanager
async def draining(outlets: Sequence[Outlet], seconds: float) -> AsyncIterator[Emit]:
    """Run outlets as the service does, and yield what hands each of them a batch."""
    async with sending.draining(outlets, seconds):
        yield passing_on(
            parse_config("", "f"), [outlet.offer for outlet in outlets], structlog.get_logger()
        ).emit

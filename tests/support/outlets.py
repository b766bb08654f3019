"""Outlets that run while a test sends to them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from virtstatd.collector import Emit
from virtstatd.pipeline.one_source import OneSource
from virtstatd.pipeline.outlet import Outlet
from virtstatd.service import sending


@asynccontextmanager
async def draining(outlets: Sequence[Outlet], seconds: float) -> AsyncIterator[Emit]:
    """Run outlets as the service does, and yield what hands each of them a batch."""
    async with sending.draining(outlets, seconds):
        yield OneSource([outlet.offer for outlet in outlets], structlog.get_logger())

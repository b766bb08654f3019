"""Gauges for StatsD over UDP; the format is `formats/statsd.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.errors import Rejected
from virtstatd.formats.statsd import StatsdGauges
from virtstatd.sending.address import check_server
from virtstatd.sending.datagrams import Datagrams
from virtstatd.sending.named import ByHost, Named
from virtstatd.sink import Batch, Delivery, Opening, Send


@dataclass(frozen=True, slots=True, kw_only=True)
class Statsd(Named):
    """Send every number as a gauge with DogStatsD tags over UDP, without confirmation."""

    address: Annotated[str, Meta(description="Host and port of the server.")] = "127.0.0.1:8125"
    prefix: Annotated[
        str,
        Meta(
            description="Beginning of every name, such as `virt.`.",
            title="letters, digits, dots, _ and -",
            pattern=r"^[A-Za-z0-9_.-]*\Z",
        ),
    ] = ""
    datagram_bytes: Annotated[
        int,
        Meta(description="Size up to which lines share a datagram.", ge=256, le=65507),
    ] = 1432

    delivery: ClassVar[Delivery] = "fire-and-forget"

    def __post_init__(self) -> None:
        check_server("address", self.address)

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Look the server up with the first batch, each minute, and after a failure."""
        gauges = ByHost(self.host, lambda host: StatsdGauges(self.prefix, host))
        datagrams = Datagrams(self.address)

        async def send(batch: Batch) -> None:
            pieces = gauges().datagrams(batch, self.datagram_bytes)
            try:
                too_large = await datagrams.send(pieces)
            except OSError as error:
                raise Rejected(f"{self.address}: {error.strerror or error}") from error
            if too_large:  # a line each
                name = too_large[0].partition(b":")[0].decode()
                reason = f"{len(too_large)} lines are larger than a datagram, as of {name}"
                raise Rejected(reason, len(too_large))

        try:
            yield send
        finally:
            datagrams.close()

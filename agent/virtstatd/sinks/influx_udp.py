"""Influx line protocol in UDP datagrams, without confirmation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.errors import TryLater
from virtstatd.formats.chunks import packed
from virtstatd.formats.line_protocol import LineProtocol
from virtstatd.runtime.host import host_name
from virtstatd.sending.address import check_server, split_address
from virtstatd.sink import Batch, Delivery, Opening, Send
from virtstatd.sinks.influx import Host, Prefix, Tags


BURST = 32
"""Datagrams sent before the event loop gets a turn, and the receiver time to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluxUdp:
    """Send line protocol in UDP datagrams, each of whole lines."""

    address: Annotated[str, Meta(description="Host and port to send to; IPv6 in brackets.")] = (
        "127.0.0.1:8089"
    )
    datagram_bytes: Annotated[
        int,
        Meta(description="Most bytes in a datagram; a longer line goes alone.", ge=500, le=65507),
    ] = 1400
    measurement_prefix: Prefix = "libvirt_"
    host: Host = ""
    tags: Tags = field(default_factory=dict)

    delivery: ClassVar[Delivery] = "fire-and-forget"

    def __post_init__(self) -> None:
        check_server("address", self.address)

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Look the host's name up with the first batch."""
        encoder = LineProtocol(
            self.measurement_prefix,
            (("host", self.host or host_name()), *self.tags.items()),
        )
        opening.log.debug("influx.opened", address=self.address)
        transport: asyncio.DatagramTransport | None = None

        async def send(batch: Batch) -> None:
            nonlocal transport
            if transport is None or transport.is_closing():
                transport = await self._connected()
            datagrams = packed(_lines(encoder, batch), self.datagram_bytes)
            for count, datagram in enumerate(datagrams, 1):
                transport.sendto(datagram)
                if count % BURST == 0:
                    await asyncio.sleep(0)

        try:
            yield send
        finally:
            if transport is not None:
                transport.abort()

    async def _connected(self) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=split_address(self.address)
            )
        except OSError as error:
            raise TryLater(f"{self.address}: {error.strerror or error}") from error
        return transport


def _lines(encoder: LineProtocol, batch: Batch) -> Iterator[bytes]:
    for reading in batch.readings:
        yield from encoder.lines(reading, batch.taken_at)

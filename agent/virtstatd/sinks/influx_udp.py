"""Influx line protocol in UDP datagrams, without confirmation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.errors import Rejected, TryLater
from virtstatd.formats.chunks import packed
from virtstatd.formats.line_protocol import LineProtocol
from virtstatd.sending.address import check_server
from virtstatd.sending.datagrams import Datagrams
from virtstatd.sending.named import ByHost, Named
from virtstatd.sink import Batch, Delivery, Opening, Send
from virtstatd.sinks.influx import KEPT, Prefix, Tags, influx_lines
from virtstatd.sinks.own_names import check_labels


SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluxUdp(Named):
    """Send line protocol in UDP datagrams, each of whole lines."""

    address: Annotated[str, Meta(description="Host and port to send to; IPv6 in brackets.")] = (
        "127.0.0.1:8089"
    )
    datagram_bytes: Annotated[
        int,
        Meta(description="Most bytes in a datagram; a longer line goes alone.", ge=500, le=65507),
    ] = 1400
    measurement_prefix: Prefix = "libvirt_"
    tags: Tags = field(default_factory=dict)

    delivery: ClassVar[Delivery] = "fire-and-forget"

    def __post_init__(self) -> None:
        check_server("address", self.address)
        check_labels("tags", self.tags, KEPT, reserved="_")

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Look the host's name up with the first batch, each minute, and after a failure."""
        encoder = ByHost(
            self.host, lambda host: influx_lines(self.measurement_prefix, host, self.tags)
        )
        opening.log.debug("influx.opened", address=self.address)
        datagrams = Datagrams(self.address)

        async def send(batch: Batch) -> None:
            lines = encoder()
            pieces = packed(_lines(lines, batch), self.datagram_bytes)
            try:
                too_large = await datagrams.send(pieces)
            except ConnectionRefusedError:
                return  # nobody listens, which by this protocol is no fault
            except OSError as error:
                raise TryLater(f"{self.address}: {error.strerror or error}") from error
            if too_large:  # a line each
                sent = sum(1 for _ in _lines(lines, batch)) - len(too_large)
                place = too_large[0].partition(b" ")[0].decode()[:SHOWN_CHARACTERS]
                reason = f"{len(too_large)} lines are larger than a datagram, as of {place}"
                share = batch.samples * len(too_large) // (sent + len(too_large))
                raise Rejected(reason, max(1, share) if sent else None)

        try:
            yield send
        finally:
            datagrams.close()


def _lines(encoder: LineProtocol, batch: Batch) -> Iterator[bytes]:
    for reading in batch.readings:
        yield from encoder.lines(reading, batch.taken_at)

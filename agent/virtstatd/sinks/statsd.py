"""
Gauges for StatsD over UDP, with tags as DogStatsD writes them.

`libvirt_domain_block_stats_read_bytes_total:4096|g|#domain:web,target_device:vda`

Every number is a gauge, counters included: the agent has their absolute values, and StatsD's own
counters want differences. A number with a sign is set as it is by DogStatsD; the StatsD of old,
which has no tags either, takes it for a change. The grammar has no escapes: in tags, what is no
letter, digit, `_`, `-`, `.`, `/`, `@` or `+` becomes `%` and two hexadecimal digits. NaN and
infinity are left out. There is no time in the protocol, so nothing is sent again later.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.errors import Rejected
from virtstatd.formats.chunks import packed
from virtstatd.formats.naming import labels_of, name_of
from virtstatd.formats.words import DOMAIN, Flat, word
from virtstatd.model import Labels, Series
from virtstatd.sending.address import check_server, split_address
from virtstatd.sink import Batch, Delivery, Opening, Send


IN_TAGS = "./@+"
BURST_BYTES = 65536
"""Bytes that a receiver can take at once without loss: a third of Linux' default buffer."""

PAUSE_SECONDS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Statsd:
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
        """Resolve the server with the first batch, and again after a failure."""
        gauges = _Gauges(self.prefix)
        sock: socket.socket | None = None

        async def send(batch: Batch) -> None:
            nonlocal sock
            try:
                if sock is None:
                    sock = await _connected(self.address)
                budget = BURST_BYTES
                for datagram in packed(gauges.lines(batch), self.datagram_bytes):
                    if budget < len(datagram):
                        await asyncio.sleep(PAUSE_SECONDS)
                        budget = BURST_BYTES
                    budget -= len(datagram)
                    await _send(sock, datagram)
                # that nothing listens there is reported a little later, and only once
                await asyncio.sleep(PAUSE_SECONDS)
                if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(code, os.strerror(code))  # noqa: TRY301 - as send would
            except OSError as error:
                if sock is not None:
                    sock.close()
                    sock = None
                raise Rejected(f"{self.address}: {error.strerror or error}") from error

        try:
            yield send
        finally:
            if sock is not None:
                sock.close()


class _Gauges:
    """The lines of batches."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._flat = Flat(self._line)

    def lines(self, batch: Batch) -> Iterator[bytes]:
        """Yield every line with its end."""
        for reading in batch.readings:
            domain = _tags(reading.domain.labels) if reading.domain else ""
            text = self._flat.render(reading, domain)
            # what has no tags at all has no mark for them
            text = text.replace("|#\n", "\n").replace("|#,", "|#")
            yield from text.encode().splitlines(keepends=True)

    def _line(self, series: Series) -> tuple[str, str]:
        return f"{self._prefix}{name_of(series)}:", f"|g|#{DOMAIN}{_tags(labels_of(series))}"


def _tags(labels: Labels) -> str:
    return "".join(f",{word(key)}:{word(text, IN_TAGS)}" for key, text in labels)


async def _connected(address: str) -> socket.socket:
    host, port = split_address(address)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, place = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


async def _send(sock: socket.socket, datagram: bytes) -> None:
    while True:
        try:
            sock.send(datagram)
        except BlockingIOError:
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return

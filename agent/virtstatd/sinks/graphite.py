"""
Graphite's plaintext protocol over TCP, or TLS to a proxy in front of it.

| format | a line |
|---|---|
| plain | `virtstatd.node1.domain.web.libvirt_domain_vcpu_exits_total.0 4096 1700000000` |
| tagged | `libvirt_domain_vcpu_exits_total;vcpu=0;domain=web;host=node1 4096 1700000000` |

The host's own series stand under `host` where others have `domain` and the guest's name. The
grammar has no escapes: what is no letter, digit, `_` or `-` becomes `%` and two hexadecimal
digits, and with `plain` a word of more than 200 characters ends in `~` and its checksum, since
each word becomes the name of a file. NaN and infinity, which Graphite cannot keep, are left out.
Times are whole seconds.

Best effort: the protocol confirms nothing. A batch is delivered when the kernel has taken it; what
the server had not read when it died is lost.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from virtstatd.formats.chunks import packed
from virtstatd.formats.naming import labels_of, name_of
from virtstatd.formats.words import DOMAIN, Flat, word
from virtstatd.model import Domain, Series
from virtstatd.sending.address import check_server, split_address
from virtstatd.sending.dialing import dialed
from virtstatd.sending.link import Stream, Streams
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.tls import Tls, renewed_tls
from virtstatd.sink import Batch, Delivery, Opening, Send


PIECE_BYTES = 65536
WORD_CHARACTERS = 200
IN_TAGS = "./:@+,"

_TIME = "\1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphite(Named, Tls):
    """Send every number to Graphite as a line of text over TCP: best effort, nothing confirms."""

    address: Annotated[str, Meta(description="Host and port of the plaintext receiver.")] = (
        "127.0.0.1:2003"
    )
    format: Annotated[
        Literal["plain", "tagged"],
        Meta(description="plain: paths of words; tagged: names with tags, for Graphite 1.1 up."),
    ] = "plain"
    prefix: Annotated[
        str,
        Meta(
            description="Beginning of plain paths; `{host}` is `host`.",
            title="words of letters, digits, _, - and {host} with dots between",
            pattern=r"^([A-Za-z0-9_-]|\{host\})+(\.([A-Za-z0-9_-]|\{host\})+)*\Z",
        ),
    ] = "virtstatd.{host}"

    delivery: ClassVar[Delivery] = "fire-and-forget"

    def __post_init__(self) -> None:
        check_server("address", self.address)
        self.check_tls(tls=self.tls)

    def check_here(self) -> None:
        """Raise StartError when a file of TLS cannot be used."""
        self.check_tls_files(tls=self.tls)

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Connect with the first batch."""
        context = await self.opened_tls(tls=self.tls)
        lines = ByHost[_Plain | _Tagged](
            self.host,
            lambda name: _Plain(self.prefix, name) if self.format == "plain" else _Tagged(name),
        )
        host, port = split_address(self.address)

        async def connect() -> Streams:
            tls = await renewed_tls(context)
            sock = await dialed(host, port)
            try:
                return await asyncio.open_connection(
                    sock=sock, ssl=tls, server_hostname=host if tls else None
                )
            except BaseException:
                sock.close()
                raise

        stream = Stream(self.address, connect)
        try:
            yield lambda batch: stream.send(packed(lines().of(batch), PIECE_BYTES))
        finally:
            await stream.close()


class _Plain:
    """Paths: prefix, domain, name, and the values of the labels."""

    def __init__(self, prefix: str, host: str) -> None:
        self._prefix = prefix.replace("{host}", _short(host))
        self._flat = Flat(self._line)

    def of(self, batch: Batch) -> Iterator[bytes]:
        """Yield the lines, a reading at a time."""
        time = _seconds(batch)
        for reading in batch.readings:
            domain = reading.domain
            place = f"domain.{_short(domain.name)}" if domain else "host"
            text = self._flat.render(reading, f"{self._prefix}.{place}.")
            yield text.replace(_TIME, time).encode()

    def _line(self, series: Series) -> tuple[str, str]:
        words = [name_of(series), *(_short(text) for _, text in labels_of(series))]
        return f"{DOMAIN}{'.'.join(words)} ", f" {_TIME}"


class _Tagged:
    """Names with tags, in Graphite 1.1's form."""

    def __init__(self, host: str) -> None:
        self._host = f";host={word(host, IN_TAGS)}"
        self._flat = Flat(self._line)

    def of(self, batch: Batch) -> Iterator[bytes]:
        """Yield the lines, a reading at a time."""
        time = _seconds(batch)
        for reading in batch.readings:
            tags = self._tags(reading.domain) + self._host
            yield self._flat.render(reading, tags).replace(_TIME, time).encode()

    def _line(self, series: Series) -> tuple[str, str]:
        tags = "".join(_tag(key, text) for key, text in labels_of(series))
        return f"{name_of(series)}{tags}{DOMAIN} ", f" {_TIME}"

    def _tags(self, domain: Domain | None) -> str:
        return "".join(_tag(key, text) for key, text in domain.labels) if domain else ""


def _seconds(batch: Batch) -> str:
    return str(batch.taken_at // 1_000_000_000)


def _tag(key: str, text: str) -> str:
    return f";{word(key)}={word(text, IN_TAGS)}"


def _short(text: str) -> str:
    whole = word(text)
    if len(whole) <= WORD_CHARACTERS:
        return whole
    return f"{whole[: WORD_CHARACTERS - 9]}~{zlib.crc32(whole.encode()):08x}"

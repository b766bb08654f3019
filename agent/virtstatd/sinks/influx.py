"""InfluxDB's write API, versions 1, 2 and 3; the format is `formats/line_protocol.py`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar
from urllib.parse import urlencode

from msgspec import Meta

from virtstatd.errors import Denied, Rejected, TooLarge, TryLater
from virtstatd.formats.line_protocol import LineProtocol
from virtstatd.runtime.compress import compressed
from virtstatd.sending.access import Access
from virtstatd.sending.http import LANES, http_client
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.requests import post_together
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains
from virtstatd.sinks.own_names import check_labels


KEPT = ("host", "time")
"""A tag that InfluxDB does not take, and the one that `host` sets."""

Prefix = Annotated[
    str, Meta(description="Begins the name of every measurement; the group follows.")
]
Tags = Annotated[dict[str, str], Meta(description="More tags on every line.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Influx(Named, Access):
    """Push line protocol to InfluxDB 1, 2 or 3, or to a server with its API."""

    url: Annotated[str, Meta(description="URL of the server, without the path of its API.")] = (
        "http://127.0.0.1:8086"
    )
    database: Annotated[
        str, Meta(description="Database of version 1; it counts when `bucket` is empty.")
    ] = "virtstatd"
    retention_policy: Annotated[
        str, Meta(description="Retention policy of version 1; empty is the database's default.")
    ] = ""
    organization: Annotated[str, Meta(description="Organization of version 2.")] = ""
    bucket: Annotated[
        str, Meta(description="Bucket of version 2, database of version 3; empty is version 1.")
    ] = ""
    measurement_prefix: Prefix = "libvirt_"
    tags: Tags = field(default_factory=dict)
    request_samples: Annotated[
        int, Meta(description="Samples in one request.", ge=100, le=20_000)
    ] = 10_000
    compress: Annotated[bool, Meta(description="Send requests compressed by gzip.")] = True

    delivery: ClassVar[Delivery] = "memory"
    scheme: ClassVar[str] = "Token"

    def __post_init__(self) -> None:
        Access.__post_init__(self)
        if "?" in self.url or "#" in self.url:
            raise ValueError("url: what follows the path is made of the other options")
        if not self.bucket and not self.database:
            raise ValueError("database: one of database and bucket must be given")
        check_labels("tags", self.tags, KEPT, reserved="_")

    @property
    def trains(self) -> Trains:
        """The size of a request, and how many are under way at once when much waits."""
        return Trains(self.request_samples, LANES)

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Read the credentials; connect with the first batch."""
        lines = ByHost(
            self.host, lambda host: influx_lines(self.measurement_prefix, host, self.tags)
        )
        url = self.write_url()
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if self.compress:
            headers["Content-Encoding"] = "gzip"
        async with http_client(self) as client:
            opening.log.debug("influx.opened", url=self.shown_url)

            async def post(body: bytes, samples: int) -> None:
                if not body:  # all of it was NaN or infinity
                    return
                sent = await compressed(body) if self.compress else body
                answer = await client.ask(url, sent, headers)
                if answer.fault is None:
                    return
                refused = refused_lines(answer.body)
                if refused is None or isinstance(answer.fault, TryLater | Denied | TooLarge):
                    raise answer.fault
                lines = body.count(b"\n")
                raise Rejected(str(answer.fault), -(-samples * min(refused, lines) // lines))

            async def send(*batches: Batch) -> None:
                await post_together(batches, lines().items, b"".join, post, lambda _: None)

            yield send

    def write_url(self) -> str:
        """Return the URL of the write API, of the version that the options choose."""
        base = self.url.rstrip("/")
        if self.bucket:
            wanted = {"org": self.organization, "bucket": self.bucket, "precision": "ns"}
            return f"{base}/api/v2/write?{urlencode(wanted)}"
        wanted = {"db": self.database, "precision": "ns"}
        if self.retention_policy:
            wanted["rp"] = self.retention_policy
        return f"{base}/write?{urlencode(wanted)}"


def refused_lines(answer: bytes) -> int | None:
    """
    Return how many lines a database reports as refused, None for all of them or unknown.

    Versions 1 and 2 name lines that they cannot parse and count those that they drop; version 3
    lists them all.
    """
    if b"partial write" not in answer:
        return None
    listed = answer.count(b'"line_number"')
    unread = answer.count(b"unable to parse '")
    dropped = sum(int(number) for number in re.findall(rb"\bdropped=([0-9]{1,9})", answer))
    return listed or unread + dropped or None


def influx_lines(prefix: str, host: str, tags: Mapping[str, str]) -> LineProtocol:
    """Return what encodes lines with the host's name and these tags."""
    return LineProtocol(prefix, (("host", host), *tags.items()))

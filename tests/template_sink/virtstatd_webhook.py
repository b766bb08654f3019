"""Post readings to a URL, as a JSON object per number."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

from aiohttp import ClientError, ClientSession
from msgspec import Meta, json

from virtstatd.sink import Batch, Delivery, Opening, Rejected, Send, TryLater


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Post every batch to a URL, a JSON object per number."""

    url: Annotated[str, Meta(description="URL that receives.")] = "http://127.0.0.1:8080/"

    delivery: ClassVar[Delivery] = "memory"

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Keep connections between the batches."""
        async with ClientSession() as session:

            async def send(batch: Batch) -> None:
                body = b"".join(lines(batch))
                try:
                    async with session.post(self.url, data=body) as answer:
                        status = answer.status
                except (ClientError, OSError) as error:
                    raise TryLater(f"{self.url}: {error}") from error
                if status in (408, 429) or status >= 500:
                    raise TryLater(f"{self.url} answered {status}")
                if status >= 300:
                    raise Rejected(f"{self.url} answered {status}")

            yield send
            opening.log.info("webhook.closed")


def lines(batch: Batch) -> Iterator[bytes]:
    """Yield an object per number, which is `value * 10 ** exponent` in base units."""
    for reading in batch.readings:
        domain = text(reading.domain.name) if reading.domain else None
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            number = {
                "time": batch.taken_at,
                "domain": domain,
                "field": series.field.family,
                "part": series.part,
                "labels": {text(key): text(label) for key, label in series.labels},
                "value": value,
                "exponent": series.exponent,
            }
            yield json.encode(number) + b"\n"


def text(name: str) -> str:
    """Return a name as UTF-8 can carry it: not every name of a guest is text."""
    return name.encode("utf-8", "backslashreplace").decode()

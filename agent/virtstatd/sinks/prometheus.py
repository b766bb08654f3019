"""The scrape endpoint for Prometheus and everything that reads its formats."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.formats.runs import Runs
from virtstatd.runtime.clock import boottime
from virtstatd.sending.address import split_address
from virtstatd.serving.http import Request, Response
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages
from virtstatd.serving.routes import Route
from virtstatd.sink import Batch, Delivery, Opening, Send
from virtstatd.sinks.other_names import PATIENCE_SECONDS, OtherNames


OPENMETRICS = "application/openmetrics-text"
TEXT = "text/plain"
CONTENT_TYPES = {
    True: f"{OPENMETRICS}; version=1.0.0; charset=utf-8",
    False: f"{TEXT}; version=0.0.4; charset=utf-8",
}
RESERVED = ("/-/", "/api/", "/assets/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus(OtherNames):
    """Serve the latest readings for scrapes, in text format 0.0.4 or OpenMetrics 1.0."""

    listen_address: Annotated[
        str,
        Meta(
            description="Address and port of the page; empty is that of the table `[web]`, whose"
            " other options apply here too."
        ),
    ] = ""
    path: Annotated[
        str, Meta(description="Path of the page.", pattern=r"^/[A-Za-z0-9._~/-]*\Z")
    ] = "/metrics"

    created: Annotated[
        bool,
        Meta(
            description="In OpenMetrics, also send when counters began, as `_created`. Scrapers"
            " that do not know this keep one more series per counter."
        ),
    ] = False

    delivery: ClassVar[Delivery] = "latest"

    def __post_init__(self) -> None:
        if self.listen_address:
            try:
                split_address(self.listen_address)
            except ValueError as error:
                raise ValueError(f"listen_address: {error}") from None
        if self.path.startswith(RESERVED):
            raise ValueError(f"path: {', '.join(RESERVED)} are the agent's own")

    def shown_at(self) -> tuple[str, str]:
        """Return the address, empty for that of the table `[web]`, and the path."""
        return self.listen_address, self.path

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Show the page; a batch is on it as soon as `send` returns."""
        latest = Latest(boottime, runs=Runs() if self.created else None)
        pages = Pages(latest, opening.log)
        translated = self.translating(PATIENCE_SECONDS)

        async def send(batch: Batch) -> None:
            latest.put(translated(batch))

        async def page(request: Request) -> Response:
            return await _page(pages, request)

        opening.routes.add(self.listen_address, Route(self.path, page))
        yield send


async def _page(pages: Pages, request: Request) -> Response:
    openmetrics = prefers_openmetrics(request.headers.get("accept", ""))
    page = await pages.get(openmetrics=openmetrics)
    headers = {"Vary": "Accept, Accept-Encoding"}
    kind = CONTENT_TYPES[openmetrics]
    if weight(request.headers.get("accept-encoding", ""), "gzip"):
        headers["Content-Encoding"] = "gzip"
        pieces = (
            page.compressed[start : start + 65536]
            for start in range(0, len(page.compressed), 65536)
        )
        return Response(pieces, len(page.compressed), kind, headers=headers)
    return Response(page.plain(), page.length, kind, headers=headers)


def prefers_openmetrics(accept: str) -> bool:
    """Return whether an Accept header prefers OpenMetrics, which it must name."""
    wanted = weight(accept, OPENMETRICS)
    others = (weight(accept, name) for name in (TEXT, "text/*", "*/*"))
    text_wanted = next((each for each in others if each is not None), 0.0)
    return wanted is not None and wanted > 0 and wanted >= text_wanted


def weight(header: str, name: str) -> float | None:
    """Return the weight that an Accept-like header gives to a name, None where it is not listed."""
    best: float | None = None
    for entry in header.lower().split(","):
        first, *parameters = (part.strip() for part in entry.split(";"))
        options = {key.strip(): value.strip(' "') for key, _, value in map(_pair, parameters)}
        if first != name or (name == OPENMETRICS and options.get("version", "1.0.0") != "1.0.0"):
            continue
        try:
            best = max(best or 0.0, min(float(options.get("q", "1")), 1.0))
        except ValueError:
            continue
    return best


def _pair(parameter: str) -> tuple[str, str, str]:
    return parameter.partition("=")

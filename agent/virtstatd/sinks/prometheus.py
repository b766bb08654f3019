"""The scrape endpoint for Prometheus and everything that reads its formats."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, ClassVar

from msgspec import Meta

from virtstatd.errors import PortInUse, StartError
from virtstatd.runtime.clock import boottime
from virtstatd.sending.address import bound, check_port, inherited, split_address
from virtstatd.serving.latest import Latest
from virtstatd.serving.listener import Request, Response, listening, text_response
from virtstatd.serving.page import Pages
from virtstatd.sink import Batch, Delivery, Opening, Send


OPENMETRICS = "application/openmetrics-text"
TEXT = "text/plain"
CONTENT_TYPES = {
    True: f"{OPENMETRICS}; version=1.0.0; charset=utf-8",
    False: f"{TEXT}; version=0.0.4; charset=utf-8",
}
FRONT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>virtstatd</title>
<h1>virtstatd</h1>
<p>Statistics of this host's libvirt guests: <a href="{path}">{path}</a></p>
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """Serve the latest readings for scrapes, in text format 0.0.4 or OpenMetrics 1.0."""

    listen_address: Annotated[
        str, Meta(description="Address and port to listen at; `:9766` is every address.")
    ] = "127.0.0.1:9766"
    path: Annotated[str, Meta(description="Path of the page.", pattern="^/[A-Za-z0-9._~/-]*$")] = (
        "/metrics"
    )

    delivery: ClassVar[Delivery] = "latest"

    def __post_init__(self) -> None:
        try:
            split_address(self.listen_address)
        except ValueError as error:
            raise ValueError(f"listen_address: {error}") from None

    def check_here(self) -> None:
        """Raise StartError where nothing can listen at the address."""
        try:
            check_port(self.listen_address)
        except PortInUse as error:
            raise PortInUse(f"listen_address: {error}", error.host, error.port) from error
        except StartError as error:
            raise StartError(f"listen_address: {error}") from error

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Send]:
        """Listen; a batch is on the page as soon as `send` returns."""
        latest = Latest(boottime)
        pages = Pages(latest, opening.log)

        async def send(batch: Batch) -> None:
            latest.put(batch)

        async def answer(request: Request) -> Response:
            if request.path == self.path:
                return await _page(pages, request)
            match request.path:
                case "/":
                    body = FRONT.format(path=self.path).encode()
                    return Response((body,), len(body), "text/html; charset=utf-8")
                case "/-/healthy":
                    return text_response("virtstatd is running.")
                case "/-/ready" if latest.version:
                    return text_response("virtstatd has numbers.")
                case "/-/ready":
                    return text_response("Nothing was polled yet.", HTTPStatus.SERVICE_UNAVAILABLE)
            return text_response(f"Not here; see {self.path}", HTTPStatus.NOT_FOUND)

        try:
            sock = inherited(opening.name) or await bound(self.listen_address)
        except OSError as error:
            raise StartError(
                f"the socket that was handed over for {opening.name} cannot be used: {error}"
            ) from error
        opening.sockets[opening.name] = sock
        async with listening(sock, answer, opening.log):
            host, port = sock.getsockname()[:2]
            opening.log.info("scrape.listening", host=host, port=port, path=self.path)
            yield send


async def _page(pages: Pages, request: Request) -> Response:
    openmetrics = prefers_openmetrics(request.headers.get("accept", ""))
    page = await pages.get(openmetrics=openmetrics)
    headers = {"Vary": "Accept, Accept-Encoding", "Cache-Control": "no-store"}
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

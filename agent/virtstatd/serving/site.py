"""Answers requests of one address: whose name it asks for, what is there, and who may see it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from virtstatd.runtime.host import host_name
from virtstatd.serving.access import WebAccess
from virtstatd.serving.http import Request, Response, text_response
from virtstatd.serving.routes import Route, found
from virtstatd.serving.settings import FollowedSettings


HEALTHY: Final = "/-/healthy"
READY: Final = "/-/ready"
CLOSED: Final = (
    "Not shown here: other machines reach this address without a login."
    " Add users to the table [web], or open = true."
)
BROWSERS_SEND: Final = ("accept-language", "origin", "referer", "sec-fetch-site")
"""Headers of which a browser sends one at least, whatever a script does, and scrapers none."""


class Site:
    """Answers for one listening socket; `reached` says whether other machines reach it."""

    def __init__(
        self,
        routes: list[Route],
        settings: FollowedSettings,
        access: WebAccess,
        *,
        ready: Callable[[], bool],
        hosts: Iterable[str] = (),
        reached: bool = False,
        open_to_all: bool = False,
    ) -> None:
        self._routes = routes
        self._settings = settings
        self._access = access
        self._ready = ready
        self._hosts = {"", "localhost", *own_names(), *(each.lower() for each in hosts)}
        self._closes = reached and not open_to_all

    async def answer(self, request: Request) -> Response:
        """Answer a request."""
        if not self._is_ours(request):
            text = f"{request.host} is not a name of this host; add it to web.hosts if it is."
            return text_response(text, HTTPStatus.MISDIRECTED_REQUEST)
        settings = await self._settings.current()
        response = self._health(request.path)
        if response is None:
            response = await self._access.refusal(request, settings)
        if response is None:
            route = found(self._routes, request.path)
            if route is None:
                response = self._nothing()
            elif route.private and self._closes and not settings.authenticated:
                response = text_response(CLOSED, HTTPStatus.FORBIDDEN)
            else:
                response = await route.respond(request)
        if settings.headers:
            response = replace(response, headers={**settings.headers, **response.headers})
        return response

    def _is_ours(self, request: Request) -> bool:
        """
        Return whether a request is for this host, as far as that matters.

        A page from elsewhere may have its own name lead here, and then read everything through the
        browser of an administrator (DNS rebinding). Scrapers use whatever name leads here.
        """
        if request.host in self._hosts or request.host.endswith(".localhost"):
            return True
        agent = request.headers.get("user-agent", "")
        browser = agent.startswith("Mozilla/") or any(
            each in request.headers for each in BROWSERS_SEND
        )
        return not browser or is_address(request.host)

    def _health(self, path: str) -> Response | None:
        match path:
            case "/-/healthy":
                return text_response("virtstatd is running.")
            case "/-/ready" if self._ready():
                return text_response("virtstatd has numbers.")
            case "/-/ready":
                return text_response("Nothing was polled yet.", HTTPStatus.SERVICE_UNAVAILABLE)
        return None

    def _nothing(self) -> Response:
        shown = [route.path for route in self._routes if not route.private]
        return text_response(
            f"Not here; see {', '.join(shown or [HEALTHY, READY])}", HTTPStatus.NOT_FOUND
        )


def own_names() -> set[str]:
    """Return the names that this host has by itself, without asking a name server."""
    name = host_name().lower()
    return {name, name.partition(".")[0]}


def is_address(host: str) -> bool:
    """Return whether a name is an address."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True

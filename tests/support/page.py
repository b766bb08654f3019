"""The page over the API of a made-up host."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import parse_qs

from support.made_up_host import Document, MadeUpHost
from support.web import served
from virtstatd.serving.assets import page_routes
from virtstatd.serving.http import Request, Response, text_response
from virtstatd.serving.routes import Route, found


class MadeUpApi:
    """Answers requests of the API from a made-up host."""

    def __init__(self, host: MadeUpHost) -> None:
        self.host = host

    async def respond(self, request: Request) -> Response:
        """Answer as the contract says."""
        host = self.host
        if host.status is not HTTPStatus.OK:
            return text_response("Not shown here.", host.status)
        query = {key: values[0] for key, values in parse_qs(request.query).items()}
        history = "history" in query
        path = request.path.removeprefix("/api/v1/")
        if path == "live":
            return self._live(query)
        if path.startswith("guests/"):
            index = self._index(path.removeprefix("guests/"))
            if index is not None:
                return json_response(host.guest(index, history=history))
        documents: dict[str, Callable[[], Document]] = {
            "host": lambda: host.host(history=history),
            "guests": lambda: host.guests(query),
            "agent": host.agent,
            "findings": host.findings,
            "events": host.events,
        }
        if path in documents:
            return json_response(documents[path]())
        return json_response({"error": "not here"}, HTTPStatus.NOT_FOUND)

    def _index(self, wanted: str) -> int | None:
        return next((n for n in range(self.host.count) if self.host.uuid(n) == wanted), None)

    def _live(self, query: dict[str, str]) -> Response:
        if query["view"] == "guests":
            try:
                self.host.guests(query)
            except ValueError as error:
                return json_response({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        self.host.views.append(query)
        return Response(self._events(query), None, "text/event-stream")

    async def _events(self, query: dict[str, str]) -> AsyncGenerator[bytes, None]:
        host = self.host
        host.viewers += 1
        order: list[str] = []
        try:
            while host.status is HTTPStatus.OK:
                yield event("host", host.host())
                yield event("findings", host.findings())
                if query["view"] == "guests":
                    shown = host.guests(query)
                    rows = shown.pop("guests")
                    before, order = order, [each["uuid"] for each in rows]
                    changed = {} if before == order else {"order": order}
                    yield event("guests", {**shown, **changed, "rows": rows})
                elif query["view"] == "guest":
                    index = self._index(query["uuid"])
                    yield event(
                        "guest", host.guest(index) if index is not None else {"guest": None}
                    )
                elif query["view"] == "agent":
                    yield event("agent", host.agent())
                await host.moved()
        finally:
            host.viewers -= 1


def event(name: str, document: Document) -> bytes:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()


def json_response(document: Document, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a document as a response."""
    body = json.dumps(document).encode()
    return Response((body,), len(body), "application/json", status)


@asynccontextmanager
async def page_of(host: MadeUpHost) -> AsyncIterator[int]:
    """Serve the page and the API of a made-up host at the port that is yielded."""
    api = MadeUpApi(host)
    routes = [*page_routes(), Route("/api/v1/", api.respond)]

    async def respond(request: Request) -> Response:
        route = found(routes, request.path)
        if route is None:
            return text_response("Not here.", HTTPStatus.NOT_FOUND)
        return await route.respond(request)

    async with served(respond=respond) as (port, _):
        yield port

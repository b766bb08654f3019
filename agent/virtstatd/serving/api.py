"""The routes `/api/v1/…`: documents as JSON, with ETags, and the live stream."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl
from zlib import crc32

from virtstatd.insight.columns import GuestRow
from virtstatd.insight.document import Document
from virtstatd.insight.documents import Totals
from virtstatd.insight.filters import Filter, FilterError, Order, column_of
from virtstatd.insight.history import HOST
from virtstatd.insight.insight import Insight
from virtstatd.insight.kinds import kind_documents
from virtstatd.runtime.compress import compressed
from virtstatd.serving.answers import JSON, encoded, in_steps, number_asked, refused, tag_matches
from virtstatd.serving.http import Request, Respond, Response
from virtstatd.serving.live import Viewers
from virtstatd.serving.routes import Route
from virtstatd.serving.schema import api_schema


ROOT: Final = "/api/v1"
GZIP_BYTES: Final = 1400
"""A smaller answer is one packet anyway."""

MakeDocument = Callable[[dict[str, str]], Awaitable[Document]]


class NotThere(Exception):  # noqa: N818 - an answer
    """What was requested does not exist; the message says what."""


class Api:
    """Answer with documents of an `Insight`."""

    def __init__(self, insight: Insight, viewers: int) -> None:
        self._insight = insight
        self._viewers = Viewers(insight, viewers)
        self._run = f"{time.time_ns():x}"

    def routes(self) -> Iterator[Route]:
        """Yield the routes; guests' names are not public, so all are private."""
        for path, answer in (
            (f"{ROOT}/host", self._host),
            (f"{ROOT}/guests", self._guests),
            (f"{ROOT}/agent", self._agent),
            (f"{ROOT}/findings", self._findings),
            (f"{ROOT}/events", self._events),
            (f"{ROOT}/schema", self._schema),
        ):
            yield Route(path, self._responding(answer), private=True)
        yield Route(f"{ROOT}/guests/", self._one, private=True)
        yield Route(f"{ROOT}/live", self._live, private=True)
        yield Route("/api/", _nothing, private=True)

    def _responding(self, answer: MakeDocument) -> Respond:
        async def respond(request: Request) -> Response:
            return await self._respond(request, answer)

        return respond

    async def _respond(self, request: Request, answer: MakeDocument) -> Response:
        tag = self._tag(request)
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if tag_matches(request.headers.get("if-none-match", ""), tag):
            return Response((), 0, JSON, HTTPStatus.NOT_MODIFIED, headers)
        try:
            document = await answer(asked_of(request))
        except FilterError as error:
            return refused(str(error), HTTPStatus.BAD_REQUEST)
        except NotThere as error:
            return refused(str(error), HTTPStatus.NOT_FOUND)
        body = encoded(document)
        if len(body) >= GZIP_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
            body = await compressed(body)
            headers["Content-Encoding"] = "gzip"
        return Response((body,), len(body), JSON, headers=headers)

    async def _live(self, request: Request) -> Response:
        try:
            return await self._viewers.respond(asked_of(request))
        except FilterError as error:
            return refused(str(error), HTTPStatus.BAD_REQUEST)

    def _tag(self, request: Request) -> str:
        """Return a tag that changes with everything that documents are made of."""
        asked = crc32(f"{request.path}?{request.query}".encode())
        return f'"{self._run}-{self._insight.version}-{asked:x}"'

    async def rows(self) -> list[GuestRow]:
        """Return the rows of all guests, in steps between which the loop does other things."""
        return await in_steps(self._insight.documents.rows())

    async def _host(self, query: dict[str, str]) -> Document:
        document = self._insight.documents.host(Totals.of(await self.rows()))
        return self._with_history(query, document, HOST)

    async def _guests(self, query: dict[str, str]) -> Document:
        columns = [each for each in query.get("columns", "").split(",") if each]
        for each in columns:
            column_of(each)
        wanted, order = Filter(query.get("filter", "")), Order(query.get("sort", ""))
        rows = await self.rows()
        if wanted.names_state:
            rows += await in_steps(self._insight.documents.stopped_rows())
        return self._insight.documents.guests(
            rows,
            wanted,
            order,
            offset=number_asked(query, "offset") or 0,
            limit=number_asked(query, "limit"),
            columns=columns,
        )

    async def _one(self, request: Request) -> Response:
        uuid = request.path.removeprefix(f"{ROOT}/guests/")

        async def answer(query: dict[str, str]) -> Document:
            document = self._insight.documents.guest(uuid)
            if document is None:
                raise NotThere("no guest with this UUID is here")
            return self._with_history(query, document, uuid)

        return await self._respond(request, answer)

    def _with_history(self, query: dict[str, str], document: Document, key: str) -> Document:
        if query.get("history", "0") in ("", "0"):
            return document
        return {**document, "history": self._insight.history_of(key)}

    async def _agent(self, _: dict[str, str]) -> Document:
        return self._insight.documents.agent()

    async def _schema(self, _: dict[str, str]) -> Document:
        return api_schema()

    async def _findings(self, _: dict[str, str]) -> Document:
        return {**self._insight.documents.found(), "kinds": kind_documents()}

    async def _events(self, query: dict[str, str]) -> Document:
        return self._insight.events(query.get("guest", ""), number_asked(query, "limit"))


def asked_of(request: Request) -> dict[str, str]:
    """Return the parameters of a request; of several with one name the last counts."""
    return dict(parse_qsl(request.query, keep_blank_values=True, errors="replace"))


async def _nothing(_: Request) -> Response:
    return refused(
        f"not here; see {ROOT}/host, guests, agent, findings, events, live and schema",
        HTTPStatus.NOT_FOUND,
    )

"""The routes `/api/v1/…`: documents as JSON, with ETags, and the live stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec

from virtstatd.insight.columns import GuestRow
from virtstatd.insight.document import Document
from virtstatd.insight.filters import Filter, FilterError, Order, column_of
from virtstatd.insight.insight import Insight
from virtstatd.serving.http import Request, Respond, Response
from virtstatd.serving.routes import Route


ROOT: Final = "/api/v1"
JSON: Final = "application/json"
STEP_SECONDS: Final = 0.004
"""The loop belongs to others after that long."""

GUESTS_MAX: Final = 100_000

MakeDocument = Callable[[dict[str, str]], Awaitable[Document]]


class NotThere(Exception):  # noqa: N818 - an answer
    """What was asked for does not exist; the message says what."""


class Api:
    """MakeDocument with documents of an `Insight`."""

    def __init__(self, insight: Insight) -> None:
        self._insight = insight
        self._run = f"{time.time_ns():x}"

    def routes(self) -> Iterator[Route]:
        """Yield the routes; guests' names are not for everybody, so all are private."""
        for path, answer in (
            (f"{ROOT}/host", self._host),
            (f"{ROOT}/guests", self._guests),
            (f"{ROOT}/agent", self._agent),
            (f"{ROOT}/findings", self._findings),
        ):
            yield Route(path, self._responding(answer), private=True)
        yield Route(f"{ROOT}/guests/", self._one, private=True)
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
            document = await answer(dict(parse_qsl(request.query, keep_blank_values=True)))
        except FilterError as error:
            return refused(str(error), HTTPStatus.BAD_REQUEST)
        except NotThere as error:
            return refused(str(error), HTTPStatus.NOT_FOUND)
        body = encoded(document)
        return Response((body,), len(body), JSON, headers=headers)

    def _tag(self, request: Request) -> str:
        """Return a tag that changes with everything that documents are made of."""
        asked = crc32(f"{request.path}?{request.query}".encode())
        return f'"{self._run}-{self._insight.version}-{asked:x}"'

    async def rows(self) -> list[GuestRow]:
        """Return the rows of all guests, in steps between which the loop does other things."""
        return await in_steps(self._insight.documents.rows())

    async def _host(self, _: dict[str, str]) -> Document:
        return self._insight.documents.host(await self.rows())

    async def _guests(self, query: dict[str, str]) -> Document:
        columns = [each for each in query.get("columns", "").split(",") if each]
        for each in columns:
            column_of(each)
        wanted, order = Filter(query.get("filter", "")), Order(query.get("sort", ""))
        rows = await self.rows()
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

        async def answer(_: dict[str, str]) -> Document:
            document = self._insight.documents.guest(uuid)
            if document is None:
                raise NotThere("no guest with this UUID runs here")
            return document

        return await self._respond(request, answer)

    async def _agent(self, _: dict[str, str]) -> Document:
        return self._insight.documents.agent()

    async def _findings(self, _: dict[str, str]) -> Document:
        return self._insight.documents.found()


async def in_steps(rows: Iterable[GuestRow]) -> list[GuestRow]:
    """Return all rows, with a pause for others each few milliseconds."""
    made: list[GuestRow] = []
    ends = time.monotonic() + STEP_SECONDS
    for row in rows:
        made.append(row)
        if time.monotonic() >= ends:
            await asyncio.sleep(0)
            ends = time.monotonic() + STEP_SECONDS
    return made


def number_asked(query: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of a query, None where it is not there."""
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text[:8]) > GUESTS_MAX:
        raise FilterError(f"{name} must be a number from 0 to {GUESTS_MAX}")
    return int(text[:8])


def encoded(document: Any) -> bytes:
    """Return JSON; a character that is none in Unicode becomes a question mark."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(_replaced(document))


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_replaced(key): _replaced(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each) for each in value]
    return value


def refused(text: str, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON."""
    body = encoded({"error": text})
    return Response((body,), len(body), JSON, status, headers or {})


def tag_matches(wanted: str, tag: str) -> bool:
    """Tell whether a header `If-None-Match` has a tag."""
    return wanted == "*" or tag in (each.strip().removeprefix("W/") for each in wanted.split(","))


async def _nothing(_: Request) -> Response:
    return refused(f"not here; see {ROOT}/host, guests, agent and findings", HTTPStatus.NOT_FOUND)

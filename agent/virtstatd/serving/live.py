"""The live stream: what changes in what a viewer sees, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import Final

from virtstatd.insight.columns import COLUMNS, Cell, GuestRow
from virtstatd.insight.document import Document
from virtstatd.insight.documents import Totals
from virtstatd.insight.filters import Filter, FilterError, Order, column_of
from virtstatd.insight.insight import Insight
from virtstatd.runtime.waiting import beat_after
from virtstatd.serving.answers import encoded, in_steps, number_asked, refused
from virtstatd.serving.http import Response


SECOND: Final = 1.0
QUIET_SECONDS: Final = 15.0
"""After this long without anything a comment is sent, so that a dead client is noticed."""

WINDOW: Final = 60
WINDOW_MAX: Final = 500
"""Rows of a window, by default and at most."""

FRESH_MAX: Final = 60
"""With more guests those outside of a window are shown as they were when last looked at."""

VALUES_SECONDS: Final = 10.0
"""How often the values of findings are sent, where none begins or ends."""

AGE_SECONDS: Final = 5
"""Ages are sent in steps of this, so that nothing changes by growing older alone."""

MANY: Final = 10_000
"""Whole numbers from here on are rounded too: bytes of memory."""

NUMBERS: Final = frozenset({int, float})
BY_NAME: Final = Order("name")

VIEWS: Final = ("host", "guests", "guest", "agent", "findings")
SLOW: Final = ("partitions", "storage_pools", "networks")
"""What of the host's document is not in the stream: it changes once a minute."""

STREAM: Final = "text/event-stream"


class Shared:
    """What all viewers see alike, made for all of them once a second."""

    def __init__(self, insight: Insight) -> None:
        self.insight = insight
        self._made_at = -SECOND
        self._rows: list[GuestRow] = []
        self._host: Document = {}
        self._making = asyncio.Lock()

    async def rows(self) -> tuple[list[GuestRow], Document]:
        """Return the rows by name, as they were computed last, and the document of the host."""
        async with self._making:
            now = asyncio.get_running_loop().time()
            if now - self._made_at >= SECOND / 2:
                fresh = len(self.insight.figures.guests) <= FRESH_MAX
                self._rows = await in_steps(self.insight.documents.rows(fresh=fresh))
                BY_NAME.sort(self._rows)
                self._host = self.insight.documents.host(Totals.of(self._rows))
                for slow in SLOW:
                    del self._host[slow]
                self._made_at = now
            return self._rows, self._host


class Viewers:
    """The viewers of the live stream, so many at most."""

    def __init__(self, insight: Insight, most: int) -> None:
        self._shared = Shared(insight)
        self._most = most
        self._count = 0

    def __len__(self) -> int:
        return self._count

    async def respond(self, query: Mapping[str, str]) -> Response:
        """Answer with a stream, or that there are too many; raises `FilterError`."""
        view = View(self._shared, query)
        if self._count >= self._most:
            text = f"{self._most} viewers watch already; web.viewers allows no more"
            return refused(text, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "5"})
        headers = {"X-Accel-Buffering": "no"}  # a proxy passes each event on at once
        return Response(self._stream(view), None, STREAM, headers=headers)

    async def _stream(self, view: View) -> AsyncGenerator[bytes, None]:
        """Make events, each second at most; the listener drops a client that does not read."""
        self._count += 1  # only here: a stream that nobody takes is never closed
        try:
            loop = asyncio.get_running_loop()
            said = loop.time()
            while self._count <= self._most:
                text = await view.changed()
                now = loop.time()
                if not text and now - said >= QUIET_SECONDS:
                    text = b": \n\n"
                if text:
                    said = now
                    yield text
                    now = loop.time()
                await asyncio.sleep(beat_after(now, SECOND) - now)
        finally:
            self._count -= 1


class View:
    """What one viewer sees, and what of it was sent; raises `FilterError`."""

    def __init__(self, shared: Shared, query: Mapping[str, str]) -> None:
        self._shared = shared
        self._insight = shared.insight
        self._view = query.get("view", "guests")
        if self._view not in VIEWS:
            raise FilterError(f"view must be one of {', '.join(VIEWS)}")
        self._uuid = query.get("uuid", "")
        self._wanted = Filter(query.get("filter", ""))
        self._order = Order(query.get("sort", ""))
        self._offset = number_asked(query, "offset") or 0
        self._limit = min(WINDOW_MAX, number_asked(query, "limit") or WINDOW)
        named = [column_of(each).id for each in query.get("columns", "").split(",") if each]
        self._columns = [*dict.fromkeys(("uuid", *named))] if named else [c.id for c in COLUMNS]
        self._rows: dict[str, GuestRow] = {}
        self._counts = (-1, -1)
        self._sent: dict[str, Document] = {}
        self._version = ""
        self._turns, self._found_at = -1, 0.0

    async def changed(self) -> bytes:
        """Return the events that are due, empty if nothing has changed."""
        if self._version == self._insight.version:
            return b""
        self._version = self._insight.version
        documents = self._insight.documents
        rows, host = await self._shared.rows()
        text = self._event("host", host) + self._findings()
        match self._view:
            case "guests":
                if self._wanted.names_state:
                    rows = rows + await in_steps(documents.stopped_rows())
                    BY_NAME.sort(rows)
                text += self._window(rows)
            case "guest":
                guest = documents.guest(self._uuid)
                text += self._event("guest", guest or {"guest": None})
            case "agent":
                text += self._event("agent", documents.agent())
        return text

    def _findings(self) -> bytes:
        """Return the findings when one begins or ends; that values change alone, now and then."""
        judge, now = self._insight.judge, self._insight.figures.clock()
        if judge.turns == self._turns and now - self._found_at < VALUES_SECONDS:
            return b""
        self._turns, self._found_at = judge.turns, now
        return self._event("findings", self._insight.documents.found())

    def _event(self, name: str, document: Document) -> bytes:
        """Return an event with a whole document, if it differs from the last one."""
        alike = steady(document)
        if self._sent.get(name) == alike:
            return b""
        self._sent[name] = alike
        return event_of(name, document)

    def _window(self, rows: list[GuestRow]) -> bytes:
        """Return what has changed in the rows of the window, and their order if that has."""
        documents = self._insight.documents
        matched = [row for row in rows if self._wanted(row)]
        self._order.sort(matched, named=True)
        shown = matched[self._offset : self._offset + self._limit]
        order = [str(row["uuid"]) for row in shown]
        counts = len(rows), len(matched)
        changes: list[GuestRow] = []
        now: dict[str, GuestRow] = {}
        for uuid in order:
            guest = documents.figures.known(uuid)
            if guest is None:
                continue
            row = documents.row(guest)
            cells = now[uuid] = {
                each: rounded(each, cell) if (cell := row[each]).__class__ in NUMBERS else cell
                for each in self._columns
            }
            before = self._rows.get(uuid)
            if before is None:
                changes.append(cells)
            elif before != cells:
                more = {name: cell for name, cell in cells.items() if cell != before[name]}
                changes.append({"uuid": uuid, **more})
        moved = [*self._rows] != [*now]
        if not (changes or moved or counts != self._counts):
            return b""
        self._rows, self._counts = now, counts
        document: Document = {"total": counts[0], "matched": counts[1]}
        if moved:
            document["order"] = [*now]
        return event_of("guests", {**document, "rows": changes})


def event_of(name: str, document: Document) -> bytes:
    """Return an event; JSON has no line breaks of its own."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encoded(document))


def rounded(name: str, cell: Cell) -> Cell:
    """Return a cell with three or four digits: what changes less is not sent. Ages are in steps."""
    if isinstance(cell, float):
        if name == "age_seconds":
            return int(cell // AGE_SECONDS) * AGE_SECONDS
        return float(f"{cell:.3g}")
    return round(float(f"{cell:.4g}")) if isinstance(cell, int) and cell >= MANY else cell


def steady(document: Document) -> Document:
    """Return what of a document counts as a change: not its time, not that it grows older."""
    alike = {name: value for name, value in document.items() if name != "time"}
    age = alike.get("age_seconds")
    if isinstance(age, float):
        alike["age_seconds"] = age // AGE_SECONDS
    return alike

"""What a screen shows, as it changes: from the live stream, or from documents without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any, Final, Protocol

from virtstatd.commands.api import AgentApi, ApiError
from virtstatd.commands.stream import EventStream, LiveEvent
from virtstatd.commands.top.source import Answers, Needed, kinds_of, looked
from virtstatd.commands.top.state import Known, Shown, remembered


STREAMED_SECONDS: Final = 3.0
"""Where looks are rarer, documents cost the agent less than a stream."""

PAUSE_SECONDS: Final = 2.0
"""Before the next try, where there is no stream."""

HISTORY_SECONDS: Final = 15.0
"""The stream has no history: that of a guest is fetched so often."""

GONE: Final = "no guest with this UUID runs here"


class Follower(Protocol):
    """Yields what is known, as it changes, until `changed` is set; never raises."""

    def follow(self, what: Needed, seen: Shown, changed: Event) -> Iterator[Shown]:
        """Begin with what was known before."""
        ...

    def cut(self) -> None:
        """Have it notice at once that `changed` is set."""
        ...


def follower_of(source: Answers, seconds: float) -> Follower:
    """Return what follows an agent by its stream, unless looks are rare, and others by looks."""
    if isinstance(source, AgentApi) and seconds < STREAMED_SECONDS:
        return LiveFollower(source, seconds)
    return LookFollower(source, seconds)


class LookFollower:
    """LookFollower at the documents each `seconds`."""

    def __init__(self, source: Answers, seconds: float) -> None:
        self._source = source
        self._seconds = seconds

    def follow(self, what: Needed, seen: Shown, changed: Event) -> Iterator[Shown]:
        """Yield what each look finds."""
        while not changed.is_set():
            seen = looked(self._source, what, seen)
            yield seen
            changed.wait(self._seconds)

    def cut(self) -> None:
        """Do nothing: a poll is short."""


class LiveFollower:
    """Follows the live stream; where there is none now, looks at documents until there is."""

    def __init__(self, source: AgentApi, seconds: float) -> None:
        self._source = source
        self._stream = EventStream(source)
        self._seconds = max(seconds, PAUSE_SECONDS)

    def follow(self, what: Needed, seen: Shown, changed: Event) -> Iterator[Shown]:
        """Yield what is known after each event."""
        while not changed.is_set():
            with suppress(ApiError):
                for fresh in self._streamed(what, seen):
                    seen = fresh
                    yield seen
                    if changed.is_set():
                        return
            if changed.is_set():
                return
            seen = looked(self._source, what, seen)
            yield seen
            changed.wait(self._seconds)

    def cut(self) -> None:
        """End the stream."""
        self._stream.cut()

    def _streamed(self, what: Needed, seen: Shown) -> Iterator[Shown]:
        window = Window()
        read_at = -HISTORY_SECONDS
        if not seen.kinds:
            findings = self._source.document("findings")
            seen = replace(seen, kinds=kinds_of(findings))
        for events in self._stream.events(**asked(what)):
            for event in events:
                seen = taken(seen, event, window, what)
            now = time.monotonic()
            if what.screen == "guest" and seen.guest and now - read_at >= HISTORY_SECONDS:
                history = self._source.document(f"guests/{what.uuid}", history=1)["history"]
                seen, read_at = replace(seen, guest={**seen.guest, "history": history}), now
            yield replace(seen, where=self._source.where)


@dataclass(slots=True)
class Window:
    """The rows of a stream's window, from the whole ones to what has changed in them since."""

    rows: dict[str, Known] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def take(self, document: Known) -> dict[str, Any]:
        """Take over an event; return the table as the document of guests has it."""
        for row in document["rows"]:
            uuid = row["uuid"]
            self.rows[uuid] = {**self.rows.get(uuid, {}), **row}
        self.order = document.get("order", self.order)
        self.rows = {uuid: self.rows[uuid] for uuid in self.order if uuid in self.rows}
        return {**document, "guests": [*self.rows.values()]}


def asked(what: Needed) -> dict[str, object]:
    """Return the query of the stream for a screen."""
    match what.screen:
        case "hurts" | "guests":
            return {
                "view": "guests",
                "sort": what.sort,
                "filter": what.filter,
                "offset": what.first,
                "limit": what.rows,
                "columns": ",".join(what.columns),
            }
        case "guest":
            return {"view": "guest", "uuid": what.uuid}
        case "agent":
            return {"view": "agent"}
    return {"view": "host"}


def taken(seen: Shown, event: LiveEvent, window: Window, what: Needed) -> Shown:
    """Return what is known after an event."""
    name, document = event
    changes: dict[str, Any] = {}
    match name:
        case "host":
            # findings come when they change; how long they last goes on
            findings = {**seen.findings, "time": document.get("time")} if seen.findings else {}
            changes = {"host": document, "findings": findings}
        case "guests":
            changes = {"guests": window.take(document), "first": what.first}
        case "guest" if not document.get("guest"):
            changes = {"guest": {}, "trails": {}, "fault": GONE}
        case "guest":
            same = (seen.guest.get("guest") or {}).get("uuid") == what.uuid
            history = {"history": seen.guest["history"]} if same and "history" in seen.guest else {}
            trails = remembered(seen.trails if same else {}, document)
            changes = {"guest": {**document, **history}, "trails": trails}
        case "findings" | "agent":
            changes = {name: document}
    return replace(seen, **{"fault": "", **changes})

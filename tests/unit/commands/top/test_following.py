"""A screen follows an agent's live stream, and documents where there is none."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from support import documents
from support.api_stub import api_stub
from virtstatd.commands.api import AgentApi, Endpoint
from virtstatd.commands.top.following import LiveFollower, LookFollower, Window, follower_of, taken
from virtstatd.commands.top.source import Needed
from virtstatd.commands.top.state import Shown


GUESTS = Needed("guests", rows=40, columns=("uuid", "name", "cpu_ratio"))
EMPTY = Shown()


def event(name: str, document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return an event of the stream."""
    return name, {"version": 1, "time": documents.TIME, **document}


def test_changed_cells_are_put_into_their_rows():
    """Of a row that is known only what has changed comes; rows that leave the window are gone."""
    window = Window()
    whole = [{"uuid": each, "name": each, "cpu_ratio": 0.5} for each in ("a", "b")]
    counts = {"total": 2, "matched": 2}
    seen = taken(
        EMPTY, event("guests", {**counts, "order": ["b", "a"], "rows": whole}), window, GUESTS
    )
    assert [each["name"] for each in seen.guests["guests"]] == ["b", "a"]
    changed = {**counts, "rows": [{"uuid": "a", "cpu_ratio": 0.7}]}
    seen = taken(seen, event("guests", changed), window, GUESTS)
    assert [each["cpu_ratio"] for each in seen.guests["guests"]] == [0.5, 0.7]
    gone = {"total": 1, "matched": 1, "order": ["a"], "rows": []}
    seen = taken(seen, event("guests", gone), window, GUESTS)
    assert seen.guests["guests"] == [{"uuid": "a", "name": "a", "cpu_ratio": 0.7}]
    assert seen.guests["matched"] == 1


def test_a_filter_that_fits_nothing_shows_nothing():
    """A stream that begins with no row has no order either; the rows of the last one are gone."""
    seen = Shown(guests=documents.guests([documents.guest_row(0)]))
    nothing = {"total": 3, "matched": 0, "rows": []}
    assert taken(seen, event("guests", nothing), Window(), GUESTS).guests["guests"] == []


def test_findings_grow_older_without_being_sent():
    """How long findings last goes by the newest document, whichever that is."""
    found = documents.findings(documents.finding(documents.guest_row(1)))
    seen = taken(EMPTY, event("findings", found), Window(), GUESTS)
    later = {**documents.host(), "time": "2026-11-26T12:00:07.000Z"}
    assert taken(seen, ("host", later), Window(), GUESTS).findings["time"] == later["time"]


def test_a_guest_keeps_its_history_and_loses_that_of_another():
    """The stream has no history: that of the same guest stays, until the guest has gone."""
    one, other = documents.guest(documents.guest_row(0)), documents.guest(documents.guest_row(1))
    what = Needed("guest", uuid=one["guest"]["uuid"])
    plain = {key: value for key, value in one.items() if key != "history"}
    seen = taken(Shown(guest=one), ("guest", plain), Window(), what)
    assert seen.guest["history"] == one["history"]
    assert seen.trails
    assert "history" not in taken(Shown(guest=other), ("guest", plain), Window(), what).guest
    gone = taken(seen, ("guest", {"guest": None}), Window(), what)
    assert (gone.guest, gone.trails) == ({}, {})
    assert "no guest" in gone.fault


def following(
    api: AgentApi, what: Needed, changed: threading.Event
) -> Generator[Shown, None, None]:
    """Follow an agent."""
    yield from LiveFollower(api, 0.01).follow(what, EMPTY, changed)


@pytest.mark.parametrize("screen", ["hurts", "guests", "guest", "agent", "help"])
def test_a_stream_is_asked_for_once(screen: Any):
    """However many events come, an agent is asked for one stream, and for what never changes."""
    with api_stub(3) as stub, closing(AgentApi(Endpoint(stub.url))) as api:
        stub.beat = 0.01
        what = replace(GUESTS, screen=screen, uuid=stub.rows[0]["uuid"])
        with closing(following(api, what, threading.Event())) as shown:
            for _ in range(20):
                seen = next(shown)
        assert seen.host["host"] == "hyper1"
        assert seen.fault == ""
        paths = [path for path, _, _ in stub.asked]
        wanted = ["findings", "live", *([f"guests/{what.uuid}"] if screen == "guest" else [])]
        assert paths == wanted


@pytest.mark.parametrize("refusal", [(503, '{"error": "full"}'), (404, '{"error": "what?"}')])
def test_without_a_stream_documents_are_asked_for(refusal: tuple[int, str]):
    """Where the stream is refused, its numbers come from documents, and the reason is no fault."""
    with api_stub(3) as stub, closing(AgentApi(Endpoint(stub.url))) as api:
        stub.live = False
        changed = threading.Event()
        shown = following(api, GUESTS, changed)
        seen = next(shown)
        assert [each["name"] for each in seen.guests["guests"]] == [f"guest-000{n}" for n in "012"]
        assert seen.fault == ""
        stub.answer = refusal
        changed.set()
    assert list(shown) == []


def test_a_stream_is_cut_at_once():
    """A reader that waits for the next event is woken by a cut, and ends without a fault."""
    with api_stub(3) as stub, closing(AgentApi(Endpoint(stub.url))) as api:
        stub.beat = 1000.0
        streamed = LiveFollower(api, 1.0)
        changed, first = threading.Event(), threading.Event()

        def read() -> None:
            for _ in streamed.follow(GUESTS, EMPTY, changed):
                first.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert first.wait(60)
        changed.set()
        while reader.is_alive():  # it may not have begun to wait yet
            streamed.cut()
            reader.join(0.05)


def test_rare_looks_are_documents():
    """A stream each second would cost more than a document a minute."""
    api = AgentApi(Endpoint("http://127.0.0.1:1"))
    assert isinstance(follower_of(api, 1.0), LiveFollower)
    assert isinstance(follower_of(api, 60.0), LookFollower)

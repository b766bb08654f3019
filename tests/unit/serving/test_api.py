"""The API: documents, errors, ETags, and the live stream."""

import gzip
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from support.insight import VM, World, control, cpu, state
from virtstatd.insight.filters import FilterError
from virtstatd.insight.happenings import KEPT_MAX
from virtstatd.model import Domain, Happening
from virtstatd.serving.api import Api
from virtstatd.serving.http import Request, Response
from virtstatd.serving.live import Shared, View, Viewers
from virtstatd.serving.routes import found
from virtstatd.testing import HOSTILE_NAMES, make_domain


async def get(world: World, path: str, headers: dict[str, str] | None = None) -> Response:
    """Ask the API."""
    path, _, query = path.partition("?")
    route = found([*Api(world.insight, 2).routes()], f"/api/v1/{path}")
    assert route is not None
    assert route.private
    return await route.respond(
        Request("GET", f"/api/v1/{path}", headers or {}, keep=True, query=query)
    )


def decoded(response: Response) -> Any:
    """Return the document of an answer."""
    assert not isinstance(response.body, AsyncGenerator)
    body = b"".join(response.body)
    assert len(body) == response.length
    return json.loads(body)


def two_guests() -> World:
    """Return a world with two guests of known rates."""
    world = World()
    others = make_domain(1)
    for ran in 1.0, 2.0:
        world.go(5)
        world.put(cpu(VM, ran), state(VM), cpu(others, 3 * ran, ran), state(others, "paused"))
    return world


async def test_every_document_has_a_version_and_a_time():
    """Readers can tell what they read, and how old it is."""
    world = two_guests()
    for path in "host", "guests", f"guests/{VM.uuid}", "agent", "findings", "events":
        document = decoded(await get(world, path))
        assert document["version"] == 1
        assert document["time"].startswith("2023-11-14T22:")
        assert document["time"].endswith("Z")


async def test_the_table_is_filtered_sorted_cut_and_narrowed():
    """A client gets the rows and the columns that it asks for, and how many there are."""
    world = two_guests()
    document = decoded(await get(world, "guests?filter=vm&sort=-cpu&limit=1&columns=cpu,name"))
    assert (document["total"], document["matched"]) == (2, 2)
    assert [each["id"] for each in document["columns"]] == ["uuid", "name", "cpu_ratio"]
    assert document["guests"] == [
        {"uuid": make_domain(1).uuid, "cpu_ratio": pytest.approx(0.6), "name": "vm-1"}
    ]
    document = decoded(await get(world, "guests?offset=1"))
    assert [each["name"] for each in document["guests"]] == ["vm-0"]
    document = decoded(await get(world, "guests?filter=state:paused"))
    assert (document["total"], document["matched"]) == (2, 1)


async def test_the_last_events_are_there_by_guest_and_number():
    """The newest comes first; those of a guest that has ended stay, and the oldest make room."""
    world = two_guests()
    other = make_domain(1)
    for number in range(KEPT_MAX):
        world.insight.happened(happening(VM, "io_error", "enospc", number))
    world.insight.happened(happening(other, "lifecycle", "stopped_crashed", 7))
    found = decoded(await get(world, "events"))["events"]
    assert len(found) == KEPT_MAX
    assert found[0]["guest"] == {"uuid": other.uuid, "name": other.name}
    assert found[0]["text"] == "lifecycle stopped crashed disk0 /d"
    assert found[-1]["count"] == 1, "the first one has made room"
    (last,) = decoded(await get(world, f"events?guest={VM.uuid}&limit=1"))["events"]
    assert (last["event"], last["detail"], last["count"]) == ("io_error", "enospc", KEPT_MAX - 1)
    assert decoded(await get(world, "events?guest=nobody"))["events"] == []
    of_guest = decoded(await get(world, f"guests/{VM.uuid}"))["events"]
    assert of_guest[0]["text"] == "io error enospc disk0 /d"


def happening(domain: Domain, event: str, detail: str, count: int) -> Happening:
    """Return an event with everything."""
    return Happening(domain, event, detail, "disk0", "/d", count, 1_700_000_000_000_000_000)


async def test_guests_that_do_not_run_are_there_where_a_state_is_asked_for():
    """They are not in the table without that, and have a document of their own."""
    world = two_guests()
    off = replace(make_domain(7), id=-1)
    world.put(state(off, "shutoff"), source="defined")
    assert len(decoded(await get(world, "guests"))["guests"]) == 2
    document = decoded(await get(world, "guests?filter=state:shutoff"))
    assert [each["name"] for each in document["guests"]] == [off.name]
    found = decoded(await get(world, f"guests/{off.uuid}"))
    assert (found["guest"]["state"], found["incarnation"]["id"]) == ("shutoff", -1)
    assert decoded(await get(world, "host"))["guests"]["active"] == 2


@pytest.mark.parametrize(
    ("path", "status", "fault"),
    [
        ("guests?filter=stael>5", 400, "steal"),
        ("guests?sort=x", 400, "'x' is not a column"),
        ("guests?columns=x", 400, "'x' is not a column"),
        ("guests?limit=-1", 400, "limit must be a number"),
        ("guests?offset=1e9", 400, "offset must be a number"),
        ("live?view=x", 400, "view must be one of"),
        ("guests/nobody", 404, "no guest with this UUID"),
        ("other", 404, "/api/v1/host"),
    ],
)
async def test_errors_are_json(path: str, status: int, fault: str):
    """A client learns what was wrong, and what could be asked."""
    response = await get(two_guests(), path)
    assert response.status == status
    assert fault in decoded(response)["error"]


async def test_nothing_is_computed_twice_for_a_client_that_has_it():
    """As long as nothing new has come, a document's ETag stands for it."""
    world = two_guests()
    api = Api(world.insight, 2)
    route = found([*api.routes()], "/api/v1/host")
    assert route is not None

    async def ask(tag: str = "", query: str = "") -> Response:
        headers = {"if-none-match": tag} if tag else {}
        request = Request("GET", "/api/v1/host", headers, keep=True, query=query)
        return await route.respond(request)

    tag = (await ask()).headers["ETag"]
    assert (await ask(tag)).status == 304
    assert (await ask(f'"other", W/{tag}')).status == 304
    assert (await ask("*")).status == 304
    assert (await ask(tag, "history=1")).status == 200
    world.put(state(VM))
    assert (await ask(tag)).status == 200


async def test_a_large_answer_is_compressed_for_clients_that_take_it():
    """A client that takes gzip gets the same document in fewer bytes."""
    world = two_guests()
    plain = await get(world, "guests")
    small = await get(world, "guests", {"accept-encoding": "gzip, br"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert not isinstance(small.body, AsyncGenerator)
    body = b"".join(small.body)
    assert len(body) == small.length
    assert json.loads(gzip.decompress(body))["guests"] == decoded(plain)["guests"]


async def test_hostile_names_come_through():
    """A name with markup, escapes or direction marks is what JSON says it is."""
    world = World()
    names = [*HOSTILE_NAMES, "<img src=x onerror=alert(1)>", "\N{PILE OF POO}" * 255]
    domains = [make_domain(at, name) for at, name in enumerate(names)]
    world.put(*(state(each) for each in domains))
    rows = decoded(await get(world, "guests"))["guests"]
    sent = {each["uuid"]: each["name"] for each in rows}
    for domain in domains:
        if domain.name != "\udce9":  # a broken driver's, which is no text
            assert sent[domain.uuid] == domain.name
    for domain in domains:
        document = decoded(await get(world, f"guests/{domain.uuid}"))
        assert document["guest"]["uuid"] == domain.uuid


def events_of(text: bytes) -> list[tuple[str, Any]]:
    """Return the events of a stream."""
    found: list[tuple[str, Any]] = []
    for event in text.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_a_viewer_gets_what_has_changed():
    """First comes everything in the window, then only cells that are not as they were."""
    world = two_guests()
    view = View(Shared(world.insight), {"sort": "name", "limit": "1"})
    first = dict(events_of(await view.changed()))
    assert first.keys() == {"host", "findings", "guests"}
    assert first["guests"]["order"] == [VM.uuid]
    assert first["guests"]["matched"] == 2
    assert first["guests"]["rows"][0]["name"] == "vm-0"
    assert "partitions" not in first["host"]
    assert await view.changed() == b""
    world.go(5)
    world.put(cpu(VM, 4.0), state(VM))
    second = dict(events_of(await view.changed()))
    assert second["guests"]["rows"] == [{"uuid": VM.uuid, "cpu_ratio": 0.4}]
    assert "order" not in second["guests"]


async def test_findings_are_sent_when_one_begins_or_ends():
    """A value that changes is sent each ten seconds, a finding that begins or ends at once."""
    world = World()
    view = View(Shared(world.insight), {"view": "findings"})
    sent: list[int] = []
    waited = 0.0
    for second in range(25):
        waited += 0.4 + 0.01 * (second % 3)
        world.put(cpu(VM, 0.0, waited, vcpus=1), control(VM, responsive=second != 20))
        for _ in world.insight.look():
            pass
        if "findings" in dict(events_of(await view.changed())):
            sent.append(second)
        world.go(1)
    began = next(each for each in sent if each > 0)
    assert sent[:2] == [0, began]
    assert 20 in sent
    assert 21 in sent
    assert len(sent) <= 6


async def test_the_window_moves_with_its_guests():
    """A guest that enters the window comes whole, and one that ended is not in the order."""
    world = two_guests()
    view = View(Shared(world.insight), {"sort": "-cpu", "limit": "1", "columns": "name,cpu"})
    first = dict(events_of(await view.changed()))
    assert first["guests"]["rows"] == [
        {"uuid": make_domain(1).uuid, "name": "vm-1", "cpu_ratio": 0.3 * 2}
    ]
    world.put(gone=[make_domain(1)])
    view = View(Shared(world.insight), {"sort": "-cpu", "limit": "1", "columns": "name,cpu"})
    second = dict(events_of(await view.changed()))
    assert second["guests"]["order"] == [VM.uuid]
    assert second["guests"]["total"] == 1


@pytest.mark.parametrize("view", ["host", "agent", "findings", "guest"])
async def test_views(view: str):
    """Each view has the host, the findings, and what it is a view of."""
    world = two_guests()
    text = await View(Shared(world.insight), {"view": view, "uuid": VM.uuid}).changed()
    assert {name for name, _ in events_of(text)} == {"host", "findings", view}


async def test_so_many_viewers_and_no_more():
    """A viewer too many is told to come back, and one that left makes room."""
    world = two_guests()
    viewers = Viewers(world.insight, 1)
    response = await viewers.respond({})
    assert isinstance(response.body, AsyncGenerator)
    assert (await anext(response.body)).startswith(b"event: host\n")
    assert len(viewers) == 1
    refused = await viewers.respond({})
    assert refused.status == 503
    assert refused.headers["Retry-After"]
    await response.body.aclose()
    assert len(viewers) == 0
    assert (await viewers.respond({})).status == 200


async def test_a_wrong_filter_ends_no_stream_that_began():
    """What is wrong with a view is said before the stream begins."""
    with pytest.raises(FilterError):
        await Viewers(two_guests().insight, 1).respond({"filter": "x>1"})

"""The first words of a start."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import structlog
from structlog.testing import capture_logs

from virtstatd.collector import Up
from virtstatd.service.collecting import Collecting
from virtstatd.service.first_words import report_found


@dataclass
class Named:
    """A collector, or a connection, with a name or a version."""

    name: str = ""
    version: str = ""


@dataclass
class Left:
    """What the left side has: libvirt's version, guests, collectors."""

    elsewhere: str = ""
    guests: int = 3
    collectors: list[Named] = field(default_factory=lambda: [Named("bulk"), Named("local")])

    @property
    def hypervisor(self) -> Any:
        """Return itself, as it has all of it."""
        return self

    @property
    def connection(self) -> Named:
        """Return a connection to libvirt."""
        return Named(version="9.0.0")

    @property
    def inventory(self) -> range:
        """Return as many as there are guests."""
        return range(self.guests)


async def words(left: Left, up: Up, sinks: list[str], page: str, **more: Any) -> list[Any]:
    """Return what is logged."""
    stop = more.get("stop") or asyncio.Event()
    with capture_logs() as logged:
        log = structlog.get_logger()
        await report_found(cast("Collecting", left), up, sinks, page, log, stop)
    return list(logged)


async def test_what_was_found_and_what_comes_next():
    """With libvirt, guests, a sink and a page nothing is missing, and the next step is to look."""
    (event,) = await words(Left(), Up(up=True), ["mimir"], "http://127.0.0.1:9766/")

    assert event.pop("next").startswith("virtstatd status")
    assert event == {
        "event": "agent.found",
        "log_level": "info",
        "libvirt": "9.0.0",
        "guests": 3,
        "sources": ["bulk", "local"],
        "sinks": ["mimir"],
        "page": "http://127.0.0.1:9766/",
        "missing": [],
    }


async def test_what_is_missing_is_told():
    """Without a sink, a page and the guests' processes each is named, and `doctor` is next."""
    (event,) = await words(Left(elsewhere="the hypervisor is remote"), Up(up=True), [], "")

    assert [each.partition(":")[0] for each in event["missing"]] == [
        "numbers of the kernel",
        "a sink",
        "a page",
    ]
    assert event["page"] is None
    assert event["next"].startswith("virtstatd doctor")


async def test_libvirt_is_waited_for():
    """The words come when libvirt answers, and not twice."""
    up = Up()
    speaking = asyncio.ensure_future(words(Left(), up, ["x"], "p"))
    await asyncio.sleep(0)
    assert not speaking.done()
    up.turn(up=True)
    assert [event["missing"] for event in await speaking] == [[]]


async def test_a_stop_says_nothing():
    """An agent that ends before libvirt has answered has found nothing."""
    stop = asyncio.Event()
    stop.set()
    assert await words(Left(), Up(), [], "", stop=stop) == []

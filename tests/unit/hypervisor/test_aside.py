"""Calls beside the statistics, which may hang."""

import asyncio
import threading
from typing import Any

import pytest

from virtstatd.collector import Up
from virtstatd.errors import Crowded, Disconnected, Overdue
from virtstatd.hypervisor.aside import HANGING_MAX, Aside
from virtstatd.hypervisor.lanes import Session


class Connection:
    """A connection that remembers whether it is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def isAlive(self) -> int:  # noqa: N802 - libvirt's
        """Live."""
        return 1

    def close(self) -> None:
        """Close."""
        self.closed.set()


async def test_an_object_that_hangs_costs_itself_alone():
    """Others are asked on another thread; it is asked again once its call has returned."""
    let = threading.Event()
    connection: Any = Connection()
    session = Session(connection)
    aside = Aside("test", lambda: session, Up(up=True))
    try:
        with pytest.raises(Overdue):
            await aside.ask("hung", lambda _: let.wait(60), 0.01)
        assert aside.hangs("hung")
        with pytest.raises(Overdue, match="still hangs"):
            await aside.ask("hung", lambda _: 1, 60.0)
        assert await aside.ask("well", lambda _: 7, 60.0) == 7
    finally:
        let.set()
    async with asyncio.timeout(60):
        while aside.hangs("hung"):
            await asyncio.sleep(0)
    assert await aside.ask("hung", lambda _: 8, 60.0) == 8
    aside.release()


async def test_no_more_than_some_calls_hang():
    """Libvirt's workers are for all its clients."""
    let = threading.Event()
    connection: Any = Connection()
    session = Session(connection)
    aside = Aside("test", lambda: session, Up(up=True))
    try:
        for number in range(HANGING_MAX):
            with pytest.raises(Overdue):
                await aside.ask(str(number), lambda _: let.wait(60), 0.01)
        with pytest.raises(Crowded):
            await aside.ask("one more", lambda _: 1, 60.0)
    finally:
        let.set()
    async with asyncio.timeout(60):
        while any(aside.hangs(str(number)) for number in range(HANGING_MAX)):
            await asyncio.sleep(0)
    assert await aside.ask("one more", lambda _: 1, 60.0) == 1
    aside.release()


async def test_a_connection_is_kept_for_a_round_only():
    """An idle connection costs keepalives, so the end of a round closes it; and none while away."""
    made: list[Connection] = []

    def opened() -> Session:
        made.append(Connection())
        connection: Any = made[-1]
        return Session(connection)

    up = Up(up=True)
    aside = Aside("test", opened, up)
    for key in "ab":
        assert await aside.ask(key, lambda _: 1, 60.0)
    assert len(made) == 1
    aside.release()
    await asyncio.to_thread(made[0].closed.wait, 60)
    assert made[0].closed.is_set()
    up.turn(up=False)
    with pytest.raises(Disconnected):
        await aside.ask("a", lambda _: 1, 60.0)
    assert len(made) == 1

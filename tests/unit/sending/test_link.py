"""A kept connection: opened once, also where that takes longer than an attempt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from virtstatd.errors import TryLater
from virtstatd.sending import link
from virtstatd.sending.link import KeptConnection


@dataclass(eq=False)
class Connection:
    """One that can be lost, and that knows whether it was closed."""

    alive: bool = True
    closed: bool = False


@dataclass(eq=False)
class Destination:
    """Opens connections when `ready` is set, or fails."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    opened: list[Connection] = field(default_factory=list)
    begun: int = 0
    fails: bool = False

    async def connect(self) -> Connection:
        """Open one."""
        self.begun += 1
        await self.ready.wait()
        if self.fails:
            raise ConnectionError("refused")
        self.opened.append(Connection())
        return self.opened[-1]

    def link(self) -> KeptConnection[Connection]:
        """Return the link to it."""
        return KeptConnection(self.connect, close, lambda each: each.alive)


async def close(connection: Connection) -> None:
    """Close a connection."""
    connection.closed = True


async def attempt(kept: KeptConnection[Connection]) -> Connection:
    """Use the connection."""
    async with kept.held() as connection:
        return connection


async def given_up(kept: KeptConnection[Connection]) -> None:
    """Begin an attempt, and cancel it while the connection is being opened."""
    task = asyncio.create_task(attempt(kept))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_connection_outlives_the_attempts_that_wait_for_it():
    """Attempts that end before a far destination has answered cost no connection."""
    far = Destination()
    kept = far.link()
    for _ in range(3):
        await given_up(kept)
    far.ready.set()
    first = await attempt(kept)
    assert await attempt(kept) is first
    assert (far.begun, len(far.opened)) == (1, 1)
    await kept.close()
    assert first.closed


async def test_what_is_being_opened_is_closed_with_the_link():
    """No connection stays behind, whether it comes or not."""
    far = Destination()
    kept = far.link()
    await given_up(kept)
    await kept.close()
    far.ready.set()
    await asyncio.sleep(0)
    assert not far.opened

    kept = far.link()
    await given_up(kept)
    while not far.opened:
        await asyncio.sleep(0)
    await kept.close()
    assert all(each.closed for each in far.opened)


async def test_a_connection_that_was_lost_before_its_use_is_replaced():
    """It is closed, and the next attempt opens another one; one that is new is used as it is."""
    far = Destination()
    kept = far.link()
    await given_up(kept)
    far.ready.set()
    while not far.opened:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    far.opened[0].alive = False
    assert await attempt(kept) is far.opened[1]
    await kept.close()
    assert all(each.closed for each in far.opened)
    assert far.begun == 2


async def test_a_failure_reaches_one_attempt_and_the_next_begins_anew():
    """Also a failure that came while no attempt was waiting."""
    far = Destination(fails=True)
    kept = far.link()
    await given_up(kept)
    far.ready.set()
    with pytest.raises(ConnectionError):
        await attempt(kept)
    far.fails = False
    await attempt(kept)
    assert far.begun == 2
    await kept.close()


async def test_a_destination_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """A connect without a limit of its own does not keep the sink for good."""
    monkeypatch.setattr(link, "CONNECT_SECONDS", 0.01)
    far = Destination()
    kept = far.link()
    with pytest.raises(TryLater, match="no connection within"):
        await attempt(kept)
    far.ready.set()
    await attempt(kept)
    await kept.close()

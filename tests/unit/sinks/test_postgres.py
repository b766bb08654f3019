"""What PostgreSQL's errors mean to an outlet, and which of several hosts is used."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg  # type: ignore[import-untyped]
import pytest

from virtstatd.sink import Rejected, TryLater
from virtstatd.sinks import postgres
from virtstatd.sinks.postgres import Postgres
from virtstatd.testing import make_batch
from virtstatd.testing.contract import opening


class Connection:
    """A connection that refuses every batch."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    async def copy_to_table(self, _: str, **__: object) -> str:
        """Refuse."""
        raise self.fault

    def is_closed(self) -> bool:
        """Stay."""
        return False

    def terminate(self) -> None:
        """Go."""


@asynccontextmanager
async def refused(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[pytest.ExceptionInfo[Exception]]:
    """Send a batch to a database that answers with a fault."""

    async def connect(*_: object, **__: object) -> Connection:
        return Connection(fault)

    monkeypatch.setattr(asyncpg, "connect", connect)
    async with Postgres().open(opening()) as send:
        with pytest.raises((TryLater, Rejected)) as caught:
            await send(make_batch(1))
    yield caught


@pytest.mark.parametrize(
    ("name", "pause", "answered"),
    [
        ("InvalidPasswordError", 30, False),
        ("InsufficientPrivilegeError", 30, False),
        ("UndefinedTableError", 30, False),
        ("UndefinedColumnError", 30, False),
        ("InvalidCatalogNameError", 30, False),
        ("DiskFullError", None, False),
        ("DeadlockDetectedError", None, False),
        ("CannotConnectNowError", None, False),
        ("ConnectionDoesNotExistError", None, False),
        ("InternalServerError", None, True),
        ("RaiseError", None, True),
        ("ProgramLimitExceededError", None, True),
    ],
)
async def test_what_can_be_fixed_is_waited_for(
    name: str, pause: float | None, answered: bool, monkeypatch: pytest.MonkeyPatch
):
    """No batch is lost by what a person can fix; what a row may cause is reported as such."""
    async with refused(getattr(asyncpg, name)("because"), monkeypatch) as caught:
        assert isinstance(caught.value, TryLater)
        assert caught.value.after_seconds == pause
        assert caught.value.answered == answered


@pytest.mark.parametrize(
    "fault", [asyncpg.NumericValueOutOfRangeError("because"), asyncpg.UniqueViolationError("so")]
)
async def test_rows_that_do_not_fit_are_refused(fault: Exception, monkeypatch: pytest.MonkeyPatch):
    """What is wrong with the rows themselves is not sent again."""
    async with refused(fault, monkeypatch) as caught:
        assert type(caught.value) is Rejected


async def test_of_several_hosts_the_next_is_tried(monkeypatch: pytest.MonkeyPatch):
    """A host that is away costs its turn, the one that answers is kept, and all are named."""
    tried: list[tuple[str, str | None]] = []
    away = {"one"}

    async def connect(_: str, *, host: str, target_session_attrs: str, **__: object) -> Connection:
        tried.append((host, target_session_attrs))
        if host in away:
            raise ConnectionRefusedError("away")
        return Connection(asyncpg.DiskFullError("because"))

    monkeypatch.setattr(asyncpg, "connect", connect)
    async with Postgres(url="postgresql://u@one:1,two:2/x").open(opening()) as send:
        for _ in range(2):
            with pytest.raises(TryLater, match="two: because"):
                await send(make_batch(1))
        assert [host for host, _ in tried] == ["one", "two", "two"]
        away |= {"two"}
        with pytest.raises(TryLater, match="one: away"):
            await send(make_batch(1))
    assert [host for host, _ in tried[3:]] == ["two", "one"]
    assert {session for _, session in tried} == {"read-write"}


async def test_a_host_that_never_answers_has_its_time(monkeypatch: pytest.MonkeyPatch):
    """Then comes the next host, though the attempt that began with the silent one has ended."""
    tried: list[str] = []

    async def connect(_: str, *, host: str, **__: object) -> Connection:
        tried.append(host)
        if host == "silent":
            await asyncio.Event().wait()
        return Connection(asyncpg.DiskFullError("because"))

    monkeypatch.setattr(asyncpg, "connect", connect)
    monkeypatch.setattr(postgres, "HOST_SECONDS", 0.01)
    async with Postgres(url="postgresql://u@silent,two/x").open(opening()) as send:
        attempt = asyncio.ensure_future(send(make_batch(1)))
        while not tried:
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.wait([attempt])
        with pytest.raises(TryLater, match="two: because"):
            await send(make_batch(1))
    assert tried == ["silent", "two"]

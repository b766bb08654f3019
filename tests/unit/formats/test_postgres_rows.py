"""What PostgreSQL's errors mean to an outlet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg  # type: ignore[import-untyped]
import pytest

from virtstatd.sink import Rejected, TryLater
from virtstatd.sinks.postgres import Postgres
from virtstatd.testing import make_batch
from virtstatd.testing.contract import opening


class Connection:
    """A connection that refuses every batch."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    async def copy_records_to_table(self, _: str, **__: object) -> str:
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
async def test_what_can_be_mended_is_waited_for(
    name: str, pause: float | None, answered: bool, monkeypatch: pytest.MonkeyPatch
):
    """No batch is lost by what somebody can mend; what a row may cause is told as such."""
    async with refused(getattr(asyncpg, name)("because"), monkeypatch) as caught:
        assert isinstance(caught.value, TryLater)
        assert caught.value.after_seconds == pause
        assert caught.value.answered == answered


@pytest.mark.parametrize("name", ["NumericValueOutOfRangeError", "CheckViolationError"])
async def test_rows_that_do_not_fit_are_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    """What is wrong with the rows themselves is not sent again."""
    async with refused(getattr(asyncpg, name)("because"), monkeypatch) as caught:
        assert type(caught.value) is Rejected

"""
PostgreSQL: a row per number, written by COPY in one transaction per batch.

The table is shown in `formats/postgres_rows.py`. A batch whose confirmation was lost is written
again, and is there twice then. The user needs no right but INSERT, unless `create_table` is on.

Of several hosts, `postgresql://user@pg1:5432,pg2:5432/name`, the one that takes rows is used. What
an administrator can fix is waited for: a missing table, right or partition, a full disk.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar, Literal, Protocol, cast

import asyncpg  # type: ignore[import-untyped]
from msgspec import Meta

from virtstatd.errors import Rejected, TryLater
from virtstatd.formats.chunks import packed
from virtstatd.formats.postgres_rows import (
    COLUMNS,
    PostgresRows,
    exists_query,
    hypertable_statements,
    lock_statement,
    table_statements,
)
from virtstatd.sending.link import FIX_SECONDS, REASON_CHARACTERS, KeptConnection, reason_of
from virtstatd.sending.named import ByHost, Named
from virtstatd.sending.postgres_url import Database, DatabaseHost
from virtstatd.sending.secrets import PasswordFile, check_secret, opened_secret
from virtstatd.sending.tls import Tls, renewed_tls
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains


CONNECT_SECONDS = 20.0
HOST_SECONDS = 10.0
"""Time for each host to accept a connection where there are several."""

PIECE_BYTES = 65536
"""Size of rows between two turns of the event loop."""

UNFIT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    ValueError,
    OverflowError,
)
"""Errors of the rows themselves, from the database or the library."""

AWAY = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a server in another role, or one that ended within an answer
    OSError,
    EOFError,
    TimeoutError,
)
"""Errors that pass by themselves or that an administrator can fix."""

FIXABLE = ("28", "3D", "3F", "42")
"""Classes of SQLSTATE to be fixed by a person: user, right, database, schema, table, column."""

UNEXPLAINED = ("54", "P0", "XX")
"""Classes of SQLSTATE that a row may cause: a limit, a trigger, an internal error."""


class PostgresConnection(Protocol):
    """The parts of asyncpg's connection that are used."""

    async def execute(self, query: str) -> str:
        """Run a statement."""
        ...

    async def fetchval(self, query: str) -> object:
        """Return the first value of the first row."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Return a block whose statements take effect together or not at all."""
        ...

    async def copy_to_table(
        self,
        table_name: str,
        *,
        schema_name: str | None,
        columns: tuple[str, ...],
        source: AsyncIterator[bytes],
    ) -> str:
        """Write rows in one transaction."""
        ...

    def is_closed(self) -> bool:
        """Return whether the connection was closed or lost."""
        ...

    def terminate(self) -> None:
        """Close at once, without waiting for the server."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres(Named, Tls):
    """Write every number as a row of a PostgreSQL table, a transaction per batch."""

    url: Annotated[
        str,
        Meta(
            description="Database as `postgresql://user@host:port/name`, without password;"
            " several hosts have commas between them."
        ),
    ] = "postgresql://virtstatd@127.0.0.1:5432/virtstatd"
    table: Annotated[
        str,
        Meta(
            description="Table, with its schema if wanted.",
            title="a name or schema.name of small letters, digits and _",
            pattern=r"^([a-z_][a-z0-9_]{0,52}\.)?[a-z_][a-z0-9_]{0,52}\Z",
        ),
    ] = "virtstatd_samples"
    layout: Annotated[
        Literal["plain", "timescale"],
        Meta(
            description="Kind of table that `create_table` makes: plain, or TimescaleDB's"
            " hypertable."
        ),
    ] = "plain"
    create_table: Annotated[
        bool, Meta(description="Create the table and its index if they are missing.")
    ] = False
    compress_days: Annotated[
        int,
        Meta(
            description="Age at which a new hypertable compresses rows; 0 is never.", ge=0, le=36500
        ),
    ] = 7
    keep_days: Annotated[
        int,
        Meta(description="Age at which a new hypertable drops rows; 0 is never.", ge=0, le=36500),
    ] = 0
    password_file: PasswordFile = ""

    delivery: ClassVar[Delivery] = "memory"
    trains: ClassVar[Trains] = Trains(100_000)

    def __post_init__(self) -> None:
        Database.of(self.url)
        if self.keep_days and self.layout == "plain":
            raise ValueError("keep_days: needs layout = timescale")
        self.check_tls(tls=self.tls)

    def check_here(self) -> None:
        """Raise StartError when the password or a file of TLS cannot be used."""
        check_secret("password_file", self.password_file)
        self.check_tls_files(tls=self.tls)

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Connect with the first batch."""
        rows = ByHost(self.host, PostgresRows)
        schema, table = ["", *self.table.split(".")][-2:]
        context = await self.opened_tls(tls=self.tls)
        password = await opened_secret(self.password_file)
        database = Database.of(self.url)
        hosts = _Hosts(database.places)

        async def connect(place: DatabaseHost, seconds: float) -> PostgresConnection:
            given = await renewed_tls(context), await password.read(at_once=True)
            return await self._connect(place, database.session, seconds, *given)

        link = KeptConnection(
            lambda: hosts.connected(connect),
            _close,
            lambda each: not each.is_closed(),
        )

        async def send(*batches: Batch) -> None:
            try:
                async with link.held() as connection:
                    try:
                        await connection.copy_to_table(
                            table,
                            schema_name=schema or None,
                            columns=COLUMNS,
                            source=_pieces(rows(), batches),
                        )
                    except UNFIT as error:
                        if not _lacks_partition(error):
                            reason = f"table {self.table}: {_reason(error)}"
                            raise Rejected(reason, atomic=True) from error
                        raise
            except AWAY as error:
                reason = password.hidden(f"{hosts.name}: {_reason(error)}")
                raise _later(reason, error) from error

        try:
            yield send
        finally:
            await link.close()

    async def _connect(
        self,
        place: DatabaseHost,
        session: str | None,
        seconds: float,
        context: ssl.SSLContext | None,
        password: str,
    ) -> PostgresConnection:
        host, port = place
        connection = cast(
            "PostgresConnection",
            await asyncpg.connect(
                self.url,
                host=host,
                port=port,
                password=password or None,
                ssl=context,  # without: what PGSSLMODE says, else TLS where the server has it
                timeout=seconds,
                target_session_attrs=session,
                server_settings={"application_name": "virtstatd"},
            ),
        )
        try:
            if self.create_table:
                await self._create(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _create(self, connection: PostgresConnection) -> None:
        """Make the table unless it is there; one that is there stays as it is."""
        async with connection.transaction():
            await connection.execute(lock_statement(self.table))
            existed = await connection.fetchval(exists_query(self.table))
            statements = table_statements(self.table)
            if not existed and self.layout == "timescale":
                statements += hypertable_statements(
                    self.table, compress_days=self.compress_days, keep_days=self.keep_days
                )
            for statement in statements:
                await connection.execute(statement)


class _Hosts:
    """The hosts of the database; one that failed is tried again after the others."""

    def __init__(self, places: Sequence[DatabaseHost]) -> None:
        self._places = places
        self._last = self._next = 0

    @property
    def name(self) -> str:
        """The host that was tried last."""
        return self._places[self._last][0] or "the local server"

    async def connected(
        self, connect: Callable[[DatabaseHost, float], Awaitable[PostgresConnection]]
    ) -> PostgresConnection:
        """Return a connection to the first that takes one; raise the failure of the last."""
        seconds = HOST_SECONDS if len(self._places) > 1 else CONNECT_SECONDS
        fault: Exception = ConnectionError()
        for _ in self._places:
            self._last = self._next
            # counted before, so that one that never answers does not keep the others from a turn
            self._next = (self._last + 1) % len(self._places)
            try:
                async with asyncio.timeout(2 * seconds):  # to connect, and to make the table
                    connection = await connect(self._places[self._last], seconds)
            except AWAY as error:
                fault = error
            else:
                self._next = self._last
                return connection
        raise fault


async def _pieces(rows: PostgresRows, batches: Sequence[Batch]) -> AsyncIterator[bytes]:
    for piece in packed(chain.from_iterable(map(rows.of, batches)), PIECE_BYTES):
        yield piece
        await asyncio.sleep(0)


async def _close(connection: PostgresConnection) -> None:
    connection.terminate()  # all that was confirmed is written, and nothing else is wanted


def _lacks_partition(error: Exception) -> bool:
    """Return whether a row has no partition to go to: an administrator makes one."""
    return isinstance(error, asyncpg.CheckViolationError) and not error.constraint_name


def _reason(error: Exception) -> str:
    """Return what went wrong, and the row and column that the database names."""
    where = getattr(error, "where", None)
    text = f"{reason_of(error)}; {where}" if where else reason_of(error)
    return " ".join(text.split())[: 2 * REASON_CHARACTERS]


def _later(reason: str, error: Exception) -> TryLater:
    state = str(getattr(error, "sqlstate", None) or "")
    lacking = _lacks_partition(error)
    wait = FIX_SECONDS if state.startswith(FIXABLE) or lacking else None
    return TryLater(reason, wait, answered=lacking or state.startswith(UNEXPLAINED))

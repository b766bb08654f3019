"""
PostgreSQL: a row per number, written by COPY in one transaction per batch.

The table is shown in `formats/postgres_rows.py`. A batch whose confirmation was lost is written
again, and is there twice then.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar, Literal, Protocol, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg  # type: ignore[import-untyped]
from msgspec import Meta

from virtstatd.errors import Rejected, TryLater
from virtstatd.formats.postgres_rows import (
    COLUMNS,
    PostgresRows,
    SampleRow,
    exists_query,
    hypertable_statements,
    lock_statement,
    table_statements,
)
from virtstatd.runtime.host import host_name
from virtstatd.sending.link import FIX_SECONDS, KeptConnection, reason_of
from virtstatd.sending.secrets import PasswordFile, Secret, check_secret
from virtstatd.sending.tls import Tls
from virtstatd.sink import Batch, Delivery, Opening, Send, Trains


CONNECT_SECONDS = 5.0

ROWS_AT_ONCE = 500
"""Rows between two turns of the event loop."""

UNFIT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    ValueError,
    OverflowError,
)
"""Errors of the rows themselves, from the database or the library."""

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
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

    async def copy_records_to_table(
        self,
        table_name: str,
        *,
        schema_name: str | None,
        columns: tuple[str, ...],
        records: AsyncIterator[SampleRow],
    ) -> str:
        """Write rows in one transaction."""
        ...

    def is_closed(self) -> bool:
        """Tell whether the connection was closed or lost."""
        ...

    def terminate(self) -> None:
        """Close at once, without waiting for the server."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres(Tls):
    """Write every number as a row of a PostgreSQL table, a transaction per batch."""

    url: Annotated[
        str, Meta(description="Database as `postgresql://user@host:port/name`, without password.")
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
        Meta(description="What `create_table` makes: a plain table, or TimescaleDB's hypertable."),
    ] = "plain"
    create_table: Annotated[
        bool, Meta(description="Create the table and its index when they are not there.")
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
    trains: ClassVar[Trains] = Trains(20_000)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            fits = parts.scheme in ("postgresql", "postgres") and parts.port != 0
        except ValueError:
            fits = False
        if not fits:
            raise ValueError("url: must be like postgresql://user@host:5432/name")
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ValueError("url: the password belongs into password_file")
        if self.keep_days and self.layout == "plain":
            raise ValueError("keep_days: needs layout = timescale")
        self.check_tls(tls=self.tls)

    def check_here(self) -> None:
        """Raise StartError when the password or a file of TLS cannot be used."""
        check_secret("password_file", self.password_file)
        self.tls_context(tls=self.tls)

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Connect with the first batch."""
        rows = PostgresRows(host_name())
        schema, table = ["", *self.table.split(".")][-2:]
        context = self.tls_context(tls=self.tls)
        password = Secret(self.password_file)
        link = KeptConnection(
            lambda: self._connect(context, password.read()),
            _close,
            lambda each: not each.is_closed(),
        )

        async def send(*batches: Batch) -> None:
            try:
                async with link.held() as connection:
                    try:
                        await connection.copy_records_to_table(
                            table,
                            schema_name=schema or None,
                            columns=COLUMNS,
                            records=_records(rows, batches),
                        )
                    except UNFIT as error:
                        reason = f"table {self.table}: {reason_of(error)}"
                        raise Rejected(reason, atomic=True) from error
            except AWAY as error:
                raise _later(f"{urlsplit(self.url).hostname}: {reason_of(error)}", error) from error

        try:
            yield send
        finally:
            await link.close()

    async def _connect(self, context: ssl.SSLContext | None, password: str) -> PostgresConnection:
        connection = cast(
            "PostgresConnection",
            await asyncpg.connect(
                self.url,
                password=password or None,
                ssl=context if context is not None else "prefer",
                timeout=CONNECT_SECONDS,
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


async def _records(rows: PostgresRows, batches: Iterable[Batch]) -> AsyncIterator[SampleRow]:
    count = 0
    for reading in chain.from_iterable(map(rows.of, batches)):
        for row in reading:
            yield row
        count += len(reading)
        if count >= ROWS_AT_ONCE:
            count = 0
            await asyncio.sleep(0)


async def _close(connection: PostgresConnection) -> None:
    connection.terminate()  # all that was confirmed is written, and nothing else is wanted


def _later(reason: str, error: Exception) -> TryLater:
    state = str(getattr(error, "sqlstate", None) or "")
    wait = FIX_SECONDS if state.startswith(FIXABLE) else None
    return TryLater(reason, wait, answered=state.startswith(UNEXPLAINED))

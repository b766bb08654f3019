"""
PostgreSQL: a row per number, written by COPY in one transaction per batch.

`postgres_table.py` shows the table. A batch whose confirmation was lost is written again, and is
there twice then.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg  # type: ignore[import-untyped]
from msgspec import Meta

from virtstatd.errors import Rejected, TryLater
from virtstatd.formats.postgres_rows import Connection, Table
from virtstatd.sending.link import MEND_SECONDS, Link, told
from virtstatd.sending.secrets import PasswordFile, Secret
from virtstatd.sending.tls import Tls
from virtstatd.sink import Batch, Delivery, Opening, Send


CONNECT_SECONDS = 5.0

UNFIT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    ValueError,
    OverflowError,
)
"""What is wrong with rows, as the database or the library says it."""

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What comes and goes, or an administrator can mend."""

MENDED = ("28", "3D", "3F", "42")
"""Classes of SQLSTATE: no such user, right, database, schema, table or column."""

UNEXPLAINED = ("54", "P0", "XX")
"""Classes of SQLSTATE that a row may be to blame for: a limit, a trigger, the server itself."""


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

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Connect with the first batch."""
        table = Table(self.table)
        context = self.tls_context(tls=self.tls)
        password = Secret(self.password_file)
        link = Link(
            lambda: self._connect(table, context, password.read()),
            _close,
            lambda each: not each.is_closed(),
        )

        async def send(batch: Batch) -> None:
            try:
                async with link.held() as connection:
                    try:
                        await table.write(connection, batch)
                    except UNFIT as error:
                        raise Rejected(f"table {self.table}: {told(error)}") from error
            except AWAY as error:
                raise _later(f"{urlsplit(self.url).hostname}: {told(error)}", error) from error

        try:
            yield send
        finally:
            await link.close()

    async def _connect(
        self, table: Table, context: ssl.SSLContext | None, password: str
    ) -> Connection:
        connection = cast(
            "Connection",
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
                await table.create(
                    connection,
                    hypertable=self.layout == "timescale",
                    compress_days=self.compress_days,
                    keep_days=self.keep_days,
                )
        except BaseException:
            connection.terminate()
            raise
        return connection


async def _close(connection: Connection) -> None:
    connection.terminate()  # all that was confirmed is written, and nothing else is wanted


def _later(reason: str, error: Exception) -> TryLater:
    state = str(getattr(error, "sqlstate", None) or "")
    wait = MEND_SECONDS if state.startswith(MENDED) else None
    return TryLater(reason, wait, answered=state.startswith(UNEXPLAINED))

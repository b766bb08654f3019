r"""
PostgreSQL: a row per number, written by COPY in one transaction per batch.

```sql
CREATE TABLE virtstatd_samples (
    time   timestamptz      NOT NULL,  -- when the question was asked; whole microseconds
    host   text             NOT NULL,  -- the hypervisor's name
    domain text,                       -- null for what belongs to the host
    uuid   uuid,
    run    integer,                    -- libvirt's number of this run of the guest
    metric text             NOT NULL,  -- as in Prometheus: libvirt_domain_vcpu_exits_total
    labels jsonb            NOT NULL,  -- {"vcpu": "0"}
    value  double precision NOT NULL
);
```

`create_table` makes it, with an index by metric and time; in TimescaleDB's layout it becomes a
hypertable with chunks of a day, which TimescaleDB compresses and drops by itself. What PostgreSQL's
text cannot hold is made visible: U+0000 becomes U+FFFD, a lone surrogate its number as `\udce9`. A
batch whose confirmation was lost is written again, and is there twice then.
"""

from __future__ import annotations

import asyncio
import json
import platform
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Literal, Protocol, cast
from urllib.parse import parse_qs, urlsplit
from weakref import WeakKeyDictionary

import asyncpg  # type: ignore[import-untyped]
from msgspec import Meta

from virtstatd.errors import Rejected, TryLater
from virtstatd.model import Domain, Labels, Shape
from virtstatd.sink import Batch, Delivery, Opening, Send
from virtstatd.sinks.exposition import number
from virtstatd.sinks.flat import labels_of, name_of
from virtstatd.sinks.link import MEND_SECONDS, Link, told
from virtstatd.sinks.secrets import PasswordFile, Secret
from virtstatd.sinks.tls import Tls


CONNECT_SECONDS = 5.0
ROWS_AT_ONCE = 500
"""Rows after which others have the loop for a moment."""

COLUMNS = ("time", "host", "domain", "uuid", "run", "metric", "labels", "value")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUL = {0: "\N{REPLACEMENT CHARACTER}"}
_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
    time timestamptz NOT NULL,
    host text NOT NULL,
    domain text,
    uuid uuid,
    run integer,
    metric text NOT NULL,
    labels jsonb NOT NULL,
    value double precision NOT NULL
)
"""
_INDEX = "CREATE INDEX IF NOT EXISTS {index} ON {table} (metric, time)"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('virtstatd {table}'))"
"""The agents of all hosts may begin at once, and IF NOT EXISTS is no promise then."""

_EXISTS = "SELECT to_regclass('{table}') IS NOT NULL"
_HYPERTABLE = "SELECT create_hypertable('{table}', 'time', chunk_time_interval => INTERVAL '1 day')"
_COMPRESSED = """
ALTER TABLE {table} SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'host, uuid, metric',
    timescaledb.compress_orderby = 'time'
)
"""
_COMPRESSION = "SELECT add_compression_policy('{table}', INTERVAL '{days} days')"
_KEPT = "SELECT add_retention_policy('{table}', INTERVAL '{days} days')"

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

Row = tuple[datetime, str, str | None, str | None, int | None, str, str, float]


class Connection(Protocol):
    """The parts of asyncpg's connection that are used."""

    async def execute(self, query: str) -> str:
        """Run a statement."""
        ...

    async def fetchval(self, query: str) -> object:
        """Return the first value of the first row."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Have all of a block happen, or nothing of it."""
        ...

    async def copy_records_to_table(
        self,
        table_name: str,
        *,
        schema_name: str | None,
        columns: tuple[str, ...],
        records: AsyncIterator[Row],
    ) -> str:
        """Write rows in one transaction."""
        ...

    def is_closed(self) -> bool:
        """Whether it is of no use any more."""
        ...

    def terminate(self) -> None:
        """Close without a farewell."""
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
        context = self.tls_context(tls=self.tls)
        password = Secret(self.password_file)
        link = Link(
            lambda: self._connect(context, password.read()),
            _close,
            lambda each: not each.is_closed(),
        )
        rows = _Rows()
        schema, table = ["", *self.table.split(".")][-2:]

        async def send(batch: Batch) -> None:
            try:
                async with link.held() as connection:
                    try:
                        await connection.copy_records_to_table(
                            table,
                            schema_name=schema or None,
                            columns=COLUMNS,
                            records=rows.of(batch),
                        )
                    except UNFIT as error:
                        raise Rejected(f"table {self.table}: {told(error)}") from error
            except AWAY as error:
                raise _later(f"{urlsplit(self.url).hostname}: {told(error)}", error) from error

        try:
            yield send
        finally:
            await link.close()

    async def _connect(self, context: ssl.SSLContext | None, password: str) -> Connection:
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
                async with connection.transaction():
                    await self._create(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _create(self, connection: Connection) -> None:
        """Make the table unless it is there; one that is there stays as it is."""
        table = self.table
        await connection.execute(_LOCK.format(table=table))
        existed = await connection.fetchval(_EXISTS.format(table=table))
        await connection.execute(_TABLE.format(table=table))
        index = f"{table.rpartition('.')[2]}_metric"
        await connection.execute(_INDEX.format(index=index, table=table))
        if existed or self.layout == "plain":
            return
        await connection.execute(_HYPERTABLE.format(table=table))
        if self.compress_days:
            await connection.execute(_COMPRESSED.format(table=table))
            await connection.execute(_COMPRESSION.format(table=table, days=self.compress_days))
        if self.keep_days:
            await connection.execute(_KEPT.format(table=table, days=self.keep_days))


class _Rows:
    """The rows of batches, whose texts are made once per shape."""

    def __init__(self) -> None:
        self._texts: WeakKeyDictionary[Shape, list[tuple[str, str, int]]] = WeakKeyDictionary()

    async def of(self, batch: Batch) -> AsyncIterator[Row]:
        """Yield a row per number."""
        time = _EPOCH + timedelta(microseconds=batch.taken_at // 1000)
        host = platform.node()
        count = 0
        for reading in batch.readings:
            whose = _whose(reading.domain)
            for (name, labels, exponent), value in zip(
                self._of(reading.shape), reading.values, strict=True
            ):
                base = float(number(value, exponent)) if exponent else float(value)
                yield (time, host, *whose, name, labels, base)
            count += len(reading.values)
            if count >= ROWS_AT_ONCE:
                count = 0
                await asyncio.sleep(0)

    def _of(self, shape: Shape) -> list[tuple[str, str, int]]:
        texts = self._texts.get(shape)
        if texts is None:
            texts = self._texts[shape] = [
                (
                    name_of(series),
                    _object(labels_of(series)),
                    series.field.exponent if series.part in ("", "sum") else 0,
                )
                for series in shape.series
            ]
        return texts


def _whose(domain: Domain | None) -> tuple[str | None, str | None, int | None]:
    return (_text(domain.name), domain.uuid, domain.id) if domain else (None, None, None)


def _object(labels: Labels) -> str:
    return json.dumps({_text(key): _text(text) for key, text in labels})


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().translate(_NUL)


async def _close(connection: Connection) -> None:
    connection.terminate()  # all that was confirmed is written, and nothing else is wanted


def _later(reason: str, error: Exception) -> TryLater:
    state = str(getattr(error, "sqlstate", None) or "")
    wait = MEND_SECONDS if state.startswith(MENDED) else None
    return TryLater(reason, wait, answered=state.startswith(UNEXPLAINED))

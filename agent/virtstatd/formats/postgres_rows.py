r"""
The table of the PostgreSQL sink, with a row per number.

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
text cannot hold is made visible: U+0000 becomes U+FFFD, a lone surrogate its number as `\udce9`.
"""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol
from weakref import WeakKeyDictionary

from virtstatd.formats.prometheus_text import number
from virtstatd.formats.words import labels_of, name_of
from virtstatd.model import Batch, Domain, Labels, Shape


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


class Table:
    """A table by its name, with its schema if wanted; its texts are made once per shape."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._texts: WeakKeyDictionary[Shape, list[tuple[str, str, int]]] = WeakKeyDictionary()

    async def create(
        self, connection: Connection, *, hypertable: bool, compress_days: int, keep_days: int
    ) -> None:
        """Make the table unless it is there; one that is there stays as it is."""
        table = self._name
        async with connection.transaction():
            await connection.execute(_LOCK.format(table=table))
            existed = await connection.fetchval(_EXISTS.format(table=table))
            await connection.execute(_TABLE.format(table=table))
            index = f"{table.rpartition('.')[2]}_metric"
            await connection.execute(_INDEX.format(index=index, table=table))
            if existed or not hypertable:
                return
            await connection.execute(_HYPERTABLE.format(table=table))
            if compress_days:
                await connection.execute(_COMPRESSED.format(table=table))
                await connection.execute(_COMPRESSION.format(table=table, days=compress_days))
            if keep_days:
                await connection.execute(_KEPT.format(table=table, days=keep_days))

    async def write(self, connection: Connection, batch: Batch) -> None:
        """Write a batch in one transaction."""
        schema, table = ["", *self._name.split(".")][-2:]
        await connection.copy_records_to_table(
            table, schema_name=schema or None, columns=COLUMNS, records=self._rows(batch)
        )

    async def _rows(self, batch: Batch) -> AsyncIterator[Row]:
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

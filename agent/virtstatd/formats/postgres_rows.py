r"""
The table of the PostgreSQL sink, with a row per number.

```sql
CREATE TABLE virtstatd_samples (
    time   timestamptz      NOT NULL,  -- when libvirt was called; whole microseconds
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

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

from virtstatd.formats.naming import labels_of, name_of, visible
from virtstatd.formats.numbers import decimal_text
from virtstatd.model import Batch, Domain, Labels, Shape


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

SampleRow = tuple[datetime, str, str | None, str | None, int | None, str, str, float]


class PostgresRows:
    """Turn readings into rows, with names and labels as text made once per shape."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._texts: WeakKeyDictionary[Shape, list[tuple[str, str, int]]] = WeakKeyDictionary()

    def of(self, batch: Batch) -> Iterator[list[SampleRow]]:
        """Yield the rows of each reading."""
        time = _EPOCH + timedelta(microseconds=batch.taken_at // 1000)
        for reading in batch.readings:
            whose = _whose(reading.domain)
            yield [
                (
                    time,
                    self._host,
                    *whose,
                    name,
                    labels,
                    float(decimal_text(value, exponent)) if exponent else float(value),
                )
                for (name, labels, exponent), value in zip(
                    self._of(reading.shape), reading.values, strict=True
                )
            ]

    def _of(self, shape: Shape) -> list[tuple[str, str, int]]:
        texts = self._texts.get(shape)
        if texts is None:
            texts = self._texts[shape] = [
                (name_of(series), _object(labels_of(series)), series.exponent)
                for series in shape.series
            ]
        return texts


def exists_query(table: str) -> str:
    """Return the query for whether the table exists."""
    return _EXISTS.format(table=table)


def lock_statement(table: str) -> str:
    """Return the statement that makes other agents wait until its transaction ends."""
    return _LOCK.format(table=table)


def table_statements(table: str) -> list[str]:
    """Return the statements that create the table and its index unless they exist."""
    index = f"{table.rpartition('.')[2]}_metric"
    return [_TABLE.format(table=table), _INDEX.format(index=index, table=table)]


def hypertable_statements(table: str, *, compress_days: int, keep_days: int) -> list[str]:
    """Return the statements that make a new table a hypertable; 0 days is never."""
    statements = [_HYPERTABLE.format(table=table)]
    if compress_days:
        statements.append(_COMPRESSED.format(table=table))
        statements.append(_COMPRESSION.format(table=table, days=compress_days))
    if keep_days:
        statements.append(_KEPT.format(table=table, days=keep_days))
    return statements


def _whose(domain: Domain | None) -> tuple[str | None, str | None, int | None]:
    return (_text(domain.name), domain.uuid, domain.id) if domain else (None, None, None)


def _object(labels: Labels) -> str:
    return json.dumps({_text(key): _text(text) for key, text in labels})


def _text(text: str) -> str:
    return visible(text).translate(_NUL)

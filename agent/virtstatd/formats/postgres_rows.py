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

Rows are in the text format of COPY, which the server converts to the types that the columns have.
Writing them needs no right but INSERT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

from virtstatd.formats.naming import labels_of, name_of, visible
from virtstatd.formats.numbers import NumberTemplate
from virtstatd.model import Batch, Domain, Labels, Shape


COLUMNS = ("time", "host", "domain", "uuid", "run", "metric", "labels", "value")

_WHOSE = "\0"
"""Stands in a row where time, host and guest go; no text that is written has it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUL = {0: "\N{REPLACEMENT CHARACTER}"}
_COPIED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
"""What COPY's text format has escapes for."""

_NULL = r"\N"
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


class PostgresRows:
    """Turn readings into rows, rendered by one formatting call each."""

    def __init__(self, host: str) -> None:
        self._host = _text(host).translate(_COPIED)
        self._templates: WeakKeyDictionary[Shape, NumberTemplate] = WeakKeyDictionary()

    def of(self, batch: Batch) -> Iterator[bytes]:
        """Yield the rows of each reading, all with their ends."""
        time = (_EPOCH + timedelta(microseconds=batch.taken_at // 1000)).isoformat()
        start = f"{time}\t{self._host}\t"
        for reading in batch.readings:
            template = self._templates.get(reading.shape)
            if template is None:
                template = self._templates[reading.shape] = _template(reading.shape)
            text = template.render(reading.values)
            yield text.replace(_WHOSE, start + _whose(reading.domain)).encode()


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


def _template(shape: Shape) -> NumberTemplate:
    integers: list[str] = []
    anything: list[str] = []
    for series in shape.series:
        own = f"{name_of(series)}\t{_object(labels_of(series))}"
        row = _WHOSE + own.replace("%", "%%") + "\t%s"
        integers.append(row + (f"e{series.exponent}\n" if series.exponent else "\n"))
        anything.append(f"{row}\n")
    exponents = tuple(series.exponent for series in shape.series)
    return NumberTemplate("".join(integers), "".join(anything), exponents)


def _whose(domain: Domain | None) -> str:
    if domain is None:
        return f"{_NULL}\t{_NULL}\t{_NULL}\t"
    return f"{_text(domain.name).translate(_COPIED)}\t{domain.uuid}\t{domain.id}\t"


def _object(labels: Labels) -> str:
    """Return labels as JSON, in which nothing but backslashes needs COPY's escapes."""
    return json.dumps({_text(key): _text(text) for key, text in labels}).translate(_COPIED)


def _text(text: str) -> str:
    return visible(text).translate(_NUL)

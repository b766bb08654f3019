"""An archive of Parquet files as DuckDB sees it, and as batches make it."""

import fcntl
import math
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
from structlog.testing import CapturingLogger

from virtstatd.archive.archive import Archive, DiskLimits
from virtstatd.formats.naming import labels_of, name_of
from virtstatd.model import Batch


MINUTE_NS = 60 * 10**9
NO_LIMITS = DiskLimits(keep_bytes=0, keep_ns=0, free_bytes=0)
OWN = ("domain", "uuid")
"""Labels of a guest that have a column."""

EVERYTHING = """
SELECT epoch_ns(time), host, domain, uuid, run, source, metric, kind,
       list_sort(map_entries(labels)::STRUCT(key VARCHAR, value VARCHAR)[]), value,
       CASE WHEN isfinite(value) THEN coalesce(exact, value::VARCHAR::DECIMAL(38, 9)) END
FROM read_parquet(?)
"""


def visible(text: str) -> str:
    """Return a text as a file can hold it."""
    return text.encode("utf-8", "backslashreplace").decode()


def source_of(*batches: Batch) -> list[tuple[Any, ...]]:
    """Return the rows that batches must become, but for what is not a number."""
    rows = []
    for batch in batches:
        for reading in batch.readings:
            guest = reading.domain
            whose = (visible(guest.name), guest.uuid, guest.id) if guest else (None,) * 3
            added = [pair for pair in guest.labels if pair[0] not in OWN] if guest else []
            for series, value in zip(reading.shape.series, reading.values, strict=True):
                exponent = series.field.exponent if series.part in ("", "sum") else 0
                exact = None
                if math.isfinite(value):
                    exact = Decimal(value).scaleb(exponent)
                labels = sorted(
                    (visible(key), visible(text)) for key, text in (*added, *labels_of(series))
                )
                rows.append(
                    (
                        *(batch.taken_at, "h", *whose, batch.source),
                        *(name_of(series), str(series.field.kind), labels),
                        *(float(value) if exact is None else float(exact), _places(exact)),
                    )
                )
    return sorted(rows, key=repr)


def found_by_duckdb(directory: Path) -> list[tuple[Any, ...]]:
    """Return the rows that DuckDB sees, in the same form."""
    rows = duckdb.execute(EVERYTHING, [str(directory / "*.parquet")]).fetchall()
    return sorted(
        (
            (*row[:8], [(pair["key"], pair["value"]) for pair in row[8]], row[9], _places(row[10]))
            for row in rows
        ),
        key=repr,
    )


def _places(exact: Decimal | None) -> str:
    return "" if exact is None else f"{exact:.9f}"


def archive(directory: Path, log: CapturingLogger | None = None, **limits: int) -> Archive:
    """Return an archive that flushes after a minute of its batches' time."""
    kept = replace(NO_LIMITS, **limits)
    return Archive(directory, "h", kept, MINUTE_NS, log or CapturingLogger())


def settled(directory: Path) -> None:
    """Flush what a sink had no time for at its end, as its next start does."""
    with (directory / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archive(directory).settle()

"""
Parquet files of an archive: how they are written, and many of them sorted into one.

All files are sorted by `series` and then by `time`, in groups of rows whose first and last series
are known without reading them. So a slice of the series is read from all files, sorted and written
at a time, and memory is that of a slice, however long the hour was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from virtstatd.archive.rows import SCHEMA


GROUP_ROWS = 4096
"""Rows of a group in a flush: the grain in which slices are read."""

SLICE_ROWS = 65536
PARTS = 4
"""Places within a group of rows where slices may be cut."""

_FLUSHES = b"virtstatd.flushes"
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
_WORDS = ("host", "domain", "uuid", "run", "source", "metric", "kind")
_LABELS = ("labels.key_value.key", "labels.key_value.value")


class TableWriter(Protocol):
    """The part of pyarrow's writer that is used."""

    def write_table(self, table: pa.Table, row_group_size: int) -> None:
        """Write groups of rows."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """The series of a group of rows, and how many rows they are."""

    first: int
    last: int
    rows: int


def table_writer(path: Path, flushes: Sequence[str] = ()) -> pq.ParquetWriter:
    """Return a writer of a file whose metadata names the flushes that it holds."""
    return pq.ParquetWriter(
        path,
        SCHEMA.with_metadata({_FLUSHES: " ".join(flushes)}),
        compression="zstd",
        use_dictionary=["time", *_WORDS, *_LABELS, "exact", "series"],
        column_encoding={"value": "BYTE_STREAM_SPLIT"},
    )


def flushes_in(path: Path) -> frozenset[str]:
    """Return the names of the flushes that a file holds."""
    with pq.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata or {}
    return frozenset(metadata.get(_FLUSHES, b"").decode().split())


def slices(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the rows of files, sorted, some ten thousand at a time."""
    spans = {path: _spans(path) for path in paths}
    for first, last in _cuts([span for each in spans.values() for span in each]):
        tables = [_read(path, spans[path], first, last) for path in paths]
        # what other versions of the agent have written may lack columns, or have more
        rows = pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="default")
        rows = rows.select(SCHEMA.names).unify_dictionaries()
        order = pc.sort_indices(rows, [("series", "ascending"), ("time", "ascending")])
        yield rows.take(order).cast(SCHEMA)


def readable(path: Path) -> bool:
    """Read a file to its end; return whether that is possible."""
    try:
        for group, _ in enumerate(_spans(path)):
            with pq.ParquetFile(path) as file:
                file.read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's fault, for now
        return False
    return True


def _spans(path: Path) -> list[Span]:
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
    spans = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(index) for index in range(group.num_columns))
        series = next(each for each in columns if each.path_in_schema == "series")
        known = series.statistics
        spans.append(Span(known.min, known.max, group.num_rows))
    return spans


def _cuts(spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last series of slices that have about as many rows each."""
    first, rows = _FIRST, 0.0
    starts = (  # as if the rows of a group were spread evenly
        (span.first + (span.last - span.first) * part // PARTS, span.rows / PARTS)
        for span in spans
        for part in range(PARTS)
    )
    for start, more in sorted(starts):
        if rows + more > SLICE_ROWS and start > first:
            yield first, start - 1
            first, rows = start, 0.0
        rows += more
    yield first, _LAST


def _read(path: Path, spans: Sequence[Span], first: int, last: int) -> pa.Table:
    groups = [
        number for number, span in enumerate(spans) if span.first <= last and span.last >= first
    ]
    with pq.ParquetFile(path) as file:
        rows = file.read_row_groups(groups, use_threads=False)
    series = rows["series"]
    return rows.filter(pc.and_(pc.greater_equal(series, first), pc.less_equal(series, last)))

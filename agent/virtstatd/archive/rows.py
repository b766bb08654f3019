"""
The rows of an archive, as Arrow tables: a row per number, the numbers of a series together.

Everything that a series' rows have in common is written down once per run of rows and spread over
them by Arrow, so that Python touches nothing but times and values.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from itertools import chain

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from virtstatd.formats.naming import labels_of, name_of, visible
from virtstatd.formats.numbers import decimal_text
from virtstatd.model import Batch, Domain, Labels, Number, Series, Shape


HOUR_NS = 3600 * 10**9

EXACT_DIGITS = 15
"""Decimal digits that a double keeps; numbers with more are in `exact` as well."""

PLACES = 9
"""Decimal places of `exact`: nanoseconds are what libvirt counts the finest."""

_EXACT = pa.decimal128(38, PLACES)
_WORD = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("ns", "UTC")
_LABELS = pa.map_(pa.string(), pa.string())

SCHEMA = pa.schema(
    [
        pa.field("time", _TIME, nullable=False),
        pa.field("host", _WORD, nullable=False),
        pa.field("domain", _WORD),
        pa.field("uuid", _WORD),
        pa.field("run", pa.int32()),
        pa.field("source", _WORD, nullable=False),
        pa.field("metric", _WORD, nullable=False),
        pa.field("kind", _WORD, nullable=False),
        pa.field("labels", _LABELS, nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("exact", _EXACT),
        pa.field("series", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """A series: its name, kind, exponent and labels."""

    metric: str
    kind: str
    exponent: int
    labels: Labels


@dataclass(frozen=True, slots=True)
class Run:
    """The numbers of one series in one journal."""

    series: int
    owner: Domain | None
    source: str
    line: SeriesLine
    times: Sequence[int]
    values: Sequence[Number]


def runs_by_hour(batches: Iterable[Batch], host: str) -> dict[int, list[Run]]:
    """Return the runs of each hour since 1970, in the order of their series."""
    groups: dict[tuple[int, str, Domain | None, Shape], list[tuple[int, tuple[Number, ...]]]] = {}
    for batch in batches:
        hour = batch.taken_at // HOUR_NS
        for reading in batch.readings:
            key = (hour, batch.source, reading.domain, reading.shape)
            groups.setdefault(key, []).append((batch.taken_at, reading.values))
    lines = {shape: [_line(each) for each in shape.series] for *_, shape in groups}
    hours: dict[int, list[Run]] = {}
    for (hour, source, domain, shape), readings in groups.items():
        owner = _owner(domain) if domain else None
        readings.sort(key=lambda reading: reading[0])
        times = [taken_at for taken_at, _ in readings]
        columns = zip(*(values for _, values in readings), strict=True)
        hours.setdefault(hour, []).extend(
            Run(series_number(host, owner, line), owner, source, line, times, _bounded(column))
            for line, column in zip(lines[shape], columns, strict=True)
        )
    for runs in hours.values():
        runs.sort(key=lambda run: (run.series, run.times[0]))
    return hours


def run_chunks(runs: Iterable[Run], rows: int) -> Iterator[list[Run]]:
    """Yield lists of runs with at least `rows` rows together, except for the last."""
    some: list[Run] = []
    count = 0
    for run in runs:
        some.append(run)
        count += len(run.values)
        if count >= rows:
            yield some
            some, count = [], 0
    if some:
        yield some


def arrow_table(runs: Sequence[Run], host: str) -> pa.Table:
    """Return the rows of runs."""
    ends = pa.array(_ends(runs), pa.int32())
    owners = [run.owner for run in runs]
    once = pa.table(
        {
            "host": _words([host] * len(runs)),
            "domain": _words([owner.name if owner else None for owner in owners]),
            "uuid": _words([owner.uuid if owner else None for owner in owners]),
            "run": pa.array([owner and _int32(owner.id) for owner in owners], pa.int32()),
            "source": _words([run.source for run in runs]),
            "metric": _words([run.line.metric for run in runs]),
            "kind": _words([run.line.kind for run in runs]),
            "labels": pa.array([_all_labels(run) for run in runs], _LABELS),
            "series": pa.array([run.series for run in runs], pa.int64()),
        }
    )
    which = pa.RunEndEncodedArray.from_arrays(ends, pa.array(range(len(runs)), pa.int32()))
    rows = once.take(pc.run_end_decode(which))
    times = array("q", chain.from_iterable(run.times for run in runs))
    values = array("d", chain.from_iterable(map(_base_units, runs)))
    arrow = {
        "time": pa.Array.from_buffers(_TIME, len(times), [None, pa.py_buffer(times)]),
        "value": pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(values)]),
        "exact": _exact(runs, len(values)),
    }
    return pa.table([arrow.get(name) or rows[name] for name in SCHEMA.names], schema=SCHEMA)


def series_number(host: str, owner: Domain | None, line: SeriesLine) -> int:
    """
    Return a number per series that sorts the series of a guest together.

    24 bits are a hash of host and guest, 40 of the series: a collision among the 300 of a guest has
    a chance of one in twenty million.
    """
    whose = _digest([host, owner.uuid if owner else ""])
    which = _digest([line.metric, *chain.from_iterable(sorted(_labels(owner, line)))])
    return int.from_bytes(whose[:3] + which[:5], signed=True)


def _line(series: Series) -> SeriesLine:
    labels = _visible(labels_of(series))
    return SeriesLine(visible(name_of(series)), series.field.kind, series.exponent, labels)


def _owner(domain: Domain) -> Domain:
    """Return a guest as a file can hold it, with the labels that no column has."""
    others = tuple(pair for pair in domain.labels if pair[0] not in ("domain", "uuid"))
    return Domain(visible(domain.uuid), visible(domain.name), domain.id, _visible(others))


def _visible(labels: Labels) -> Labels:
    return tuple((visible(key), visible(text)) for key, text in labels)


def _bounded(values: Sequence[Number]) -> Sequence[Number]:
    """Return the values; an integer beyond 64 bits, which few readers know, becomes a float."""
    if min(values) >= -(1 << 63) and max(values) < 1 << 64:  # False where NaN hides it
        return values
    return [value if -(1 << 63) <= value < 1 << 64 else _double(value) for value in values]


def _double(value: Number) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _digest(texts: Iterable[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    lengths = struct.pack(f"<{len(encoded)}I", *map(len, encoded))
    return blake2b(lengths + b"".join(encoded), digest_size=8).digest()


def _labels(owner: Domain | None, line: SeriesLine) -> tuple[tuple[str, str], ...]:
    return (*owner.labels, *line.labels) if owner else line.labels


def _all_labels(run: Run) -> list[tuple[str, str]]:
    return list(dict(_labels(run.owner, run.line)).items())  # a map has a key once


def _ends(runs: Sequence[Run]) -> list[int]:
    ends: list[int] = []
    end = 0
    for run in runs:
        end += len(run.values)
        ends.append(end)
    return ends


def _words(texts: Iterable[str | None]) -> pa.Array:
    return pa.array(texts, pa.string()).dictionary_encode()


def _int32(value: int) -> int | None:
    return value if -(1 << 31) <= value < 1 << 31 else None


def _base_units(run: Run) -> Iterable[float]:
    """Return the values in base units, each the double that is nearest."""
    exponent = run.line.exponent
    if not exponent:
        return run.values
    if exponent < 0 and not any(isinstance(value, float) for value in run.values):
        scale = 10**-exponent
        return [value / scale for value in run.values]  # of two integers: rounded once
    return [float(decimal_text(value, exponent)) for value in run.values]


def _exact(runs: Sequence[Run], count: int) -> pa.Array:
    """Return as decimals what doubles may have rounded; null for everything else."""
    least = 10**EXACT_DIGITS
    found: list[tuple[int, Decimal]] = []
    row = 0
    for run in runs:
        if not (-least < min(run.values) and max(run.values) < least):
            found += [
                (row + index, Decimal(value).scaleb(run.line.exponent))
                for index, value in enumerate(run.values)
                if isinstance(value, int)
                and abs(value) >= least
                and abs(run.line.exponent) <= PLACES
            ]
        row += len(run.values)
    if not found:
        return pa.nulls(count, _EXACT)
    decimals: list[Decimal | None] = [None] * count
    for row, decimal in found:
        decimals[row] = decimal
    return pa.array(decimals, _EXACT)

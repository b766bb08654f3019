"""What a batch must be, checked where it comes from another package before anything sees it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from virtstatd.catalog import Catalog
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape


SAMPLES_MAX: Final = 100_000
SHAPES_KEPT: Final = 4096
LIFETIME_MAX_SECONDS: Final = 2 * 86400.0
TIME_MARGIN_NANOSECONDS: Final = 3600 * 10**9
"""How far from now a time may be: receivers refuse a request for one sample of another day."""

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PARTS: Final = frozenset({"", "bucket", "sum", "count"})


class Nonsense(ValueError):  # noqa: N818 - a property of the batch
    """A batch that cannot be passed on; the message is one clause that says what is wrong."""


def checked(
    batch: object, source: str, catalog: Catalog, running: Callable[[str], Domain | None]
) -> Batch:
    """
    Return a batch as one of `source`, without marks of ended guests and what is of such guests.

    `running` returns the guest that runs under a UUID. Raises `Nonsense` where anything in it is
    not what `model` says, or is the agent's own to say.
    """
    sound = checked_form(batch)
    for group in sound.groups | {reading.shape.group for reading in sound.readings}:
        if group in catalog.groups:
            raise Nonsense(f"groups: {group!r:.60} is one of the agent's own")
    for shape in dict.fromkeys(reading.shape for reading in sound.readings):
        if family := _borrowed(shape, catalog):
            raise Nonsense(f"{family}: is a metric of the agent's own")
    readings = tuple(
        reading
        for reading in sound.readings
        if reading.domain is None or running(reading.domain.uuid) is reading.domain
    )
    groups = sound.groups | {reading.shape.group for reading in readings}
    return replace(sound, source=source, readings=readings, groups=groups, gone=(), piece="")


def checked_form(batch: Any) -> Batch:
    """Return a batch that is what `model` says a batch is; raises `Nonsense` for anything else."""
    if not isinstance(batch, Batch):
        raise Nonsense(f"it emitted a {type(batch).__name__} and no Batch")
    if not isinstance(batch.readings, tuple):
        raise Nonsense("readings: must be a tuple")
    if batch.samples > SAMPLES_MAX:
        raise Nonsense(f"a batch of {batch.samples} samples; {SAMPLES_MAX} at most")
    if type(batch.taken_at) is not int:
        raise Nonsense("taken_at: must be a whole number of nanoseconds")
    if abs(batch.taken_at - time.time_ns()) > TIME_MARGIN_NANOSECONDS:
        raise Nonsense("taken_at: must be Unix time in nanoseconds, within an hour of now")
    lifetime = batch.lifetime_seconds
    if not isinstance(lifetime, int | float) or not 0 < lifetime <= LIFETIME_MAX_SECONDS:
        raise Nonsense(f"lifetime_seconds: must be within 0 and {LIFETIME_MAX_SECONDS:g}")
    if not isinstance(batch.groups, frozenset) or not all(isinstance(g, str) for g in batch.groups):
        raise Nonsense("groups: must be a frozenset of strings")
    for reading in batch.readings:
        _check(reading)
    return batch


def _check(reading: Any) -> None:
    if not isinstance(reading, Reading) or not isinstance(reading.shape, Shape):
        raise Nonsense("readings: must hold Readings with a Shape")
    if fault := _fault(reading.shape):
        raise Nonsense(fault)
    if not isinstance(reading.values, tuple) or len(reading.values) != len(reading.shape.series):
        raise Nonsense("values: must be a tuple with one number for each series of the shape")
    for series, value in zip(reading.shape.series, reading.values, strict=True):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise Nonsense(f"{series.field.family}: must be a finite number, is {value!r:.60}")
    domain = reading.domain
    if domain is None:
        return
    if not isinstance(domain, Domain):
        raise Nonsense("domain: must be one of the running guests, or None")
    names = {name for name, _ in domain.labels}
    for series in reading.shape.series:
        if twice := names & {name for name, _ in series.labels}:
            raise Nonsense(f"{series.field.family}: the label {min(twice)} is the guest's own")


@lru_cache(SHAPES_KEPT)
def _borrowed(shape: Shape, catalog: Catalog) -> str:
    """Return a family of a shape that is the agent's own, nothing where there is none."""
    own = {line.field.family for line in catalog.fields if line.field}
    return min(own & {series.field.family for series in shape.series}, default="")


@lru_cache(SHAPES_KEPT)
def _fault(shape: Shape) -> str:
    """Return what is wrong with a shape, nothing where it is sound; compared by identity."""
    return next(_faults(shape), "")


def _faults(shape: Any) -> Iterator[str]:
    if not isinstance(shape.group, str) or not shape.group:
        yield "group: must be a string that is not empty"
    if not isinstance(shape.series, tuple):
        yield "series: must be a tuple"
    seen: set[Series] = set()
    families: list[str] = []
    for series in shape.series:
        if not isinstance(series, Series) or not isinstance(series.field, Field):
            yield "series: must hold Series with a Field"
        family = series.field.family
        yield from (f"{family:.60}: {fault}" for fault in _faults_of(series, family))
        if series in seen:
            yield f"{family}: the series {dict(series.labels)} is there twice"
        seen.add(series)
        if family in families and families[-1] != family:
            yield f"{family}: the series of a family must be neighbours"
        families.append(family)


def _faults_of(series: Series, family: str) -> Iterator[str]:
    if not _NAME.fullmatch(family):
        yield "is no name of a metric"
    if not isinstance(series.field.kind, Kind) or series.part not in _PARTS:
        yield "unknown kind or part"
    names = [name for name, _ in series.labels]
    if len(set(names)) < len(names):
        yield "a label is there twice"
    for name, value in series.labels:
        if not _NAME.fullmatch(name) or name.startswith("__"):
            yield f"{name!r:.60} is no name of a label"
        if type(value) is not str:
            yield f"the label {name} must be a string"

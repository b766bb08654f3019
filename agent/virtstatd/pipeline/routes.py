"""
Routes: what one sink gets of what the collectors emit.

    collectors ──▶ one source per series ──▶ route ──▶ outlet ──▶ sink

A route picks series once per shape, so what it leaves out is never encoded, queued or sent. What is
left out is not lost: it was not wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final
from weakref import WeakKeyDictionary

from virtstatd.collector import Emit
from virtstatd.model import Batch, Domain, Kind, Labels, Reading, Series, Shape
from virtstatd.pipeline.picking import Globs, NameOf, Picker, fields_wanted


COLLECTORS: Final = {
    "local": "kernel",
    "local cgroup": "kernel",
    "local summary": "kernel",
    "inventory": "descriptions",
    "agent": "own",
}
"""The collector of a batch, by its source; others bear their collector's name."""

LABEL_MAX: Final = 128
"""So many characters of a label's value are copied; a longer one ends with an ellipsis."""

LIFETIME_INTERVALS: Final = 2.5
"""For how many intervals of its own a route's readings are current."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    What a sink is to get; what is empty leaves everything.

    `keep` and `drop` are patterns of metric names as on the page, without `_bucket`, `_sum` and
    `_count`; `drop` wins. `groups` and `collectors` are names, `domains` patterns of guests' names;
    series of no guest (host, partitions, the agent) are kept. `labels` are names of info labels
    that are copied onto all series of their guest. `interval_seconds` is the time from one passing
    on to the next, 0 for each reading as it comes.
    """

    keep: Sequence[str] = ()
    drop: Sequence[str] = ()
    groups: Sequence[str] = ()
    collectors: Sequence[str] = ()
    domains: Sequence[str] = ()
    labels: Sequence[str] = ()
    interval_seconds: float = 0.0

    @property
    def everything(self) -> bool:
        """Whether nothing is left out or changed."""
        return self == Wanted()


class SinkRoute:
    """Pass on to an outlet what is wanted of each batch."""

    def __init__(
        self,
        wanted: Wanted,
        offer: Emit,
        name_of: NameOf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups = frozenset(wanted.groups)
        self._collectors = frozenset(wanted.collectors)
        self._offer = offer
        self._clock = clock
        self._picker = Picker(fields_wanted(wanted.keep, wanted.drop, name_of))
        self._domains = _Domains(Globs(wanted.domains), frozenset(wanted.labels))
        self._held = _Held(wanted.interval_seconds) if wanted.interval_seconds else None

    def __call__(self, batch: Batch) -> None:
        """Take a batch; what is left of it goes on now, or at the end of the interval."""
        self._domains.learn(batch)
        gone = tuple(name for each in batch.gone for name in self._domains.names(each))
        if gone and self._held:
            self._pass(self._held.of(gone))
        if batch.gone:
            self._domains.forget(batch.gone)
        if not self._collectors or COLLECTORS.get(batch.source, batch.source) in self._collectors:
            readings = tuple(self._picked(batch.readings))
            groups = batch.groups & self._groups if self._groups else batch.groups
        else:
            readings, groups = (), frozenset()
        left = replace(batch, readings=readings, groups=groups, gone=())
        if self._held and (readings or groups):
            self._held.put(left)
            left = replace(left, readings=(), groups=frozenset())
        if left.readings or left.groups or gone:
            self._offer(replace(left, gone=gone))
        if self._held and self._held.due(self._clock()):
            self.flush()

    def flush(self) -> None:
        """Pass on what is held for the end of the interval."""
        if self._held:
            self._pass(self._held.all())

    def _pass(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._offer(batch)

    def _picked(self, readings: Iterable[Reading]) -> Iterable[Reading]:
        for reading in readings:
            if self._groups and reading.shape.group not in self._groups:
                continue
            domain = reading.domain
            if domain is not None and not self._domains(domain):
                continue
            if (picked := self._picker(reading.shape)) is None:
                continue
            shape, pick = picked
            if domain is not None:
                domain = self._domains.labelled(domain, shape)
            if shape is not reading.shape or domain is not reading.domain:
                yield Reading(domain, shape, pick(reading.values) if pick else reading.values)
            else:
                yield reading


class _Domains:
    """Which guests are wanted, and under which labels."""

    def __init__(self, names: Globs, labels: frozenset[str]) -> None:
        self._names = names
        self._labels = labels
        self._told: dict[str, dict[str, dict[str, str]]] = {}
        self._values: dict[str, dict[str, str]] = {}
        self._own: WeakKeyDictionary[Shape, frozenset[str]] = WeakKeyDictionary()
        self._labelled: dict[str, tuple[Domain, Labels, Domain]] = {}

    def __call__(self, domain: Domain) -> bool:
        """Return whether a guest is wanted."""
        return self._names(domain.name)

    def learn(self, batch: Batch) -> None:
        """Remember the labels of guests from info series, where they are to be copied."""
        if not self._labels:
            return
        found: dict[str, dict[str, str]] = {}
        for reading in batch.readings:
            if reading.domain is None:
                continue
            for series in reading.shape.series:
                if series.field.kind is Kind.INFO and not _of_a_device(series):
                    told = found.setdefault(reading.domain.uuid, {})
                    told |= {k: _short(v) for k, v in series.labels if k in self._labels and v}
        for uuid, told in found.items():
            by_source = self._told.setdefault(uuid, {})
            by_source[batch.source] = told
            self._values[uuid] = {k: v for each in by_source.values() for k, v in each.items()}

    def labelled(self, domain: Domain, shape: Shape | None = None) -> Domain:
        """Return a guest with the copied labels; without, where the series have one themselves."""
        values = self._values.get(domain.uuid)
        if not values or (shape and not self._names_of(shape).isdisjoint(values)):
            return domain
        taken = {name for name, _ in domain.labels}
        more = tuple(sorted((k, v) for k, v in values.items() if k not in taken))
        known, of, labelled = self._labelled.get(domain.uuid, (None, (), domain))
        if known is not domain or of != more:
            labelled = replace(domain, labels=(*domain.labels, *more))
            self._labelled[domain.uuid] = domain, more, labelled
        return labelled

    def _names_of(self, shape: Shape) -> frozenset[str]:
        """Return the names of all labels of a shape's series, found once."""
        if (names := self._own.get(shape)) is None:
            names = frozenset(name for series in shape.series for name, _ in series.labels)
            self._own[shape] = names
        return names

    def names(self, domain: Domain) -> set[Domain]:
        """Return a guest under all labels that its series have; none where it is not wanted."""
        return {domain, self.labelled(domain)} if self(domain) else set()

    def forget(self, gone: Iterable[Domain]) -> None:
        """Forget guests that have ended, unless another incarnation runs under their UUID."""
        for domain in gone:
            known = self._labelled.get(domain.uuid)
            if known is None or known[0] == domain:
                self._labelled.pop(domain.uuid, None)
                self._told.pop(domain.uuid, None)
                self._values.pop(domain.uuid, None)


_DEVICES: Final = frozenset({"target_device", "vcpu", "iothread", "index", "mac_address"})


def _of_a_device(series: Series) -> bool:
    """Return whether an info series is one of several of a guest: of a disk, a NIC, a vCPU."""
    return any(name in _DEVICES for name, _ in series.labels)


class _Held:
    """The last readings of each group of each guest, for the end of an interval."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends_at: float | None = None
        self._last: dict[tuple[str, str, str], tuple[Batch, tuple[Reading, ...]]] = {}

    def put(self, batch: Batch) -> None:
        """Replace what is held of the groups that a batch is about, for the guests in it."""
        by_guest: dict[str, list[Reading]] = {}
        for reading in batch.readings:
            by_guest.setdefault(reading.domain.uuid if reading.domain else "", []).append(reading)
        meta = replace(batch, readings=())
        for uuid, readings in by_guest.items():
            groups = batch.groups.union(each.shape.group for each in readings)
            for group in groups:
                of = tuple(each for each in readings if each.shape.group == group)
                self._last.pop((batch.source, uuid, group), None)
                self._last[batch.source, uuid, group] = meta, of
        if not by_guest and batch.groups:  # asked, and nobody has any
            self._last[batch.source, "", ",".join(sorted(batch.groups))] = meta, ()

    def due(self, now: float) -> bool:
        """Return whether the interval is over; the first begins with the first batch."""
        if self._ends_at is None:
            self._ends_at = now + self._seconds
        if now < self._ends_at:
            return False
        self._ends_at += self._seconds * ((now - self._ends_at) // self._seconds + 1)
        return True

    def of(self, domains: Iterable[Domain]) -> list[Batch]:
        """Return what is held of some guests, and hold it no longer."""
        uuids = {domain.uuid for domain in domains}
        return self._batches([key for key in self._last if key[1] in uuids])

    def all(self) -> list[Batch]:
        """Return what is held, and hold it no longer."""
        return self._batches(list(self._last))

    def _batches(self, keys: Iterable[tuple[str, str, str]]) -> list[Batch]:
        """Return batches of what was read together, the oldest first."""
        parts: dict[tuple[int, str], tuple[Batch, list[Reading], set[str]]] = {}
        for key in keys:
            meta, readings = self._last.pop(key)
            part = parts.setdefault((meta.taken_at, meta.source), (meta, [], set()))
            part[1].extend(readings)
            part[2].update(key[2].split(","))
        lifetime = LIFETIME_INTERVALS * self._seconds
        return [
            replace(
                meta,
                readings=tuple(readings),
                groups=meta.groups & groups,
                lifetime_seconds=max(meta.lifetime_seconds, lifetime),
            )
            for _, (meta, readings, groups) in sorted(parts.items(), key=itemgetter(0))
        ]


def _short(text: str) -> str:
    return text if len(text) <= LABEL_MAX else text[: LABEL_MAX - 1] + "…"

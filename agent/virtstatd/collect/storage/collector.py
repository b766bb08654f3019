"""
Disks of all guests by the storage that they are on, and how much of their limits they use.

Made of what the bulk call and the descriptions bring: no call to libvirt is made for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta, Struct

from virtstatd.catalog import Catalog
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collect.storage.disks import disks_in
from virtstatd.collect.storage.facts import limits_in, places_in
from virtstatd.collect.storage.places import Here, Local, StorageName, elsewhere
from virtstatd.collect.storage.shares import LimitShares
from virtstatd.collect.storage.sums import Sums
from virtstatd.collector import LIFETIME_INTERVALS, Emit, Health, Outcome, Row, Up
from virtstatd.model import Batch, Domain, Labels, Reading, Shape
from virtstatd.runtime.waiting import first_of
from virtstatd.runtime.worker import Worker


SOURCE: Final = "storage"
DISKS: Final = "storage_disk"
SHARES: Final = "storage_limit"

DISKS_SECONDS: Final = 60.0
"""How often the storage of each disk is sent, changed or not, because readings expire."""

_KINDS: Final = 1024
"""Shapes that are remembered; each set of disks and storages makes new ones."""

Placed = tuple[Domain, Mapping[str, StorageName]]


class StorageOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sums of all disks on each storage, and how much of their limits disks use."""

    enabled: Annotated[
        bool,
        Meta(
            description="Report sums, made of other readings: this costs no call. Findings about"
            " limits of disks need it."
        ),
    ] = True
    interval_seconds: Annotated[
        float, Meta(description="Seconds from one sum of the storages to the next.", ge=1, le=3600)
    ] = 15.0


class StorageCollector:
    """
    Listen to the batches of the other collectors, and emit what follows from them.

    The storage of a path is looked up on a thread of its own. Until it is known, what the disk does
    is kept, and counted then.
    """

    name = SOURCE

    def __init__(
        self,
        catalog: Catalog,
        here: Callable[[], Local],
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._here = here
        self._interval = interval_seconds
        self._clock = clock
        self._health = Health(clock)
        self._emit: Emit | None = None
        self._sums = Sums()
        self._domains: dict[str, Domain] = {}
        self._described: dict[str, Reading] = {}
        self._shares: dict[str, LimitShares] = {}
        self._infos: dict[str, Reading] = {}
        self._changed: set[str] = set()
        self._all_sent_at = -DISKS_SECONDS
        self._unplaced: dict[str, Reading] = {}
        self._news = asyncio.Event()
        self._shape = lru_cache(_KINDS)(self._compiled)

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:  # noqa: ARG002
        """Emit the sums on the interval until `stop`, and shares with each poll of the disks."""
        self._emit = emit
        worker = Worker(SOURCE)
        placing: asyncio.Future[None] | None = None
        due = self._clock() + self._interval
        try:
            while not stop.is_set():
                self._news.clear()
                if self._unplaced and (placing is None or placing.done()):
                    placing = worker.submit(self._placing())
                if (now := self._clock()) >= due:
                    due = max(due + self._interval, now)
                    self._send(emit)
                await first_of(stop, self._news, seconds=max(0.0, due - self._clock()))
        finally:
            worker.close()

    async def once(self, emit: Emit) -> Outcome:
        """Emit the storages with their disks; nothing was counted yet."""
        worker = Worker(SOURCE)
        await worker.submit(self._placing())
        worker.close()
        await asyncio.sleep(0)  # what was found is taken on the loop
        self._send(emit)
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield how the rounds went."""
        yield from self._health.rows(self.name)

    def heard(self, batch: Batch) -> None:
        """Take note of what another collector has emitted."""
        for domain in batch.gone:
            if self._domains.get(domain.uuid) is domain:
                self._forget(domain.uuid)
        if batch.source == "inventory":
            for reading in batch.readings:
                if reading.domain and reading.shape.group == "domain":
                    self._describe(reading.domain, reading)
        elif "block" in batch.groups:
            self._count(batch)

    def _forget(self, uuid: str) -> None:
        self._sums.forget(uuid, self._clock())
        for known in (self._domains, self._described, self._shares, self._infos, self._unplaced):
            known.pop(uuid, None)

    def _know(self, domain: Domain) -> None:
        """Start again with another run of a guest."""
        if self._domains.get(domain.uuid) is not domain:
            self._forget(domain.uuid)
            self._domains[domain.uuid] = domain

    def _describe(self, domain: Domain, reading: Reading) -> None:
        self._know(domain)
        if self._described.get(domain.uuid) is not reading:
            self._described[domain.uuid] = self._unplaced[domain.uuid] = reading
            limited = limits_in(reading)
            former = self._shares.get(domain.uuid)
            if former is None or former.limited != limited:
                self._shares[domain.uuid] = LimitShares(limited)
            self._news.set()

    def _count(self, batch: Batch) -> None:
        """Add what the disks did, and emit how near they are to their limits."""
        shares = []
        for reading in batch.readings:
            if reading.domain is None or reading.shape.group != "block":
                continue
            uuid = reading.domain.uuid
            self._know(reading.domain)
            disks = list(disks_in(reading))
            self._sums.take(uuid, disks)
            if (of := self._shares.get(uuid)) and of.limited:
                rows = list(of.take(batch.taken_at, disks))
                if rows:
                    keys = tuple(
                        ("limit_used", (("target_device", device), ("limit", limit)))
                        for device, limit, _ in rows
                    )
                    values = tuple([share for _, _, share in rows])
                    shares.append(Reading(reading.domain, self._shape(SHARES, keys), values))
        if shares and self._emit:
            groups = frozenset({SHARES})
            of_shares = (SOURCE, batch.taken_at, tuple(shares), groups, batch.lifetime_seconds)
            self._emit(Batch(*of_shares))

    def _placing(self) -> Callable[[], None]:
        """Return the search for the storages of all disks that were described since the last."""
        loop, unplaced = asyncio.get_running_loop(), list(self._unplaced.values())
        self._unplaced.clear()

        def place() -> None:
            local = self._here()
            placed: list[Placed] = [
                (reading.domain, dict(places_in(reading, local)))
                for reading in unplaced
                if reading.domain
            ]
            loop.call_soon_threadsafe(self._placed, placed)

        return place

    def _placed(self, found: list[Placed]) -> None:
        for domain, places in found:
            if self._domains.get(domain.uuid) is domain:
                self._sums.place(domain.uuid, places, self._clock())
                keys = tuple(
                    ("disk", (("target_device", device), *_labels(storage)))
                    for device, storage in places.items()
                )
                self._infos.pop(domain.uuid, None)
                if keys:
                    shape = self._shape(DISKS, keys)
                    self._infos[domain.uuid] = Reading(domain, shape, (1,) * len(keys))
                    self._changed.add(domain.uuid)
        self._news.set()

    def _send(self, emit: Emit) -> None:
        begun = self._clock()
        readings: tuple[Reading, ...] = ()
        if rows := list(self._sums.rows(begun)):
            shape = self._shape(SOURCE, tuple((key, _labels(storage)) for key, storage, _ in rows))
            readings = (Reading(None, shape, tuple([number for _, _, number in rows])),)
        lifetime = LIFETIME_INTERVALS * self._interval
        emit(Batch(SOURCE, time.time_ns(), readings, frozenset({SOURCE}), lifetime))
        self._send_disks(emit, begun)
        self._health.ended(begun, good=True)

    def _send_disks(self, emit: Emit, now: float) -> None:
        """Send the storages of those disks that have others now, and of all once a minute."""
        every = now >= self._all_sent_at + DISKS_SECONDS
        if every:
            self._all_sent_at = now
        changed, self._changed = self._changed, set()
        infos = [info for uuid, info in self._infos.items() if every or uuid in changed]
        if infos:
            lifetime = LIFETIME_INTERVALS * DISKS_SECONDS
            emit(Batch(SOURCE, time.time_ns(), tuple(infos), frozenset({DISKS}), lifetime))

    def _compiled(self, group: str, keys: tuple[tuple[str, Labels], ...]) -> Shape:
        series = [self._catalog.series(SOURCE, key, labels) for key, labels in keys]
        return self._catalog.shape(group, series)


def _labels(storage: StorageName) -> Labels:
    kind, name = storage
    return ("storage_type", kind), ("storage", name)


def storage(options: StorageOptions, parts: Parts) -> StorageCollector | None:
    """Build the collector, None if it is off."""
    if not options.enabled:
        return None
    here = Here if parts.hypervisor.processes else lambda: elsewhere
    return StorageCollector(parts.catalog, here, options.interval_seconds)


KIND: Final = CollectorKind(SOURCE, storage, SOURCE, StorageOptions)

"""What all guests did on each storage, summed so that no guest's end makes a counter fall."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from virtstatd.collect.storage.disks import COUNTERS, DiskCounters, grown
from virtstatd.collect.storage.places import StorageName
from virtstatd.model import Number


STORAGES_MAX: Final = 1000
"""Storages that have series of their own; disks on further ones are summed together."""

OTHERS: Final[StorageName] = ("other", "")

KEPT_SECONDS: Final = 3600.0
"""How long a storage without a disk is still reported."""

StorageRow = tuple[str, StorageName, Number]
"""The catalog's key, the storage, and the number."""


@dataclass(slots=True)
class _Sum:
    """The counters of a storage, and the disks that are on it now."""

    counters: list[Number] = field(default_factory=lambda: [0] * len(COUNTERS))
    disks: int = 0
    left_at: float = 0.0


class Sums:
    """
    Growth of all disks by storage, from the first reading of each disk on.

    What a disk did before it was first read is not counted: it may have been with another agent.
    """

    def __init__(self) -> None:
        self._sums: dict[StorageName, _Sum] = {}
        self._before: dict[str, dict[str, DiskCounters]] = {}
        self._places: dict[str, dict[str, StorageName]] = {}

    def place(self, uuid: str, storages: Mapping[str, StorageName], now: float) -> None:
        """Record the storage of each disk of a guest."""
        self._leave(self._places.get(uuid, {}), now)
        places = {device: self._told_apart(storage) for device, storage in storages.items()}
        for storage in places.values():
            self._sums.setdefault(storage, _Sum()).disks += 1
        self._places[uuid] = places

    def forget(self, uuid: str, now: float) -> None:
        """Keep what a guest that has ended did, and nothing else of it."""
        self._before.pop(uuid, None)
        self._leave(self._places.pop(uuid, {}), now)

    def take(self, uuid: str, disks: Iterable[tuple[str, DiskCounters]]) -> None:
        """Add what the disks of a guest did since the last call."""
        places = self._places.get(uuid)
        before = self._before.setdefault(uuid, {})
        now: dict[str, DiskCounters] = {}
        for device, counters in disks:
            last = before.get(device, counters)
            storage = places.get(device) if places else None
            if storage is None:
                now[device] = last  # added once its storage is known
                continue
            now[device] = counters
            if counters != last:
                sums = self._sums[storage].counters
                for at, more in enumerate(grown(counters, last)):
                    sums[at] += more
        before |= now

    def rows(self, now: float) -> Iterator[StorageRow]:
        """Yield the numbers of all storages, each key's together."""
        for name in [
            n for n, s in self._sums.items() if not s.disks and now - s.left_at > KEPT_SECONDS
        ]:
            del self._sums[name]
        for at, key in enumerate(COUNTERS):
            for name, one in self._sums.items():
                yield key, name, one.counters[at]
        for name, one in self._sums.items():
            yield "disks", name, one.disks

    def _told_apart(self, storage: StorageName) -> StorageName:
        return storage if storage in self._sums or len(self._sums) < STORAGES_MAX else OTHERS

    def _leave(self, places: dict[str, StorageName], now: float) -> None:
        for storage in places.values():
            one = self._sums[storage]
            one.disks -= 1
            one.left_at = now

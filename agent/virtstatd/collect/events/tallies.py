"""Events counted: of each domain that had some, and of all together, in a bounded number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeVar

from virtstatd.catalog import Catalog
from virtstatd.collect.events.meanings import OTHER, Meaning, known_details
from virtstatd.model import Domain, Reading, Shape


GROUP: Final = "events"
K = TypeVar("K")

DETAILS_MAX: Final = 64
"""Details of a domain that are counted apart; beyond them its events are counted by kind."""

HOST_MAX: Final = 512
"""The same for those of all domains, the known ones included."""

ALARMS: Final = ("io_error", "watchdog", "memory_failure", "crashed")
"""
What every running domain counts from 0 on.

A counter that appears with 1 is lost to `rate()`. For these an alert must not miss the first one;
the other kinds would be series of zeros. `crashed` is also counted for a panic that the domain
survives (`crashed_panicked` of `lifecycle`).
"""


@dataclass(slots=True)
class EventTally:
    """How often something happened, and when last: Unix time in milliseconds."""

    count: int = 0
    at: int = 0

    def add(self, count: int, at: int) -> None:
        """Count further ones."""
        self.count += count
        self.at = max(self.at, at // 1_000_000)


def _zeros(keys: Iterable[K]) -> dict[K, EventTally]:
    return {key: EventTally() for key in keys}


Detail = tuple[str, str, str]
"""Kind, detail and device."""


@dataclass(slots=True)
class _Guest:
    """What happened to one run of a domain."""

    domain: Domain
    kinds: dict[str, EventTally] = field(
        default_factory=lambda: {each: EventTally() for each in ALARMS}
    )
    details: dict[Detail, EventTally] = field(default_factory=dict)


class Tallies:
    """
    Count events; only runs of domains that had some are kept.

    `unlisted` counts those that are counted by their kind alone.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._guests: dict[str, _Guest] = {}
        self._host: dict[tuple[str, str], EventTally] = {
            each: EventTally() for each in known_details()
        }
        self._guest_shape = lru_cache(1024)(self._of_guest)
        self._host_shape = lru_cache(2)(self._of_host)
        self._quiet = self._of_guest(ALARMS, (), ())
        self.unlisted: Counter[str] = Counter()

    def add(self, event: str, meaning: Meaning, count: int, at: int) -> None:
        """Count events of any domain."""
        key = event, meaning.detail
        if key not in self._host and len(self._host) >= HOST_MAX:
            key = event, OTHER
            self.unlisted[event] += count
        self._host.setdefault(key, EventTally()).add(count, at)

    def add_of(self, domain: Domain, event: str, meaning: Meaning, count: int, at: int) -> None:
        """Count events of a domain that runs."""
        guest = self._guests.get(domain.uuid)
        if guest is None or guest.domain is not domain:
            guest = self._guests[domain.uuid] = _Guest(domain)
        kind = "crashed" if meaning.detail.startswith("crashed_") else event
        guest.kinds.setdefault(kind, EventTally()).add(count, at)
        if kind != event:
            guest.kinds.setdefault(event, EventTally()).add(count, at)
        if not (meaning.detail or meaning.device):
            return
        key = event, meaning.detail, meaning.device
        if key not in guest.details and len(guest.details) >= DETAILS_MAX:
            self.unlisted[event] += count
            return
        guest.details.setdefault(key, EventTally()).add(count, at)

    def tidy(self, running: Iterable[Domain]) -> None:
        """Forget the runs of domains that are over."""
        known = {id(domain) for domain in running}
        for uuid in [u for u, guest in self._guests.items() if id(guest.domain) not in known]:
            del self._guests[uuid]

    def host(self) -> Reading:
        """Return the counts of all domains together, from 0 where the detail is known."""
        keys = tuple(sorted(self._host))
        seen = tuple(key for key in keys if self._host[key].count)
        counts = [self._host[key].count for key in keys]
        times = [self._host[key].at for key in seen]
        return Reading(None, self._host_shape(keys, seen), (*counts, *times))

    def of(self, domains: Iterable[Domain]) -> Iterator[Reading]:
        """Yield the counts of these domains; zeros where nothing has happened."""
        for domain in domains:
            guest = self._guests.get(domain.uuid)
            if guest is None or guest.domain is not domain:
                yield Reading(domain, self._quiet, (0,) * len(ALARMS))
                continue
            kinds, details = tuple(guest.kinds), tuple(guest.details)
            seen = tuple(kind for kind in kinds if guest.kinds[kind].count)
            values = (
                *(guest.kinds[kind].count for kind in kinds),
                *(guest.kinds[kind].at for kind in seen),
                *(guest.details[key].count for key in details),
                *(guest.details[key].at for key in details),
            )
            yield Reading(domain, self._guest_shape(kinds, seen, details), values)

    def _of_guest(
        self, kinds: tuple[str, ...], seen: tuple[str, ...], details: tuple[Detail, ...]
    ) -> Shape:
        names = ("event", "detail", "device")
        several = [dict(zip(names, key, strict=True)) for key in details]
        return self._catalog.shape(
            GROUP,
            [
                *(("event", {"event": kind}) for kind in kinds),
                *(("event_at", {"event": kind}) for kind in seen),
                *(("detail", each) for each in several),
                *(("detail_at", each) for each in several),
            ],
        )

    def _of_host(
        self, keys: tuple[tuple[str, str], ...], seen: tuple[tuple[str, str], ...]
    ) -> Shape:
        return self._catalog.shape(
            GROUP,
            [
                *(("host_event", {"event": e, "detail": d}) for e, d in keys),
                *(("host_event_at", {"event": e, "detail": d}) for e, d in seen),
            ],
        )

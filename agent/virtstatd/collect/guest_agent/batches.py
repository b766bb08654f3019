"""Batches of what guests say: a reading per guest and group, under a shape that is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from virtstatd.catalog import Catalog
from virtstatd.collect.guest_agent.answers import Said
from virtstatd.collect.guest_agent.guests import AgentGuest
from virtstatd.collect.guest_agent.options import GuestAgentOptions
from virtstatd.collect.guest_agent.questions import GROUPS, OFTEN
from virtstatd.collector import LIFETIME_INTERVALS
from virtstatd.model import Batch, Domain, Reading


SOURCE: Final = "guest_agent"


class AgentBatches:
    """Makes batches; each is current until two more rounds of its guest."""

    def __init__(self, catalog: Catalog, options: GuestAgentOptions) -> None:
        self._catalog = catalog
        self._options = options

    def made(
        self, guest: AgentGuest, of: Mapping[str, Said], now: float, late: float, taken_at: int
    ) -> Iterator[Batch]:
        """Yield the answers by group, of a guest that was queried so late at `now`."""
        for group, said in of.items():
            if group == OFTEN:
                said.rows.insert(0, ("responsive", (), int(not guest.failures)))
                interval, next_at = self._options.interval_seconds, guest.often_at
            else:
                interval, next_at = self._options.filesystems_interval_seconds, guest.seldom_at
            # another guest's call may hang before the next round
            pause = max(next_at - now, interval) + late + self._options.limit_seconds
            lifetime = LIFETIME_INTERVALS * pause
            readings = (self._reading(guest, group, said),)
            yield Batch(SOURCE, taken_at, readings, frozenset({group}), lifetime)

    def gone(self, domain: Domain) -> Batch:
        """Return that nothing of what an agent said is current: it has closed its channel."""
        shape = self._catalog.shape(OFTEN, [("responsive", ())])
        lifetime = LIFETIME_INTERVALS * self._options.interval_seconds
        return Batch(SOURCE, time.time_ns(), (Reading(domain, shape, (0,)),), GROUPS, lifetime)

    def _reading(self, guest: AgentGuest, group: str, said: Said) -> Reading:
        left = {"limit": said.cut, "impossible": said.impossible, "unknown": said.unknown}
        guest.left |= {(group, reason): count for reason, count in left.items()}
        keys = tuple([(key, labels) for key, labels, _ in said.rows])
        known = guest.shapes.get(group)
        if known is None or known[0] != keys:
            known = guest.shapes[group] = keys, self._catalog.shape(group, keys)
        return Reading(guest.domain, known[1], tuple([value for _, _, value in said.rows]))

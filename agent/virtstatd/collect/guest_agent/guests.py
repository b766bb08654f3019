"""What is known of the agent in each guest: when it is queried next, and what it refuses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from virtstatd.collect.guest_agent.questions import Question
from virtstatd.collector import Row
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.model import Domain, Number, Reading, Shape


CONNECTED: Final = "libvirt_domain_guest_agent_connected"
LEFT_OUT: Final = ("limit", "impossible", "unknown")
PERIOD: Final = "libvirt_domain_memory_stats_period_seconds"

BACKOFF_MAX_SECONDS: Final = 900.0
"""Longest pause of a guest whose agent does not answer; it doubles with each question."""

CAME_SECONDS: Final = 10.0
"""Shortest time between two visits to a guest whose agent starts again and again."""

REFUSED_SECONDS: Final = 900.0
"""Pause before a refused question is repeated."""


@dataclass(slots=True, eq=False)
class AgentGuest:
    """
    One run of a guest whose agent is connected.

    `often_at` and `seldom_at` are when it is queried next, at each interval; `refused` holds until
    when each refused question waits. `failures` counts questions without an answer since the last
    one with one, and `hanging` is a call that libvirt has not answered yet: meanwhile no other is
    made. `limited` is true once libvirt's own timeout was set or refused. `left` are the numbers
    left out of its last answers, by group and reason.
    """

    domain: Domain
    often_at: float
    seldom_at: float
    refused: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    asked_at: float = -math.inf
    hanging: asyncio.Future[Any] | None = None
    limited: bool = False
    left: dict[tuple[str, str], int] = field(default_factory=dict)
    shapes: dict[str, tuple[object, Shape]] = field(default_factory=dict)

    @property
    def known(self) -> dict[str, str]:
        """The guest, as the log names it."""
        return {"domain": self.domain.name, "uuid": self.domain.uuid}

    @property
    def due(self) -> float:
        """When it is queried next."""
        return min(self.often_at, self.seldom_at)

    def silent(self, now: float, interval: float) -> None:
        """Wait longer after each question without an answer."""
        pause = min(interval * 2**self.failures, max(interval, BACKOFF_MAX_SECONDS))
        self.failures = min(self.failures + 1, 16)
        self.often_at = self.seldom_at = now + pause

    def came(self, now: float) -> None:
        """Ask soon, as the agent was restarted; a guest that does that all the time waits."""
        self.refused.clear()
        self.often_at = self.seldom_at = max(now, self.asked_at + CAME_SECONDS)

    def refuses(self, question: Question, now: float) -> None:
        """Leave a question out for a while."""
        self.refused[question.name] = now + REFUSED_SECONDS

    def asks(self, question: Question, now: float) -> bool:
        """Return whether a question is not one that it has refused lately."""
        return self.refused.get(question.name, now) <= now


class AgentGuests:
    """The guests whose agents are connected, as their descriptions say it."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._known: dict[str, AgentGuest] = {}
        self._seen: dict[str, tuple[tuple[Reading, ...], bool | None, bool]] = {}
        self.disconnected = 0
        """Guests with a channel that no agent holds open."""

        self.unreported: list[Domain] = []
        """Guests with a balloon driver that has no period."""

    def __iter__(self) -> Iterator[AgentGuest]:
        return iter(self._known.values())

    def came(self, uuid: str, now: float) -> None:
        """Ask a guest soon whose agent has opened its channel, if it was known to be open."""
        if guest := self._known.get(uuid):
            guest.came(now)

    def rows(self) -> Iterator[Row]:
        """Yield the number of guests by state, and of what was left out of their last answers."""
        silent = sum(guest.failures > 0 for guest in self._known.values())
        states = {
            "answering": len(self._known) - silent,
            "silent": silent,
            "disconnected": self.disconnected,
        }
        for state, count in states.items():
            yield "agent_domains", {"state": state}, count
        left = dict.fromkeys(LEFT_OUT, 0)
        for guest in self._known.values():
            for (_, reason), count in guest.left.items():
                left[reason] += count
        for reason, count in left.items():
            yield "agent_left_out", {"reason": reason}, count

    def runs(self, guest: AgentGuest) -> bool:
        """Return whether this run of a guest has not ended."""
        return self._inventory.get(guest.domain.uuid) is guest.domain

    def look(self, now: float) -> list[Domain]:
        """Take over what descriptions say now; return the running guests whose agents are gone."""
        former, self._known = self._known, {}
        seen, self._seen = self._seen, {}
        self.disconnected = 0
        self.unreported = []
        gone: list[Domain] = []
        for domain, described in self._inventory.domains():
            last = seen.get(domain.uuid)
            if last is None or last[0] is not described:
                told = _told(described, CONNECTED)
                state = None if told is None else bool(told)
                last = described, state, _told(described, PERIOD) == 0
            self._seen[domain.uuid] = last
            _, connected, unreported = last
            if unreported:
                self.unreported.append(domain)
            self.disconnected += connected is False
            guest = former.get(domain.uuid)
            known = guest is not None and guest.domain is domain
            if connected:
                self._known[domain.uuid] = (
                    guest if guest and known else AgentGuest(domain, now, now)
                )
            elif known:
                gone.append(domain)
        return gone

    def due(self, now: float) -> list[AgentGuest]:
        """Return the guests whose time has come, those that wait longest first."""
        for guest in self._known.values():
            if guest.hanging is not None and guest.hanging.done():
                guest.hanging = None
                guest.often_at = guest.seldom_at = now
        several = self._known.values()
        return sorted((each for each in several if each.due <= now and not each.hanging), key=_due)

    def hung(self, now: float) -> list[AgentGuest]:
        """Return the guests whose time has come while a call for them hangs."""
        return [each for each in self._known.values() if each.hanging and each.due <= now]

    def next_at(self, otherwise: float) -> float:
        """Return when the next guest is due, at the latest `otherwise`."""
        return min((guest.due for guest in self._known.values()), default=otherwise)


def _due(guest: AgentGuest) -> float:
    return guest.due


def _told(described: tuple[Reading, ...], family: str) -> Number | None:
    """Return a number of a description, None where it is not in it."""
    for reading in described:
        for series, value in zip(reading.shape.series, reading.values, strict=True):
            if series.field.family == family:
                return value
    return None

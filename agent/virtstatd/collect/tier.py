"""A tier: groups of statistics that are due together, and what became of their polls."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from virtstatd.collector import LIFETIME_INTERVALS, Emit, Histogram, Row
from virtstatd.errors import Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Gone, Oversize
from virtstatd.runtime.ticker import Ticker


CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the call duration histogram, in seconds."""

STRETCHED_LIFETIME_INTERVALS: Final = 2.5
"""
For how many intervals readings are current where the interval is stretched.

Polls are spread over such an interval, so nearly two may lie between two readings of a guest.
"""

OUTCOME: dict[type[VirtstatdError], str] = {
    Overdue: "overdue",
    Refused: "refused",
    Gone: "refused",
    Oversize: "oversize",
    Disconnected: "disconnected",
}
OUTCOMES = ("ok", "overdue", "refused", "oversize", "disconnected", "withheld")


@dataclass(slots=True)
class Tier:
    """
    Groups that are due together, and what became of their polls.

    `monitor` says that a poll asks the guests' monitors, and so may hang. `partial` and `missing`
    are of the last poll that ended, `stepped_over` and `unanswered` what the one under way has
    found so far. A tier is `busy` while its poll is under way, and `pausing` where that waits for
    its next turn; `asked` counts polls by how much of them has been made, and `good_at` is when the
    last one began whose every call was answered. `shown_until` is when the first of its readings
    expires, and `shortest` the shortest lifetime that the poll under way has given.
    """

    name: str
    bits: int
    groups: frozenset[str]
    ticker: Ticker
    monitor: bool = False
    busy: bool = False
    pausing: bool = False
    asked: float = 0.0
    good_at: float | None = None
    shown_until: float = math.inf
    shortest: float = math.inf
    partial: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    stepped_over: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    durations: list[int] = field(default_factory=lambda: [0] * (len(CALL_BUCKETS) + 1))
    seconds: float = 0.0

    @property
    def asking(self) -> bool:
        """Whether a poll is under way."""
        return self.busy and not self.pausing

    def begin(self) -> None:
        """Begin a poll."""
        self.shortest = math.inf

    def lifetime(self) -> float:
        """Return how many seconds a reading is current that is emitted now."""
        intervals = STRETCHED_LIFETIME_INTERVALS if self.ticker.stretched else LIFETIME_INTERVALS
        self.shortest = min(self.shortest, intervals * self.ticker.seconds)
        return intervals * self.ticker.seconds

    def end(self, begun: float) -> None:
        """End a poll: what it found is what is shown until the next one ends."""
        self.lifetime()
        self.shown_until = begun + self.shortest
        if self.ticker.stretched:
            self.ticker.before(self.shown_until)
        self.partial, self.stepped_over = self.stepped_over, set()
        self.missing, self.unanswered = self.unanswered, set()
        self.busy = False

    def rows(self) -> Iterator[Row]:
        """Yield the agent's own numbers about it."""
        labels = {"tier": self.name}
        yield "ticks", labels, self.ticker.ticks
        yield "ticks_skipped", labels, self.ticker.skipped
        yield "interval", labels, self.ticker.seconds
        yield "configured_interval", labels, self.ticker.configured
        yield "partial_domains", labels, len(self.partial)
        yield "missing_domains", labels, len(self.missing)
        if self.good_at is not None:  # never before the first: absent, not zero
            yield "age", labels, time.monotonic() - self.good_at
        for outcome, count in self.outcomes.items():
            yield "calls", {**labels, "outcome": outcome}, count
        yield "call_duration", labels, Histogram(CALL_BUCKETS, self.durations, self.seconds)

    def observe(self, seconds: float) -> None:
        """Count a finished call in the histogram of durations."""
        at = next((i for i, bound in enumerate(CALL_BUCKETS) if seconds <= bound), -1)
        self.durations[at] += 1
        self.seconds += seconds


@dataclass(slots=True)
class Findings:
    """
    What a poll has found out: how many calls were answered, how many failed, and for which domains.

    `refused` counts domains that were refused a group alone; `held` are those whose monitor was
    busy for a moment, `idle` those of them whose monitor was free when that was looked at.
    """

    answered: int = 0
    errors: int = 0
    failures: dict[str, set[str]] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    idle: set[str] = field(default_factory=set)

    def fail(self, error: VirtstatdError, uuids: Iterable[str] = ()) -> None:
        """Take note of a call that failed; a lost connection is reported by its own connection."""
        if not isinstance(error, Disconnected):
            self.failures.setdefault(str(error), set()).update(uuids)


@dataclass(frozen=True, slots=True)
class Poll:
    """
    One poll under way: the tiers that travel together, when it began, where its batches go.

    `found` is what it has found out so far.
    """

    tiers: Sequence[Tier]
    begun: float
    monitor: bool
    emit: Emit
    found: Findings = field(default_factory=Findings)

    @property
    def bits(self) -> int:
        """The groups of all its tiers, as libvirt's flags."""
        bits = 0
        for tier in self.tiers:
            bits |= tier.bits
        return bits

    @property
    def seconds(self) -> float:
        """The shortest interval in force, after which the first of the tiers is due again."""
        return min(tier.ticker.seconds for tier in self.tiers)

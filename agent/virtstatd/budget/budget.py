"""
The cost budget: what the polling may take of the host's CPUs, and what gives way when it does.

From what each stretch of polls cost and which tiers it held, the cost of one poll of every tier is
learned. Where the tiers at their intervals would cost more than the budget, the monitor and extra
tiers are asked at a whole multiple of their intervals, so that deadlines still fall together. The
pulse never gives way: it is cheap, and it is what shows that a host is in trouble.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Row
from virtstatd.runtime.ticker import Ticker
from virtstatd.runtime.waiting import next_beat


REVIEW_SECONDS: Final = 2.0
SETTLING_SECONDS: Final = 10.0
"""The start is dearer than what follows: connections are opened, descriptions read."""

TIMES_MAX: Final = 20
INTERVAL_MAX_SECONDS: Final = 600.0
"""No interval is stretched further than either; one that is longer by itself stays as it is."""

ROOM: Final = 0.85
"""An interval shrinks when this part of the budget will do, so that it does not swing."""

EXCEEDED_REVIEWS: Final = 30
"""After how many reviews in a row it is said that stretching does not suffice."""

POLLS: Final = 4
"""Half a poll is not judged, unless it is the last of so many: on a busy host one always runs."""

GAIN: Final = 0.5
"""How much of an error of the estimate one more observation takes away."""

PARTS: Final = 2
"""Half a poll teaches as much as a whole one; parts differ, as few QEMUs stand for all."""

OWN_SECONDS: Final = 60.0
"""Over how long a time it is seen what the agent uses between the polls."""

PULSE: Final = "pulse"


class Polled(Protocol):
    """A tier, as far as its cost goes."""

    @property
    def ticker(self) -> Ticker:
        """When it is due; named like the tier."""
        ...

    @property
    def asking(self) -> bool:
        """Whether calls of its poll are in flight."""
        ...

    @property
    def asked(self) -> float:
        """How many polls were asked, one that is spread over its interval by how much of it."""
        ...


class Metered(Protocol):
    """What was spent, in CPU seconds; `cost.Meter` is the true one."""

    @property
    def blind(self) -> Mapping[str, str]:
        """What cannot be seen, and why."""
        ...

    def spent(self) -> dict[str, float]:
        """Return all since the start, by whom."""
        ...

    def asked(self) -> float:
        """Return what was spent while calls were in flight."""
        ...


class Budget:
    """Hold the polling to `percent` of all CPUs together."""

    def __init__(
        self,
        tiers: Sequence[Polled],
        meter: Metered,
        percent: float,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
        cpus: int | None = None,
    ) -> None:
        self._tiers = tiers
        self._meter = meter
        self._cpus = cpus or os.cpu_count() or 1
        self.allowed = self.seconds_of(percent, self._cpus)
        """What the polling may cost, in CPU seconds per second."""
        self._log = log
        self._clock = clock
        self._settled = False
        self._since = clock()
        self._mark()
        self._costs = [0.0] * len(tiers)
        self._own = 0.0
        self._exceeded = 0
        self._blind: set[str] = set()
        self.times = 1
        """How many times their configured intervals the tiers are stretched to."""

    @staticmethod
    def seconds_of(percent: float, cpus: int | None = None) -> float:
        """Return what a share of all CPUs together is in CPU seconds per second."""
        return percent / 100 * (cpus or os.cpu_count() or 1)

    @property
    def ratio(self) -> float:
        """What the polling costs at its present intervals, as a share of all CPUs."""
        return self._rate(self.times) / self._cpus

    @property
    def allowed_ratio(self) -> float:
        """What it may cost, as a share of all CPUs."""
        return self.allowed / self._cpus

    def spent(self) -> dict[str, float]:
        """Return the CPU seconds that were spent since the start, by whom."""
        return self._meter.spent()

    def numbers(self) -> Iterator[Row]:
        """Yield what polling costs and may cost, and the CPU seconds spent, by process."""
        yield "cost", {}, self.ratio
        yield "budget", {}, self.allowed_ratio
        for of, seconds in self.spent().items():
            yield "cost_cpu", {"of": of}, seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Review the cost until `stop`."""
        while not stop.is_set():
            await next_beat(stop, REVIEW_SECONDS)
            self.review()

    def review(self) -> None:
        """Learn from what was spent since the last time, and stretch or shrink by a step."""
        for what, reason in self._meter.blind.items():
            if what not in self._blind:
                self._blind.add(what)
                self._log.warning("budget.blind", what=what, reason=reason)
        if self._halfway():
            return
        if not self._settled:  # one dear first poll would keep a long interval long for hours
            self._settled = self._clock() - self._since >= SETTLING_SECONDS
            self._mark()
            self._since = self._at if self._settled else self._since
            return
        self._learn()
        if not any(self._costs[at] for at, gives in enumerate(self._giving()) if gives):
            return  # nothing is known of what could give way
        wanted = self._needed(self.allowed)
        if wanted > self.times:
            self._stretch(min(wanted, 2 * self.times))
        elif self._needed(ROOM * self.allowed) < self.times:
            self._stretch(self.times - 1)
        self._exceeded = self._exceeded + 1 if self._rate(TIMES_MAX) > self.allowed else 0
        if self._exceeded == EXCEEDED_REVIEWS:
            self._log.warning("budget.exceeded", **self._percents(self._rate(TIMES_MAX)))

    def _halfway(self) -> bool:
        """Tell whether there is half a poll to judge, and not several whole ones beside it."""
        giving = self._giving()
        asking = any(t.asking for t, gives in zip(self._tiers, giving, strict=True) if gives)
        polls = max((n for n, gives in zip(self._polls(), giving, strict=True) if gives), default=0)
        return asking and polls < POLLS

    def _giving(self) -> list[bool]:
        return [tier.ticker.name != PULSE for tier in self._tiers]

    def _polls(self) -> list[float]:
        return [tier.asked - old for tier, old in zip(self._tiers, self._polled, strict=True)]

    def _mark(self) -> None:
        """Begin to count anew."""
        self._at = self._clock()
        self._spent = sum(self._meter.spent().values())
        self._asked = self._meter.asked()
        self._polled = [tier.asked for tier in self._tiers]

    def _learn(self) -> None:
        at, asked, spent, polls = self._at, self._asked, self._spent, self._polls()
        self._mark()
        seconds, cost = self._at - at, self._asked - asked
        between = self._spent - spent - cost
        if any(polls):
            error = cost - sum(n * each for n, each in zip(polls, self._costs, strict=True))
            # what is asked rarely is taken to be what is dear; what is often is seen by itself
            weights = [tier.ticker.seconds**2 for tier in self._tiers]
            whole = sum(n * n * weight for n, weight in zip(polls, weights, strict=True))
            for at, (n, weight) in enumerate(zip(polls, weights, strict=True)):
                gain = GAIN * min(1.0, PARTS * n) if self._costs[at] else 1.0
                better = self._costs[at] + gain * error * n * weight / whole
                self._costs[at] = max(0.0, better)
        else:
            between += cost  # descriptions, and calls that hang
        if seconds > 0:
            # the first minute is averaged evenly: from nothing it would seem too cheap for long
            over = min(OWN_SECONDS, self._at - self._since)
            self._own += min(1.0, seconds / over) * (between / seconds - self._own)

    def _rate(self, times: int) -> float:
        """Return the CPU seconds per second with the intervals at so many times their length."""
        rate = max(0.0, self._own)
        for tier, cost in zip(self._tiers, self._costs, strict=True):
            rate += cost / (_times(tier.ticker, times) * tier.ticker.configured)
        return rate

    def _needed(self, allowed: float) -> int:
        fitting = (n for n in range(1, TIMES_MAX) if self._rate(n) <= allowed)
        return next(fitting, TIMES_MAX)

    def _stretch(self, times: int) -> None:
        before, self.times = self.times, times
        for tier in self._tiers:
            tier.ticker.stretch(_times(tier.ticker, times), self._clock())
        if before == 1:
            self._log.warning("budget.stretched", **self._percents(self._rate(1)))
        elif times == 1:
            self._log.info("budget.restored", **self._percents(self._rate(1)))

    def _percents(self, rate: float) -> dict[str, float]:
        percents = {"cost_percent": rate, "budget_percent": self.allowed}
        return {key: round(100 * each / self._cpus, 4) for key, each in percents.items()}


def _times(ticker: Ticker, times: int) -> int:
    if ticker.name == PULSE:
        return 1
    return max(1, min(times, int(INTERVAL_MAX_SECONDS // ticker.configured)))

"""
The cost budget: the share of the host's CPUs for polling, and what is stretched to keep it.

From what each stretch of polls cost and which tiers it held, the cost of one poll of every tier is
learned. Where the tiers at their intervals would cost more than the budget, the monitor and extra
tiers are polled at a whole multiple of their intervals, so that deadlines still fall together.
Where that is not enough, the kernel's files are read less often, too. The pulse is never stretched:
it is cheap, and it is what shows that a host is in trouble.
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

LOOKS_MAX: Final = 10
LOOK_MAX_SECONDS: Final = 10.0
"""The same for the looks at the kernel's files, whose worth is that they see each second."""

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
        """Polls that were made; one that is spread over its interval counts by its part."""
        ...


class Looking(Protocol):
    """What reads the kernel's files, as far as its cost goes."""

    @property
    def ticker(self) -> Ticker:
        """When it is due."""
        ...

    @property
    def cpu_seconds(self) -> float:
        """What its looks have cost so far."""
        ...


class Metered(Protocol):
    """What was spent, in CPU seconds; `cost.Meter` is the true one."""

    @property
    def blind(self) -> Mapping[str, str]:
        """What cannot be seen, and why."""
        ...

    def spent(self) -> dict[str, float]:
        """Return all since the start, by process."""
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
        kernel: Looking | None = None,
    ) -> None:
        self._tiers = tiers
        self._kernel = kernel
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
        self._look = 0.0
        self._exceeded = 0
        self._blind: set[str] = set()
        self.times = 1
        """How many times their configured intervals the tiers are stretched to."""
        self.looks = 1
        """The same for the looks at the kernel's files."""

    @staticmethod
    def seconds_of(percent: float, cpus: int | None = None) -> float:
        """Return what a share of all CPUs together is in CPU seconds per second."""
        return percent / 100 * (cpus or os.cpu_count() or 1)

    @property
    def ratio(self) -> float:
        """What the polling costs at its present intervals, as a share of all CPUs."""
        return self._rate(self.times, self.looks) / self._cpus

    @property
    def allowed_ratio(self) -> float:
        """What it may cost, as a share of all CPUs."""
        return self.allowed / self._cpus

    def spent(self) -> dict[str, float]:
        """Return the CPU seconds that were spent since the start, by process."""
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
        known = [cost for cost, gives in zip(self._costs, self._giving(), strict=True) if gives]
        if known and not any(known):
            return  # nothing is known of what is stretched first
        times, looks = self.times, self.looks
        self.times = self._step(times, TIMES_MAX, self._rate)
        # after the tiers: only what is left with all of them at their longest
        self.looks = self._step(looks, LOOKS_MAX, lambda n: self._rate(TIMES_MAX, n))
        if (times, looks) != (self.times, self.looks):
            self._stretch()
            self._report(stretched=times * looks > 1)
        least = self._rate(TIMES_MAX, LOOKS_MAX)
        self._exceeded = self._exceeded + 1 if least > self.allowed else 0
        if self._exceeded == EXCEEDED_REVIEWS:
            self._log.warning("budget.exceeded", **self._percents(least))

    def _step(self, now: int, most: int, rate: Callable[[int], float]) -> int:
        """Return how many times to stretch: at most twice as much as now, or one less."""

        def needed(allowed: float) -> int:
            return next((n for n in range(1, most) if rate(n) <= allowed), most)

        wanted = needed(self.allowed)
        if wanted > now:
            return min(wanted, 2 * now)
        return now - 1 if needed(ROOM * self.allowed) < now else now

    def _halfway(self) -> bool:
        """Return whether there is half a poll to judge, and not several whole ones beside it."""
        giving = self._giving()
        asking = any(t.asking for t, gives in zip(self._tiers, giving, strict=True) if gives)
        polls = max((n for n, gives in zip(self._polls(), giving, strict=True) if gives), default=0)
        return asking and polls < POLLS

    def _giving(self) -> list[bool]:
        return [tier.ticker.name != PULSE for tier in self._tiers]

    def _polls(self) -> list[float]:
        return [tier.asked - old for tier, old in zip(self._tiers, self._polled, strict=True)]

    def _mark(self) -> None:
        """Count from zero again."""
        self._at = self._clock()
        self._spent = sum(self._meter.spent().values())
        self._asked = self._meter.asked()
        self._looked = self._kernel.cpu_seconds if self._kernel else 0.0
        self._polled = [tier.asked for tier in self._tiers]

    def _learn(self) -> None:
        at, asked, spent, polls = self._at, self._asked, self._spent, self._polls()
        looked = self._looked
        self._mark()
        seconds, cost = self._at - at, self._asked - asked
        looked = self._looked - looked
        between = self._spent - spent - cost - looked
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
            weight = min(1.0, seconds / over)
            self._own += weight * (between / seconds - self._own)
            if self._kernel:
                look = looked / seconds * self._kernel.ticker.seconds
                self._look += weight * (look - self._look)

    def _rate(self, times: int, looks: int = 1) -> float:
        """Return the CPU seconds per second with intervals and looks so many times as long."""
        rate = max(0.0, self._own)
        if self._kernel:
            ticker = self._kernel.ticker
            rate += self._look / (ticker.configured * _looks(ticker, looks))
        for tier, cost in zip(self._tiers, self._costs, strict=True):
            rate += cost / (_times(tier.ticker, times) * tier.ticker.configured)
        return rate

    def _stretch(self) -> None:
        now = self._clock()
        for tier in self._tiers:
            tier.ticker.stretch(_times(tier.ticker, self.times), now)
        if self._kernel:
            ticker = self._kernel.ticker
            ticker.stretch(_looks(ticker, self.looks), now)

    def _report(self, *, stretched: bool) -> None:
        """Log the first stretch, and the return to the configured intervals."""
        percents = self._percents(self._rate(1))
        if not stretched:
            self._log.warning("budget.stretched", **percents)
        elif self.times * self.looks == 1:
            self._log.info("budget.restored", **percents)

    def _percents(self, rate: float) -> dict[str, float]:
        percents = {"cost_percent": rate, "budget_percent": self.allowed}
        return {key: round(100 * each / self._cpus, 4) for key, each in percents.items()}


def _times(ticker: Ticker, times: int) -> int:
    if ticker.name == PULSE:
        return 1
    return max(1, min(times, int(INTERVAL_MAX_SECONDS // ticker.configured)))


def _looks(ticker: Ticker, looks: int) -> int:
    return max(1, min(looks, int(LOOK_MAX_SECONDS // ticker.configured)))

"""
What a collector is: everything that a third party needs to import.

A collector asks for numbers on a timer of its own and emits batches. One that comes from another
package is a class, named by an entry point of the group `virtstatd.collectors`: its annotated
fields are its options, as those of a sink are, and its `open` makes the collector.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from structlog.typing import FilteringBoundLogger

from virtstatd.errors import Disconnected, Overdue, Refused, StartError
from virtstatd.model import Batch, Domain, Field, Kind, Labels, Number, Reading, Series, Shape


__all__ = [
    "Batch",
    "Collector",
    "CollectorPlugin",
    "Disconnected",
    "Domain",
    "Emit",
    "Field",
    "Given",
    "Health",
    "Histogram",
    "Kind",
    "Labels",
    "Outcome",
    "Overdue",
    "Reading",
    "Refused",
    "Row",
    "Series",
    "Shape",
    "StartError",
    "Up",
]

LIFETIME_INTERVALS: Final = 2.0
"""Number of intervals for which a reading is shown as current."""

Emit = Callable[[Batch], None]
"""Passes a batch on; never waits and never raises. Called only on the event loop."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram: upper bounds, observations in each bucket and beyond the last, their sum."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


Row = tuple[str, Mapping[str, str], Number | Histogram]
"""One of the agent's own numbers: its key in the catalog's agent.toml, its labels, its value."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    The result of asking once.

    `answered` is None if the collector does not apply here: a remote hypervisor, a host without the
    files that it reads. `reason` is one clause, empty if there was an answer.
    """

    answered: bool | None = True
    reason: str = ""


class Health:
    """Success, duration in seconds and age of a collector's rounds, all None before the first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.success: bool | None = None
        self.seconds: float | None = None
        self.good_at: float | None = None

    @contextmanager
    def round(self) -> Iterator[None]:
        """Measure a round; it has failed if it raises or calls `fail`."""
        begun = self._clock()
        self._failed = False
        try:
            yield
        except BaseException:
            self._failed = True
            raise
        finally:
            self.ended(begun, good=not self._failed)

    def fail(self) -> None:
        """Report that the current round did not get everything."""
        self._failed = True

    def ended(self, begun: float, *, good: bool) -> None:
        """Record a round that began at `begun` on the monotonic clock."""
        self.success, self.seconds = good, self._clock() - begun
        if good:
            self.good_at = begun

    def rows(self, collector: str) -> Iterator[Row]:
        """Yield the rows of `virtstatd_collector_*`; unknown values are absent, not zero."""
        labels = {"collector": collector}
        if self.success is not None and self.seconds is not None:
            yield "collector_success", labels, int(self.success)
            yield "collector_duration", labels, self.seconds
        if self.good_at is not None:
            yield "collector_age", labels, self._clock() - self.good_at


class Up:
    """Whether libvirt is available: an event with two sides."""

    def __init__(self, *, up: bool = False) -> None:
        self.turns = 0
        """How often it became available or unavailable, or everything had to be polled again."""
        self._up = up
        self._coming: list[asyncio.Event] = []
        self._turning: list[asyncio.Event] = []

    def __bool__(self) -> bool:
        return self._up

    def turn(self, *, up: bool) -> None:
        """Record that libvirt is available, or is not."""
        if self._up == up:
            return
        self._up = up
        self.turns += 1
        for event in (*self._turning, *(self._coming if up else ())):
            event.set()

    def again(self) -> None:
        """Cause everything to be polled again: earlier readings are no longer current."""
        self.turns += 1
        for event in self._coming:
            event.set()

    def coming(self, event: asyncio.Event | None = None) -> asyncio.Event:
        """Return an event, or `event`, set when libvirt is available; the caller clears it."""
        self._coming.append(event := event or asyncio.Event())
        return event

    def turning(self) -> asyncio.Event:
        """Return an event that is set when libvirt's availability changes; the caller clears it."""
        self._turning.append(event := asyncio.Event())
        return event

    def forget(self, *events: asyncio.Event) -> None:
        """Stop setting these events."""
        for event in events:
            for watching in (self._coming, self._turning):
                if event in watching:
                    watching.remove(event)

    async def wait(self) -> None:
        """Return once libvirt is available."""
        while not self._up:
            event = self.coming()
            try:
                await event.wait()
            finally:
                self._coming.remove(event)


class Collector(Protocol):
    """
    Ask for numbers and emit them. The service starts, isolates and ends it.

    A collector never waits for another one, and never blocks the event loop.
    """

    name: str
    """Its name in `virtstatd_collector_*` series, in the log and in `virtstatd check`."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Read on its own interval until `stop` is set; work that needs libvirt waits for it."""
        ...

    async def once(self, emit: Emit) -> Outcome:
        """Read everything once, and return the outcome."""
        ...

    def numbers(self) -> Iterable[Row]:
        """Return the `virtstatd_*` numbers about itself."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """
    What the agent passes to a collector of another package: its name, its log, libvirt, guests.

    `ask` runs a function of a `libvirt.virConnect` on a thread made for that, at most so many
    seconds; it raises `Disconnected`, `Overdue` or `Refused`. The connection is read-only unless
    the configuration says otherwise. `domains` returns the guests that run now.
    """

    name: str
    log: FilteringBoundLogger
    ask: Callable[[Callable[[Any], Any], float], Awaitable[Any]]
    domains: Callable[[], Sequence[Domain]]


class CollectorPlugin(Protocol):
    """A class of options, loaded by its entry point in the group `virtstatd.collectors`."""

    def open(self, given: Given) -> Collector:
        """Return the collector; raises `StartError` with a fix if it cannot work at all."""
        ...

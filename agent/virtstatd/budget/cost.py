"""
What the polling costs the host: CPU time of the agent, of libvirtd, and of the guests' QEMUs.

All that the agent uses is ours, sinks and scrapes included. Of libvirtd and the QEMUs it is what
they use while a call of ours is in flight, less what they use at other times in as long a time:
libvirtd serves others too, and a QEMU's main loop serves its guest. So what others happen to ask in
the very same moments counts as ours, and what libvirtd tidies up after it has answered does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from virtstatd.budget.processes import CpuClock, ProcessTimes
from virtstatd.collector import Up
from virtstatd.hypervisor.lanes import Lanes, Open, Session


BACKGROUND_SECONDS: Final = 30.0
"""Over how long a time it is seen what libvirtd and the QEMUs use without us."""

LOOK_SECONDS: Final = 2.0
"""After how long a clock is read at the end of any call, though others are still in flight."""

T = TypeVar("T")


class _Watch:
    """The processes of one kind: what they use while calls of ours ask them, and at other times."""

    def __init__(self, of: str, clock: CpuClock, all_of: Callable[[], int], now: float) -> None:
        self.of = of
        self.clock = clock
        self.calls = 0
        self.spent = 0.0
        self.at = now
        self._all_of = all_of
        self._reading = threading.Lock()
        self._times: ProcessTimes = {}
        self._background = 0.0

    def look(self, clock: Callable[[], float], *, ours: bool) -> float:
        """
        Read the clock; return the CPU seconds that calls of ours took since the last time.

        While another thread reads it, which the kernel may hold up, that is left to the next look.
        """
        if not self._reading.acquire(blocking=False):
            return 0.0
        try:
            return self._look(clock(), ours=ours)
        finally:
            self._reading.release()

    def close(self) -> None:
        """Let go of what is read, for good; a thread that reads keeps it."""
        if self._reading.acquire(blocking=False):
            self.clock.close()

    def _look(self, now: float, *, ours: bool) -> float:
        before, self._times = self._times, self.clock.times()
        seconds, self.at = now - self.at, now
        both = before.keys() & self._times.keys()
        if not both:
            return 0.0
        used = sum(self._times[pid] - before[pid] for pid in both)
        used *= max(1.0, self._all_of() / len(both))
        if ours:
            spent = max(0.0, used - self._background * seconds)
            self.spent += spent
            return spent
        if seconds > 0:
            weight = min(1.0, seconds / BACKGROUND_SECONDS)
            self._background += weight * (used / seconds - self._background)
        return 0.0


class Meter:
    """
    Adds up what the polling costs: `with meter.asking(…):` around every call to libvirt.

    Calls side by side are one stretch of time, from the first one's begin to the last one's end.
    The lanes' threads read the clocks, at the begin and the end of their calls, and hold no lock
    meanwhile: `spent` returns what is known, at once.
    """

    def __init__(
        self,
        daemon: CpuClock,
        qemus: CpuClock,
        guests: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        now = clock()
        self._daemon = _Watch("libvirtd", daemon, lambda: 1, now)
        self._watches = (self._daemon, _Watch("qemu", qemus, guests, now))
        self._clock = clock
        self._own = own
        self._lock = threading.Lock()
        self._own_at = self._began = own()
        self._asked = 0.0
        self._blind: dict[str, str] = {}

    @contextmanager
    def asking(self, *, monitors: bool) -> Iterator[None]:
        """
        Meter a call.

        A call that does not ask `monitors` costs QEMUs nothing: it is often cheaper than reading
        their clocks, which is then left out.
        """
        asked = self._watches if monitors else (self._daemon,)
        with self._lock:
            first = [watch for watch in asked if not watch.calls]
            if self._daemon in first:  # every call asks it
                self._own_at = self._own()
            for watch in asked:
                watch.calls += 1
        self._look(first, ours=False)
        try:
            yield
        finally:
            now = self._clock()
            with self._lock:
                due = [w for w in asked if w.calls == 1 or now - w.at >= LOOK_SECONDS]
            spent = self._look(due, ours=True)
            with self._lock:
                if self._daemon in due:
                    before, self._own_at = self._own_at, self._own()
                    spent += self._own_at - before
                self._asked += spent
                for watch in asked:
                    watch.calls -= 1

    @property
    def blind(self) -> Mapping[str, str]:
        """What could not be seen while calls were in flight, and why."""
        return self._blind

    def spent(self) -> dict[str, float]:
        """Return the CPU seconds since the start, by process, as last read; never wait."""
        watched = {watch.of: watch.spent for watch in self._watches}
        return {"agent": self._own() - self._began, **watched}

    def asked(self) -> float:
        """Return the CPU seconds of all, the agent's own too, while calls were in flight."""
        return self._asked

    def close(self) -> None:
        """Let go of what is read; calls that return later are no longer metered."""
        for watch in self._watches:
            watch.close()

    def _look(self, watches: Sequence[_Watch], *, ours: bool) -> float:
        """Return what calls of ours spent since the last look at these."""
        spent = 0.0
        for watch in watches:
            spent += watch.look(self._clock, ours=ours)
            if watch.clock.blind:
                self._blind = {**self._blind, watch.of: watch.clock.blind}
        return spent


class MeteredLanes(Lanes):
    """Lanes whose calls are metered on their own threads, abandoned ones until they return."""

    def __init__(self, open_session: Open, width: int, meter: Meter, up: Up | None = None) -> None:
        super().__init__(open_session, width, up)
        self._meter = meter

    async def run(
        self,
        function: Callable[[Session], T],
        seconds: float,
        *,
        monitor: bool = False,
        patient: bool = False,
        proven: bool = False,
    ) -> T:
        """Run `function` as `Lanes.run` does, and meter it."""

        def metered(session: Session) -> T:
            with self._meter.asking(monitors=monitor and not patient):
                return function(session)

        return await super().run(metered, seconds, monitor=monitor, patient=patient, proven=proven)

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
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, TypeVar

from virtstatd.hypervisor.lanes import Lanes, Open, Session
from virtstatd.polling.processes import Clock, Times


BACKGROUND_SECONDS: Final = 30.0
"""Over how long a time it is seen what libvirtd and the QEMUs use without us."""

T = TypeVar("T")


class Meter:
    """
    Adds up what the polling costs: `with meter:` around every call to libvirt.

    Calls side by side are one stretch of time, from the first one's begin to the last one's end.
    Used by the lanes' threads and the loop alike.
    """

    def __init__(
        self,
        daemon: Clock,
        qemus: Clock,
        guests: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        self._clocks: dict[str, Clock] = {"libvirtd": daemon, "qemu": qemus}
        self._guests = guests
        self._clock = clock
        self._own = own
        self._lock = threading.Lock()
        self._calls = 0
        self._at = clock()
        self._own_at = self._began = own()
        self._times: dict[str, Times] = {"libvirtd": {}, "qemu": {}}
        self._background = {"libvirtd": 0.0, "qemu": 0.0}
        self._asked = 0.0
        self._spent = {"libvirtd": 0.0, "qemu": 0.0}
        self._blind: dict[str, str] = {}

    def __enter__(self) -> None:
        with self._lock:
            if not self._calls:
                self._look(asking=False)
            self._calls += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._calls -= 1
            if not self._calls:
                self._look(asking=True)

    @property
    def blind(self) -> Mapping[str, str]:
        """What could not be seen while calls were in flight, and why."""
        return self._blind

    def spent(self) -> dict[str, float]:
        """Return the CPU seconds since the start, by whom; a call in flight counts up to now."""
        with self._lock:
            if self._calls:
                self._look(asking=True)
            return {"agent": self._own() - self._began, **self._spent}

    def asked(self) -> float:
        """Return the CPU seconds of everybody, the agent's own too, while calls were in flight."""
        with self._lock:
            return self._asked

    def close(self) -> None:
        """Let go of what is read; calls that return later are no longer metered."""
        with self._lock:
            for clock in self._clocks.values():
                clock.close()
            self._clocks.clear()

    def _look(self, *, asking: bool) -> None:
        """Read all clocks; the time since the last look was spent on calls of ours, or not."""
        now, own = self._clock(), self._own()
        seconds = now - self._at
        if asking:
            self._asked += own - self._own_at
        for of, clock in self._clocks.items():
            before, after = self._times[of], clock.times()
            self._times[of] = after
            both = before.keys() & after.keys()
            if both:
                used = sum(after[pid] - before[pid] for pid in both)
                if of == "qemu":
                    used *= max(1.0, self._guests() / len(both))
                self._account(of, used, seconds, asking=asking)
            elif asking and clock.blind:
                self._blind[of] = clock.blind
        self._at, self._own_at = now, own

    def _account(self, of: str, used: float, seconds: float, *, asking: bool) -> None:
        if asking:
            ours = max(0.0, used - self._background[of] * seconds)
            self._spent[of] += ours
            self._asked += ours
        elif seconds > 0:
            rate, weight = used / seconds, min(1.0, seconds / BACKGROUND_SECONDS)
            self._background[of] += weight * (rate - self._background[of])


class MeteredLanes(Lanes):
    """Lanes whose calls are metered on their own threads, abandoned ones until they return."""

    def __init__(self, open_session: Open, width: int, meter: Meter) -> None:
        super().__init__(open_session, width)
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
            with self._meter:
                return function(session)

        return await super().run(metered, seconds, monitor=monitor, patient=patient, proven=proven)

"""
Events of domains on their way from libvirt's callbacks to the agent's loop, in bounded numbers.

A guest may cause ten thousand events in a second. So equal ones are counted where they arrive, on
whichever thread that is, and passed on a few times a second with their number. What differs and is
too much for that is passed on without its values, as a number of events of a kind of a guest.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final


EVENTS: Final = {
    0: "lifecycle",
    1: "reboot",
    2: "rtc_change",
    3: "watchdog",
    5: "graphics",
    6: "io_error",
    7: "control_error",
    9: "disk_change",
    10: "tray_change",
    11: "pm_wakeup",
    12: "pm_suspend",
    13: "balloon_change",
    14: "pm_suspend_disk",
    15: "device_removed",
    16: "block_job",
    17: "tunable",
    18: "agent_lifecycle",
    19: "device_added",
    20: "migration_iteration",
    21: "job_completed",
    22: "device_removal_failed",
    23: "metadata_change",
    24: "block_threshold",
    25: "memory_failure",
    26: "memory_device_size_change",
    27: "nic_mac_change",
    28: "vcpu_removed",
    29: "channel_lifecycle",
}
"""
By number: the binding has only the names in the headers that it was built with.

4 and 8 are missing: libvirt sends each I/O error and each change of a block job twice, as 6 and 16
with more in them.
"""

NUMBERS: Final = (*EVENTS, *range(max(EVENTS) + 1, 40))
"""What is registered: events that come with a later libvirt are counted by their number."""

DEFINED, UNDEFINED, STARTED, STOPPED = 0, 1, 2, 5
"""Of virDomainEventType, the ones whose order matters."""

PACE_SECONDS: Final = 0.2
"""Equal events within this time are passed on together; the first one is passed on at once."""

DIFFERENT_MAX: Final = 400
KIND_MAX: Final = 10
"""So many events that differ are passed on at a time, in all and of one kind of one guest."""


def event_name(number: int) -> str:
    """Return what an event is called; one that is not known by its number."""
    return EVENTS.get(number, f"event_{number}")


@dataclass(slots=True, eq=False)
class Arrival:
    """
    An event of a domain that came `count` times with the same `values`.

    There are no values where too many came that differed.

    `number` is the domain's number, below 1 if it does not run. `at` is the Unix time in
    nanoseconds at which it came last.
    """

    name: str
    uuid: str
    domain: str
    number: int
    values: tuple[Any, ...]
    at: int
    count: int = 1


_ORDERED: Final = {(each,) for each in (DEFINED, UNDEFINED, STARTED, STOPPED)}


class Arrivals:
    """
    Collect events on any thread, and pass them to `take` on the loop.

    What starts or ends a domain is passed on at once, with everything before it, in its order.
    `received` counts all by name, `crowded` those that are only in it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[Arrival], None],
        received: Counter[str],
        crowded: Counter[str],
    ) -> None:
        self._loop = loop
        self._take = take
        self._received = received
        self._crowded = crowded
        self._lock = threading.Lock()
        self._waiting: dict[object, Arrival] = {}
        self._of: Counter[tuple[str, str]] = Counter()
        self._woken = False
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(
        self,
        name: str,
        uuid: str,
        known: Callable[[], tuple[str, int]],
        values: tuple[Any, ...],
    ) -> None:
        """
        Take over an event; never waits, whatever the thread.

        `known` returns name and number of the domain; it is called for what differs alone, since an
        event that is equal to one before must cost next to nothing.
        """
        ordered = name == "lifecycle" and values[:1] in _ORDERED
        # some values are dicts; a repr that is equal is good enough for equal events
        key: object = object() if ordered else (name, uuid, repr(values))
        at = time.time_ns()
        with self._lock:
            self._received[name] += 1
            if key not in self._waiting and not ordered:
                self._of[name, uuid] += 1
                if self._of[name, uuid] > KIND_MAX:
                    key, values = (name, uuid), ()
            if waiting := self._waiting.get(key):
                waiting.count += 1
                waiting.at = at
                return
            if not ordered and len(self._waiting) >= DIFFERENT_MAX:
                self._crowded[name] += 1
                return
            self._waiting[key] = Arrival(name, uuid, *known(), values, at)
            if self._woken and not ordered:
                return
            self._woken = True
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            self._loop.call_soon_threadsafe(self._due, ordered)

    def _due(self, at_once: bool) -> None:  # noqa: FBT001 - called by the loop
        if at_once or self._loop.time() >= self._next:
            self.pass_on()
        elif self._timer is None:
            self._timer = self._loop.call_at(self._next, self.pass_on)

    def pass_on(self) -> None:
        """Pass on what has come; on the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            taken, self._waiting = self._waiting, {}
            self._of.clear()
            self._woken = False
        self._next = self._loop.time() + PACE_SECONDS
        for arrival in taken.values():
            self._take(arrival)

"""Events on their way from libvirt's threads to the loop."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import cast

from virtstatd.hypervisor.arrivals import (
    DIFFERENT_MAX,
    KIND_MAX,
    STARTED,
    STOPPED,
    Arrival,
    Arrivals,
    event_name,
)
from virtstatd.testing.clock import settle


class StoppedLoop:
    """The running loop with a time that stands still: what is due later does not come by itself."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.call_soon_threadsafe = self.loop.call_soon_threadsafe

    def time(self) -> float:
        """Return always the same."""
        return 0.0

    def call_at(self, _: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        """Return a timer that a test does not live to see."""
        return self.loop.call_later(3600, call)


class Ways:
    """Arrivals, and what they pass on."""

    def __init__(self, loop: object = None) -> None:
        self.taken: list[Arrival] = []
        self.received: Counter[str] = Counter()
        self.crowded: Counter[str] = Counter()
        chosen = cast("asyncio.AbstractEventLoop", loop or asyncio.get_running_loop())
        self.arrivals = Arrivals(chosen, self.taken.append, self.received, self.crowded)

    def put(self, name: str, *values: object, guest: int = 0) -> None:
        """Have an event come."""
        self.arrivals.put(name, f"uuid-{guest}", lambda: (f"vm-{guest}", guest + 1), values)


async def test_the_first_is_passed_on_at_once_and_equal_ones_together():
    """Ten thousand equal events are one call with their number, and none is lost."""
    ways = Ways(StoppedLoop())
    ways.put("io_error", "/disk", "virtio-disk0", 2, "")
    await settle()
    assert [each.count for each in ways.taken] == [1]
    for _ in range(10_000):
        ways.put("io_error", "/disk", "virtio-disk0", 2, "")
        ways.put("tunable", {"a": 1})
    await settle()
    assert len(ways.taken) == 1, "the pace is kept"
    ways.arrivals.pass_on()
    assert [(each.name, each.count) for each in ways.taken[1:]] == [
        ("io_error", 10_000),
        ("tunable", 10_000),
    ]
    assert ways.received == {"io_error": 10_001, "tunable": 10_000}
    assert not ways.crowded


async def test_starts_and_ends_keep_their_order_and_wait_for_nothing():
    """A domain that starts and ends again and again does so in the same order, at once."""
    ways = Ways()
    ways.put("reboot")
    await settle()
    ways.put("reboot")
    for _ in range(3):
        ways.put("lifecycle", STARTED, 0)
        ways.put("lifecycle", STOPPED, 0)
    await settle()
    assert [each.values for each in ways.taken[1:]] == [(), *[(STARTED, 0), (STOPPED, 0)] * 3]


async def test_different_ones_are_limited_and_counted():
    """Where all events of a guest differ some keep their values, and none of them is lost."""
    ways = Ways()
    for value in range(1000):
        ways.put("rtc_change", value)
    ways.put("watchdog", 2)
    ways.put("rtc_change", 0, guest=1)
    ways.arrivals.pass_on()
    *several, rest, other, another = [(each.name, each.values, each.count) for each in ways.taken]
    assert several == [("rtc_change", (value,), 1) for value in range(KIND_MAX)]
    assert rest == ("rtc_change", (), 1000 - KIND_MAX)
    assert (other, another) == (("watchdog", (2,), 1), ("rtc_change", (0,), 1))


async def test_too_many_guests_at_once_are_counted_by_kind():
    """What finds no room at all is counted; a domain that ends does so in any case."""
    ways = Ways()
    for guest in range(2000):
        ways.put("balloon_change", guest, guest=guest)
    ways.put("lifecycle", STOPPED, 0)
    ways.arrivals.pass_on()
    assert len(ways.taken) == DIFFERENT_MAX + 1
    assert ways.taken[-1].name == "lifecycle"
    assert ways.crowded == {"balloon_change": 2000 - DIFFERENT_MAX}


async def test_several_threads():
    """Events that come on other threads are all passed on."""
    ways = Ways()

    def several(guest: int) -> None:
        for _ in range(500):
            ways.put("reboot", guest=guest)

    threads = [threading.Thread(target=several, args=(n,)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        await asyncio.to_thread(each.join)
    ways.arrivals.pass_on()
    assert sum(each.count for each in ways.taken) == ways.received["reboot"] == 2000


def test_a_number_of_a_later_libvirt_is_a_name():
    """An event that has no name yet is called by its number."""
    assert (event_name(3), event_name(37)) == ("watchdog", "event_37")

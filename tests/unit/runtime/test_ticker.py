"""When polls are due."""

import asyncio

import pytest

from virtstatd.runtime.ticker import Ticker, ticks


class Clock:
    """A clock that each look moves on by what the test says next."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def __call__(self) -> float:
        """Tell the time."""
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


def test_a_deadline_that_came_is_followed_by_the_next():
    """A ticker that is served in time skips nothing and keeps to its grid."""
    ticker = Ticker("pulse", 5.0, 100.0)
    for now in (100.0, 105.01, 110.3):
        ticker.advance(now)

    assert (ticker.ticks, ticker.skipped, ticker.due) == (3, 0, 115.0)


@pytest.mark.parametrize(("late", "skipped"), [(4.99, 0), (5.0, 1), (12.0, 2), (3600.0, 720)])
def test_late_deadlines_are_counted_and_never_made_up_for(late: float, skipped: int):
    """However late, one tick is taken, the rest are counted, and the next lies ahead."""
    ticker = Ticker("pulse", 5.0, 100.0)
    ticker.advance(100.0 + late)

    assert (ticker.ticks, ticker.skipped) == (1, skipped)
    assert 100.0 + late < ticker.due <= 105.0 + late


async def test_deadlines_that_fall_together_are_yielded_together():
    """Intervals that are multiples of each other meet on one tick, so one call serves both."""
    pulse, monitor = Ticker("pulse", 5.0, 100.0), Ticker("monitor", 15.0, 100.0)
    stop, nudge = asyncio.Event(), asyncio.Event()
    clock = Clock(100.0, 105.0, 105.0, 110.0, 110.0, 115.0, 115.0)
    seen = []
    async for due in ticks([pulse, monitor], stop, nudge, clock):
        seen.append([ticker.name for ticker in due])
        if len(seen) == 4:
            stop.set()

    assert seen == [["pulse", "monitor"], ["pulse"], ["pulse"], ["pulse", "monitor"]]


async def test_a_nudge_makes_everything_due_at_once():
    """When libvirt is back nobody waits for the rest of an interval."""
    tickers = [Ticker("pulse", 5.0, 100.0), Ticker("extra", 60.0, 100.0)]
    stop, nudge = asyncio.Event(), asyncio.Event()
    seen = []
    async for due in ticks(tickers, stop, nudge, Clock(100.0)):
        seen.append([ticker.name for ticker in due])
        if len(seen) == 2:
            stop.set()
        nudge.set()

    assert seen == [["pulse", "extra"]] * 2


async def test_a_stop_ends_the_wait():
    """A stop is heeded while the next deadline lies far ahead."""
    stop, nudge = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(stop.set))
    seen = [due async for due in ticks([Ticker("p", 3600.0, 0.0)], stop, nudge, Clock(0.0))]

    assert len(seen) == 1


def test_a_stretched_interval_begins_after_the_deadline_that_was_promised():
    """The next poll comes when it was due, those after it at the longer interval, on the grid."""
    ticker = Ticker("monitor", 15.0, 100.0)
    ticker.advance(100.0)
    ticker.stretch(4, 107.0)
    assert (ticker.seconds, ticker.configured, ticker.due) == (60.0, 15.0, 115.0)
    ticker.advance(115.0)
    assert (ticker.due, ticker.skipped) == (175.0, 0)


@pytest.mark.parametrize(("now", "due"), [(116.0, 130.0), (131.0, 145.0), (399.0, 400.0)])
def test_an_interval_that_shrinks_brings_its_deadline_forward(now: float, due: float):
    """Not into the past, and no deadline that never was is counted as skipped."""
    ticker = Ticker("monitor", 15.0, 100.0)
    ticker.stretch(20, 100.0)
    ticker.advance(100.0)
    ticker.stretch(1, now)
    assert ticker.due == due
    ticker.advance(due)
    assert (ticker.due, ticker.skipped) == (due + 15, 0)


@pytest.mark.parametrize(
    ("moment", "due"), [(400.0, 400.0), (399.0, 385.0), (385.0, 370.0), (99.0, 100.0)]
)
def test_a_deadline_comes_before_what_it_must_not_miss(moment: float, due: float):
    """It stays on the grid of the configured interval, and is never moved back."""
    ticker = Ticker("monitor", 15.0, 100.0)
    ticker.stretch(20, 100.0)
    ticker.advance(100.0)
    ticker.before(moment)
    assert ticker.due == due


async def test_a_deadline_brought_forward_is_kept_though_all_are_far_ahead():
    """The wait ends after a configured interval, whatever the stretched one is."""
    ticker = Ticker("monitor", 0.01, 0.0)
    ticker.advance(0.0)
    ticker.due = 3600.0
    stop, nudge = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().call_soon(lambda: setattr(ticker, "due", 1.0))
    async for due in ticks([ticker], stop, nudge, Clock(0.0, 0.0, 1.0)):
        assert due == [ticker]
        stop.set()

"""The search for what makes a destination refuse a whole request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Buffer, Tally
from virtstatd.pipeline.outlet import Outlet
from virtstatd.pipeline.pieces import UnitKey, keys_of
from virtstatd.pipeline.retry import FRUITLESS_SECONDS, POISON_SECONDS, TRIAL_SECONDS
from virtstatd.pipeline.search import SEARCH_REQUESTS
from virtstatd.sink import Rejected, Trains, TryLater
from virtstatd.testing import make_batch, make_shapes
from virtstatd.testing.clock import FakeClock


SHAPES = make_shapes()
GUESTS = 25


class Receiver:
    """Takes a request whole or not at all, as Prometheus does, and not some series."""

    def __init__(self) -> None:
        self.bad: set[UnitKey] = set()
        self.got: list[Batch] = []
        self.requests = 0
        self.away_at: int | None = None
        self.clock = FakeClock(0.0)
        self.outlet = Outlet(
            "test",
            self.send,
            structlog.get_logger(),
            self.clock,
            Buffer(1 << 30),
            attempt_seconds=3600.0,
            max_age_seconds=1e12,
            trains=Trains(100_000),
            sleep=self.clock.sleep,
        )

    async def send(self, *batches: Batch) -> None:
        """Take or refuse all of it."""
        self.requests += 1
        if self.requests == self.away_at:
            raise TryLater("away", 0.0)
        if any(self.bad & set(keys_of(batch)) for batch in batches):
            raise Rejected("400: out of order sample", atomic=True)
        self.got += batches

    async def offer(self, *batches: Batch) -> int:
        """Offer batches at once, and wait until none is left; return how many requests it took."""
        before = self.requests
        for batch in batches:
            self.outlet.offer(batch)
        while self.outlet.waiting.batches:
            await self.clock.advance(0.25)
            one = self.outlet
            away = sum([*one.dropped.values(), *one.lost.values()], Tally())
            assert one.accepted == one.delivered + away + one.waiting
        return self.requests - before

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return sum(batch.samples for batch in self.got)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run an outlet in front of a receiver."""
    one = Receiver()
    async with asyncio.timeout(100):
        running = asyncio.create_task(one.outlet.run())
        try:
            yield one
        finally:
            one.outlet.close()
            while not running.done():
                await one.clock.advance(1.0)
            await running


def batch(taken_at: int = 1, guests: int = GUESTS) -> Batch:
    """Return a batch of 725 samples."""
    return make_batch(guests, shapes=SHAPES, taken_at=taken_at)


@pytest.mark.parametrize("at", [0, 1, 100, 301, 424])
async def test_one_series_ahead_of_us_costs_that_series_alone(at: int):
    """Of a request with a bad series all others arrive, within 16 more requests; it is named."""
    async with receiving() as one:
        first = batch()
        assert first.samples == 725
        bad = list(keys_of(first))[at]
        one.bad = {bad}
        with capture_logs() as logs:
            assert await one.offer(first) <= 1 + SEARCH_REQUESTS
            lost = one.outlet.lost["poison"].samples
            assert lost == 725 - one.samples
            assert lost in (1, 6)  # a histogram is one thing
            # it is known now, and costs no request
            assert await one.offer(batch(2)) == 1
            assert one.samples == 2 * (725 - lost)
        (entry,) = logs
        assert entry["event"] == "sink.poisoned"
        assert (entry["uuid"], entry["series"]) == (bad[0], bad[1].field.family)
        assert entry["reason"] == "400: out of order sample"


async def test_a_series_that_is_bad_in_every_batch_of_a_train_is_found_once():
    """Found in one batch, it is cut off from the others that were refused with it."""
    async with receiving() as one:
        train = [batch(number) for number in range(8)]
        one.bad = {list(keys_of(train[0]))[77]}
        with capture_logs() as logs:
            assert await one.offer(*train) <= 2 + 2 * SEARCH_REQUESTS
        assert one.samples >= 8 * (725 - 6)
        assert [each["event"] for each in logs] == ["sink.poisoned"]
        assert [b.taken_at for b in one.got] == sorted(b.taken_at for b in one.got)


async def test_a_guest_of_which_all_is_bad_takes_no_other_with_it():
    """A guest that another agent writes as well is lost within the bound, the others never."""
    async with receiving() as one:
        first = batch()
        uuid = next(iter(keys_of(first)))[0]
        one.bad = {key for key in keys_of(first) if key[0] == uuid}
        for taken_at in range(1, 6):
            assert await one.offer(batch(taken_at)) <= 1 + SEARCH_REQUESTS
        assert one.samples == 5 * (725 - 29)


async def test_what_is_refused_no_longer_is_sent_again():
    """A series that was refused is tried each minute, and is back as soon as it is accepted."""
    async with receiving() as one:
        one.bad = {next(keys_of(batch()))}
        await one.offer(batch())
        one.bad.clear()
        await one.offer(batch(2))
        assert one.samples == 2 * 724
        await one.clock.advance(TRIAL_SECONDS)
        await one.offer(batch(3))
        await one.offer(batch(4))
        assert one.samples == 2 * 724 + 2 * 725


async def test_a_destination_that_refuses_everything_is_not_searched_each_time():
    """A receiver that answers 400 to whatever comes gets one request a train, and few searches."""
    async with receiving() as one:
        one.bad = set(keys_of(batch()))
        with capture_logs() as logs:
            begun = one.clock.now
            for taken_at in range(100):
                await one.offer(batch(taken_at))
            searches = 1 + (one.clock.now - begun) / FRUITLESS_SECONDS
            assert one.requests <= 100 + searches * SEARCH_REQUESTS
            assert one.samples == 0
            one.bad.clear()
            await one.clock.advance(POISON_SECONDS)
            await one.offer(batch(101))
            assert one.samples == 725
        events = [each["event"] for each in logs]
        assert events.count("sink.failing") == events.count("sink.recovered") == 1


async def test_a_destination_that_goes_away_ends_the_search_and_loses_nothing():
    """What is neither found nor delivered when the destination goes away is sent afterwards."""
    for away_at in range(2, 14):
        async with receiving() as one:
            one.bad = {next(keys_of(batch()))}
            one.away_at = away_at
            await one.offer(batch())
            assert one.samples == 724


@given(st.sets(st.integers(0, 424), max_size=6), st.integers(1, 3), st.integers(1, GUESTS))
def test_whatever_is_bad_the_requests_are_bounded_and_the_good_guests_arrive(
    places: set[int], trains: int, guests: int
):
    """No search needs more requests than it may; guests beside one bad guest are delivered."""

    async def run() -> None:
        async with receiving() as one:
            keys = list(keys_of(batch(guests=guests)))
            one.bad = {keys[at] for at in places if at < len(keys)}
            owners = {uuid for uuid, _ in one.bad}
            for taken_at in range(1, trains + 1):
                assert await one.offer(batch(taken_at, guests)) <= 1 + SEARCH_REQUESTS
            if len(owners) <= 1:
                assert one.samples >= (guests - len(owners)) * 29 * trains
            assert not any(one.bad & set(keys_of(each)) for each in one.got)

    asyncio.run(run())

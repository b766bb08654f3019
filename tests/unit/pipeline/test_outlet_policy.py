"""What an outlet does when a destination says no, in time that is made up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import structlog
from structlog.testing import capture_logs

from virtstatd.model import Batch
from virtstatd.pipeline.buffer import Buffer, Tally
from virtstatd.pipeline.outlet import LAG_BUCKETS, Outlet
from virtstatd.pipeline.pieces import UnitKey, keys_of
from virtstatd.sink import Delivery, Denied, Rejected, TooLarge, TryLater
from virtstatd.testing import make_batch, make_shapes
from virtstatd.testing.clock import FakeClock


START = 1_700_000_000
LOG = structlog.get_logger()


class World:
    """An outlet, its destination, and the time of both."""

    def __init__(self, judge: Callable[[Batch], None], max_age: float, delivery: Delivery) -> None:
        self.clock = FakeClock(0.0)
        self.step = 0.0
        self.got: list[Batch] = []
        self.tried: list[tuple[float, Batch]] = []
        self._judge = judge
        self._shapes = make_shapes()
        self.outlet = Outlet(
            "test",
            self.send,
            LOG,
            self.clock,
            Buffer(1 << 30),
            attempt_seconds=60.0,
            max_age_seconds=max_age,
            delivery=delivery,
            wall=self.wall,
            sleep=self.clock.sleep,
        )

    def wall(self) -> int:
        """Return Unix time."""
        return int((START + self.clock.now + self.step) * 1e9)

    async def send(self, batch: Batch) -> None:
        """Take a batch, or do what the judge says."""
        self.tried.append((self.clock.now, batch))
        self._judge(batch)
        self.got.append(batch)

    def offer(self, domains: int = 3) -> Batch:
        """Offer a batch that is taken now."""
        batch = make_batch(domains, shapes=self._shapes, taken_at=self.wall())
        self.outlet.offer(batch)
        return batch

    async def until(self, what: Callable[[], object], seconds: float = 100_000.0) -> float:
        """Let time pass until something is so; return when."""
        end = self.clock.now + seconds
        while not what():
            assert self.clock.now < end, "did not come to be"
            self.balanced()
            await self.clock.advance(0.25)
        return self.clock.now

    async def elapse(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            await self.clock.advance(0.0)
            self.balanced()
            await self.clock.advance(min(50.0, end - self.clock.now))

    async def idle(self) -> float:
        """Let time pass until nothing waits."""
        return await self.until(lambda: not self.outlet.waiting.batches)

    def balanced(self) -> None:
        """Hold the outlet to its equation."""
        one = self.outlet
        away = sum([*one.dropped.values(), *one.lost.values()], Tally())
        assert one.accepted == one.delivered + away + one.waiting

    def keys(self) -> set[UnitKey]:
        """Return the units that the destination has."""
        return {key for batch in self.got for key in keys_of(batch)}


@asynccontextmanager
async def world(
    judge: Callable[[Batch], None], max_age: float = 1e6, delivery: Delivery = "memory"
) -> AsyncIterator[World]:
    """Run an outlet; all of its bounds hold in the end."""
    one = World(judge, max_age, delivery)
    async with asyncio.timeout(100):
        running = asyncio.create_task(one.outlet.run())
        try:
            yield one
        finally:
            one.outlet.close()
            await one.until(running.done)
            await running
    one.balanced()


class Picky:
    """Answers with an error whenever any of some series is in it."""

    def __init__(self, error: Exception) -> None:
        self.bad: set[UnitKey] = set()
        self.error = error

    def __call__(self, batch: Batch) -> None:
        """Judge a batch."""
        if self.bad & set(keys_of(batch)):
            raise self.error


async def test_one_bad_series_is_found_and_lost_alone():
    """After five minutes of answered failures the one series is lost, all others arrive."""
    picky = Picky(TryLater("500", answered=True))
    with capture_logs() as logs:
        async with world(picky) as one:
            batch = one.offer(20)
            bad = list(keys_of(batch))[321]
            picky.bad = {bad}
            took = await one.idle()
            tries = len(one.tried)
            assert 300 <= took <= 360
            assert one.keys() == set(keys_of(batch)) - {bad}
            assert one.outlet.lost["poison"] == Tally(0, 1, one.outlet.lost["poison"].bytes)
            assert one.outlet.delivered.batches == 1

            later = one.clock.now
            for _ in range(50):  # it is known now: no batch waits for it
                one.offer(20)
                await one.clock.advance(0.25)
            assert await one.idle() - later < 50
            assert len(one.tried) - tries == 50
            assert one.outlet.lost["poison"].samples == 51

            picky.bad.clear()
            await one.elapse(60)
            one.offer(20)
            await one.idle()
            one.offer(20)
            await one.idle()
            assert set(keys_of(one.got[-1])) == set(keys_of(batch))
    assert [each["event"] for each in logs].count("sink.poisoned") == 1
    assert len(logs) < 5


async def test_a_second_bad_series_is_found_without_waiting_again():
    """Where poison was found an hour ago at most, the next is looked for at the first failure."""
    picky = Picky(TryLater("500", answered=True))
    async with world(picky) as one:
        keys = list(keys_of(one.offer(4)))
        picky.bad = {keys[5]}
        await one.idle()
        picky.bad.add(keys[50])
        one.offer(4)
        begun = one.clock.now
        assert await one.idle() - begun < 60
        assert one.outlet.lost["poison"].samples == 3


async def test_a_destination_that_fails_at_everything_costs_nothing_but_time():
    """While nothing gets through, no series is to blame: an hour of 500 loses nothing."""
    away = True

    def judge(_: Batch) -> None:
        if away:
            raise TryLater("500", answered=True)

    async with world(judge) as one:
        batches = [one.offer(8) for _ in range(3)]
        await one.elapse(3600)
        assert 100 < len(one.tried) < 600
        away = False
        await one.idle()
        assert one.outlet.delivered.samples == sum(batch.samples for batch in batches)


async def test_refused_connections_never_make_a_batch_suspect():
    """What the destination did not answer says nothing about the batch: it is never cut."""
    away = True

    def judge(_: Batch) -> None:
        if away:
            raise TryLater("connection refused")

    async with world(judge) as one:
        batch = one.offer(8)
        await one.elapse(3600)
        away = False
        await one.idle()
        assert one.got == [batch]


async def test_too_large_is_cut_until_it_fits():
    """A destination that takes 20 samples at once gets all, in order, none more than once."""

    def judge(batch: Batch) -> None:
        if batch.samples > 20:
            raise TooLarge("413")

    async with world(judge) as one:
        batch = one.offer(9)
        await one.idle()
        keys = [key for piece in one.got for key in keys_of(piece)]
        assert keys == list(keys_of(batch))
        assert one.outlet.delivered == Tally(1, batch.samples, batch.bytes)


async def test_a_series_that_is_too_large_by_itself_is_lost():
    """Cutting ends at one series: that one is lost as rejected, the rest is delivered."""
    picky = Picky(TooLarge("413"))
    async with world(picky) as one:
        batch = one.offer(5)
        picky.bad = {list(keys_of(batch))[17]}
        await one.idle()
        assert one.outlet.lost["rejected"].samples == 1
        assert one.outlet.delivered.samples == batch.samples - 1


async def test_refused_credentials_cost_nothing_but_time():
    """While the destination denies, a batch is tried each 30 s, and all of them arrive at last."""
    denied = True

    def judge(_: Batch) -> None:
        if denied:
            raise Denied("401")

    with capture_logs() as logs:
        async with world(judge) as one:
            for _ in range(100):
                one.offer()
            await one.elapse(299)
            assert len(one.tried) == 10
            circuits = [one.outlet.circuit_open]
            assert all(b - a >= 30 for (a, _), (b, _) in pairwise(one.tried))
            denied = False
            await one.idle()
            circuits.append(one.outlet.circuit_open)
            assert circuits == [True, False]
            assert one.outlet.delivered.batches == 100
    assert [each["event"] for each in logs] == ["sink.denied", "sink.recovered"]


async def test_what_waited_for_credentials_on_disk_is_given_up_after_a_day():
    """With a spool, a token that is wrong for hours costs nothing; what is a day old is lost."""
    denied = True

    def judge(_: Batch) -> None:
        if denied:
            raise Denied("401")

    async with world(judge, max_age=900, delivery="spool") as one:
        one.offer()
        await one.elapse(4000)
        one.offer()
        await one.elapse(83_000)
        assert one.outlet.lost["expired"].batches == 1
        denied = False
        await one.idle()
        assert one.outlet.delivered.batches == 1


async def test_what_a_destination_denies_for_its_content_blocks_nothing_for_good():
    """One series that makes a destination answer 403 is found as one that makes it answer 500."""
    picky = Picky(Denied("403"))
    async with world(picky) as one:
        batch = one.offer(4)
        picky.bad = {list(keys_of(batch))[7]}
        assert await one.idle() < 4 * 3600
        assert one.outlet.lost["poison"].samples == 1
        assert one.outlet.delivered.samples == batch.samples - 1


async def test_an_open_circuit_sacrifices_nothing_at_the_end():
    """At the end, what waits behind refused credentials is not thrown at them."""

    def judge(_: Batch) -> None:
        raise Denied("403")

    async with world(judge) as one:
        for _ in range(10):
            one.offer()
        await one.until(lambda: one.outlet.circuit_open)
    assert len(one.tried) == 1
    assert one.outlet.lost["shutdown"].batches == 10


async def test_pauses_have_full_jitter_and_a_bound():
    """Pauses spread over all of what they may be, 0.5 s at first and 30 s in the end."""

    def judge(_: Batch) -> None:
        raise TryLater

    async with world(judge) as one:
        one.offer()
        await one.elapse(4_000)
        times = [at for at, _ in one.tried]
        pauses = [b - a for a, b in pairwise(times)]
    assert max(pauses[:1]) <= 0.5
    assert max(pauses) <= 30
    late = pauses[10:]
    assert 12 <= sum(late) / len(late) <= 18
    assert min(late) < 3
    assert max(late) > 27


async def test_a_destination_may_ask_for_patience_but_not_for_ever():
    """Retry-After is kept to, five minutes at most; what is no time is as if nothing was said."""
    asked: list[float | None] = [7.0, 1e9, float("nan"), -1.0, None]

    def judge(_: Batch) -> None:
        if asked:
            raise TryLater("429", asked.pop(0))

    async with world(judge) as one:
        one.offer()
        await one.idle()
        pauses = [b - a for (a, _), (b, _) in pairwise(one.tried)]
    assert pauses[:2] == [7.0, 300.0]
    assert all(pause <= 8 for pause in pauses[2:])


async def test_age_is_the_batch_s_own():
    """What was taken too long ago is given up without a try, the next is not."""
    async with world(lambda _: None, max_age=900) as one:
        one.outlet.offer(make_batch(taken_at=one.wall() - 901 * 10**9))
        one.outlet.offer(make_batch(taken_at=one.wall() - 899 * 10**9))
        await one.idle()
        assert len(one.tried) == 1
        assert one.outlet.lost["expired"].batches == 1


async def test_setting_the_clock_makes_no_batch_old():
    """A clock set forward or back by an hour expires nothing that waits, and nothing new."""
    for step in (3600.0, -3600.0):
        away = True

        def judge(_: Batch) -> None:
            if away:  # noqa: B023 - as it is now
                raise TryLater("away")

        async with world(judge, max_age=900) as one:
            one.offer()
            await one.elapse(60)
            one.step += step
            one.offer()
            await one.elapse(60)
            away = False
            await one.idle()
            assert one.outlet.delivered.batches == 2
            assert sum(one.outlet.lags[LAG_BUCKETS.index(300.0) + 1 :]) == 0


async def test_lag_is_counted_from_taken_to_delivered():
    """The histogram has every delivered batch, by the time since it was taken."""
    refusals = [TryLater("later", 50.0), Rejected("no")]

    def judge(_: Batch) -> None:
        if refusals:
            raise refusals.pop(0)

    async with world(judge) as one:
        one.offer()
        one.offer()
        await one.idle()
        assert [LAG_BUCKETS[at] for at, count in enumerate(one.outlet.lags) if count] == [100.0]
        assert 50 <= one.outlet.lag_seconds <= 52

"""Trains: how much a sink is handed at once, and that no order and no sample is lost by it."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from virtstatd.model import Batch, Domain
from virtstatd.pipeline.buffer import Buffer, Tally
from virtstatd.pipeline.delivery import Underway
from virtstatd.pipeline.outlet import LINGER_SECONDS, LOSSES, Outlet
from virtstatd.pipeline.pace import RequestSize
from virtstatd.pipeline.pieces import Splitter
from virtstatd.sink import Rejected, TooLarge, Trains, TryLater
from virtstatd.testing import make_batch, make_domain, make_shapes
from virtstatd.testing.clock import FakeClock


SHAPES = make_shapes()
UNIT = make_batch(1, shapes=SHAPES).samples
"""Samples of one guest."""

START = 1_700_000_000


class World:
    """An outlet with trains, a destination that takes a time to answer, and the time of both."""

    def __init__(self, trains: Trains, answer_seconds: float = 0.25, catch_up: int = 0) -> None:
        self.clock = FakeClock(0.0)
        self.answer_seconds = answer_seconds
        self.requests: list[tuple[float, tuple[Batch, ...]]] = []
        self.got: list[Batch] = []
        self.at_once = self.most_at_once = 0
        self.judge: Callable[[tuple[Batch, ...]], None] = lambda _: None
        self.outlet = Outlet(
            "test",
            self.send,
            structlog.get_logger(),
            self.clock,
            Buffer(1 << 30),
            attempt_seconds=3600.0,
            max_age_seconds=1e6,
            trains=trains,
            catch_up_bytes_per_second=catch_up,
            wall=self.wall,
            sleep=self.clock.sleep,
        )

    def wall(self) -> int:
        """Return Unix time."""
        return int((START + self.clock.now) * 1e9)

    async def send(self, *batches: Batch) -> None:
        """Take a train, as late as the destination answers."""
        self.requests.append((self.clock.now, batches))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.clock.sleep(self.answer_seconds)
            self.judge(batches)
            self.got += batches
        finally:
            self.at_once -= 1

    def offer(self, domains: int = 1, base: int = 0, lifetime: float = 20.0) -> Batch:
        """Offer a batch that is taken now."""
        batch = make_batch(
            domains,
            shapes=SHAPES,
            taken_at=self.wall(),
            base=base,
            lifetime_seconds=lifetime,
        )
        self.outlet.offer(batch)
        return batch

    async def pass_(self, seconds: float) -> None:
        """Let time pass in small steps, and hold the outlet to its equation at each."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            await self.clock.advance(min(0.05, end - self.clock.now))
            self.balanced()

    def balanced(self) -> None:
        """Require that accepted = delivered + dropped + lost + waiting."""
        one = self.outlet
        away = sum([*one.dropped.values(), *one.lost.values()], Tally())
        assert one.accepted == one.delivered + away + one.waiting


@asynccontextmanager
async def world(trains: Trains, **options: float) -> AsyncIterator[World]:
    """Run an outlet; it ends within a bound."""
    one = World(trains, **options)  # type: ignore[arg-type]
    async with asyncio.timeout(100):
        running = asyncio.create_task(one.outlet.run())
        try:
            yield one
        finally:
            one.outlet.close()
            while not running.done():
                await one.clock.advance(0.25)
            await running
    one.balanced()


def order_of(batches: list[Batch]) -> dict[str, list[int]]:
    """Return the times at which each guest's readings came, in their order."""
    times: dict[str, list[int]] = defaultdict(list)
    for batch in batches:
        for reading in batch.readings:
            times[f"{reading.domain and reading.domain.uuid} {reading.shape.group}"].append(
                batch.taken_at
            )
    return times


async def test_what_waits_goes_together():
    """Thirty batches a second arrive through answers of 250 ms, and nothing waits for long."""
    async with world(Trains(100 * UNIT)) as one:
        offered = []
        for _ in range(300):
            offered.append(one.offer(2))
            await one.pass_(1 / 30)
        await one.pass_(1)
        assert one.got == offered
        assert len(one.requests) <= 10 / 0.25 + 5
        assert sum(one.outlet.lags[5:]) == 0  # none took longer than a second


async def test_a_quiet_sink_lingers_for_a_moment_only():
    """The first batch waits for others as long as a moment; what is full goes at once."""
    async with world(Trains(10 * UNIT)) as one:
        await one.pass_(0.05)
        begun = one.clock.now
        first = [one.offer(1), one.offer(1)]
        await one.pass_(0.1)
        first.append(one.offer(1))
        await one.pass_(1)
        ((at, train),) = one.requests
        assert list(train) == first
        assert at - begun <= LINGER_SECONDS + 0.1
        begun = one.clock.now
        one.offer(9)
        one.offer(9)
        await one.pass_(0.05)
        assert one.requests[1][0] - begun < 0.06


async def test_a_sink_without_trains_gets_one_batch_at_a_time():
    """A sink of another package is called with one whole batch, whatever waits."""
    clock = FakeClock(0.0)
    calls: list[Batch] = []

    async def send(batch: Batch) -> None:
        calls.append(batch)

    one = Outlet(
        "plain",
        send,
        structlog.get_logger(),
        clock,
        Buffer(1 << 30),
        attempt_seconds=10.0,
        max_age_seconds=1e12,
        sleep=clock.sleep,
    )
    offered = [make_batch(200) for _ in range(5)]
    for each in offered:
        one.offer(each)
    one.close()
    await one.run()
    assert calls == offered


async def test_requests_are_filled_across_batches():
    """A batch larger than a request shares one with the next, cut between its guests."""
    async with world(Trains(10 * UNIT)) as one:
        offered = [one.offer(15), one.offer(15)]
        await one.pass_(5)
        assert [sum(b.samples for b in train) // UNIT for _, train in one.requests] == [10, 10, 10]
        assert sum(b.samples for b in one.got) == sum(b.samples for b in offered)
        assert all(times == sorted(times) for times in order_of(one.got).values())
        assert one.outlet.delivered.batches == 2


async def test_lanes_carry_what_one_request_at_a_time_cannot():
    """With much to send, requests of different guests are under way at once, each in order."""
    async with world(Trains(10 * UNIT, 4), answer_seconds=1.0) as one:
        offered = []
        for _ in range(100):
            offered.append(one.offer(40))
            await one.pass_(1.6)
        await one.pass_(10)
        assert one.most_at_once == 4
        assert not one.outlet.waiting.batches
        assert one.outlet.delivered == one.outlet.accepted
        assert all(times == sorted(times) for times in order_of(one.got).values())
        guests = len(order_of(one.got)) // len(SHAPES)
        assert guests == 40


async def test_requests_shrink_and_grow_with_what_the_destination_takes():
    """After 413 no request is too large for long, and when more is taken again, they grow."""
    limit = 10 * UNIT

    def judge(batches: tuple[Batch, ...]) -> None:
        if sum(batch.samples for batch in batches) > limit:
            raise TooLarge("413")

    async with world(Trains(100 * UNIT), answer_seconds=0.01) as one:
        one.judge = judge
        for _ in range(50):
            one.offer(100)
        await one.pass_(60)
        refused = one.outlet.attempts["too_large"]
        assert one.outlet.delivered == one.outlet.accepted
        assert refused < one.outlet.attempts["ok"] / 5
        limit = 1 << 30
        for _ in range(200):
            one.offer(100)
        await one.pass_(100)
        assert one.outlet.attempts["too_large"] == refused
        assert max(sum(b.samples for b in train) for _, train in one.requests[-9:]) == 100 * UNIT


async def test_a_sink_that_cannot_keep_up_is_reported_with_its_rates():
    """A destination that is too slow for what comes is named once, with what comes and goes."""
    async with world(Trains(2 * UNIT), answer_seconds=1.0) as one:
        with capture_logs() as logs:
            for _ in range(600):
                one.offer(1)
                await one.pass_(0.25)
            (entry,) = logs
            assert entry["event"] == "sink.lagging"
            assert entry["samples_per_second_in"] == pytest.approx(4 * UNIT, rel=0.1)
            assert entry["samples_per_second_out"] == pytest.approx(2 * UNIT, rel=0.1)
            assert entry["behind_seconds"] > 20
            one.answer_seconds = 0.05
            for _ in range(200):
                one.offer(1)
                await one.pass_(0.25)
        assert [each["event"] for each in logs] == ["sink.lagging", "sink.caught_up"]


async def test_what_waits_for_the_first_answer_is_no_lag():
    """A destination whose connection takes half a minute keeps up as soon as it is there."""
    async with world(Trains(2 * UNIT), answer_seconds=30.0) as one:
        with capture_logs() as logs:
            one.offer(1)
            await one.pass_(0.25)
            one.answer_seconds = 0.3
            for _ in range(400):
                one.offer(1)
                await one.pass_(0.25)
        assert logs == []


async def test_what_an_outage_left_behind_is_no_lag():
    """A backlog of an hour is a failure that was logged, not a sink that is too slow."""
    away = True

    def judge(_: tuple[Batch, ...]) -> None:
        if away:
            raise TryLater("away")

    async with world(Trains(10 * UNIT), answer_seconds=0.05) as one:
        one.judge = judge
        with capture_logs() as logs:
            for _ in range(360):
                one.offer(1)
                await one.clock.advance(10)
            away = False
            await one.pass_(60)
        assert one.outlet.delivered == one.outlet.accepted
        assert [each["event"] for each in logs] == ["sink.failing", "sink.recovered"]


async def test_catching_up_is_as_slow_as_it_is_told_to_be():
    """What is late goes out within the bytes a second that are configured; the rest at once."""
    rate = 10 * make_batch(1, shapes=SHAPES).bytes
    async with world(Trains(5 * UNIT), answer_seconds=0.0, catch_up=rate) as one:
        late = make_batch(1, shapes=SHAPES, taken_at=one.wall() - 10**12)
        for _ in range(50):
            one.outlet.offer(late)
        await one.pass_(2.0)
        assert 20 <= one.outlet.delivered.batches <= 25
        await one.pass_(3.5)
        assert one.outlet.delivered.batches == 50
        for _ in range(50):
            one.offer(1)
        await one.pass_(0.5)
        assert one.outlet.delivered.batches == 100


async def test_what_arrived_without_an_answer_is_not_lost_when_it_is_refused_again():
    """A train that was stored and not answered is refused as out of order: it is delivered."""
    stored: dict[object, int] = {}
    answering = False

    def judge(batches: tuple[Batch, ...]) -> None:
        new: dict[object, int] = {}
        for batch in batches:
            for reading in batch.readings:
                key = reading.domain and reading.domain.uuid, reading.shape
                if batch.taken_at < new.get(key, stored.get(key, 0)):
                    raise Rejected("out of order sample", atomic=True, overtaken=True)
                new[key] = batch.taken_at
        stored.update(new)
        if not answering:
            raise TryLater("the connection was lost", 0.0)

    async with world(Trains(100 * UNIT), answer_seconds=0.01) as one:
        one.judge = judge
        for number in range(5):
            one.offer(3, base=number)
            await one.clock.advance(0.001)
        await one.pass_(0.5)
        assert stored
        answering = True
        one.offer(3, base=9)
        await one.pass_(30)
        assert one.outlet.delivered == one.outlet.accepted
        assert not any(each.samples for each in one.outlet.lost.values())


class Strict:
    """
    A destination that refuses all of what has an older sample than it has, as Prometheus does.

    It may store without an answer, answer with errors for minutes, and never take one series.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.stored: dict[object, list[int]] = {}
        self.moody = True
        self.bad: object = None

    def judge(self, batches: tuple[Batch, ...]) -> None:
        """Store all of it, or raise."""
        mood = self.chance.randrange(8) if self.moody else 8
        if mood == 0:
            raise TryLater("503", answered=True)
        if mood == 1:
            raise TryLater("refused")
        if mood == 2 and sum(batch.samples for batch in batches) > UNIT:
            raise TooLarge("413")
        new: dict[object, list[int]] = {}
        for batch in batches:
            for reading in batch.readings:
                key = reading.domain and reading.domain.uuid, reading.shape
                times = new.setdefault(key, list(self.stored.get(key, ())))
                if times and batch.taken_at < times[-1]:
                    raise Rejected("out of order sample", atomic=True, overtaken=True)
                if (key[0], reading.shape.group) == self.bad:
                    raise TryLater("500", answered=True)
                if not times or batch.taken_at > times[-1]:
                    times.append(batch.taken_at)
        self.stored |= new
        if mood == 3:
            raise TryLater("the connection was lost")


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (7, 10, 27))]
)
async def test_a_strict_destination_loses_nothing_by_its_moods(seed: int):
    """Whatever is stored without an answer, too large, or answered with errors: all is stored."""
    strict = Strict(seed)
    async with world(Trains(20 * UNIT), answer_seconds=0.1) as one:
        one.judge = strict.judge
        offered = []
        for number in range(80):
            offered.append(one.offer(strict.chance.randrange(1, 9), base=number))
            await one.pass_(strict.chance.random())
        strict.moody = False
        await one.pass_(60)
        assert one.outlet.delivered == one.outlet.accepted
        assert strict.stored == {
            (reading.domain and reading.domain.uuid, reading.shape): [
                each.taken_at
                for each in offered
                if any(
                    (r.domain, r.shape) == (reading.domain, reading.shape) for r in each.readings
                )
            ]
            for batch in offered
            for reading in batch.readings
        }


async def test_a_series_answered_with_errors_costs_no_order():
    """While it is searched for among batches that wait, no later batch overtakes an earlier one."""
    strict = Strict(0)
    strict.moody = False
    async with world(Trains(100 * UNIT), answer_seconds=0.05) as one:
        one.judge = strict.judge
        (first, *_) = one.offer(4).readings
        await one.pass_(1)
        strict.bad = first.domain and first.domain.uuid, first.shape.group
        for number in range(200):
            one.offer(4, base=number)
            await one.pass_(3)
        await one.pass_(60)
        lost = {reason: tally.samples for reason, tally in one.outlet.lost.items() if tally.samples}
        assert set(lost) == {"poison"}
        counts = {key: len(times) for key, times in strict.stored.items()}
        assert counts.pop((strict.bad[0], first.shape)) == 1
        assert set(counts.values()) == {201}


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 10))]
)
async def test_every_sample_of_a_train_is_accounted_for_at_every_moment(seed: int):
    """Whatever becomes of trains, accepted = delivered + dropped + lost + waiting holds."""
    chance = random.Random(seed)

    def judge(batches: tuple[Batch, ...]) -> None:
        match chance.randrange(8):
            case 0:
                raise TryLater("later", 0.0, answered=chance.random() < 0.5)
            case 1:
                raise Rejected("some", chance.randrange(sum(b.samples for b in batches) + 2))
            case 2:
                raise TooLarge("413")
            case 3:
                raise KeyError("bug")

    async with world(Trains(5 * UNIT, 3), answer_seconds=0.02) as one:
        one.judge = judge
        for number in range(60):
            one.offer(chance.randrange(12), base=number)
            await one.pass_(chance.random() / 5)
        await one.pass_(30)
        assert one.outlet.delivered.batches > 0
        assert all(times == sorted(times) for times in order_of(one.got).values())


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    samples=st.integers(1, 6),
    lanes=st.integers(1, 4),
)
def test_cutting_and_joining_loses_nothing(sizes: list[int], samples: int, lanes: int):
    """Every sample, and every guest that ended, is in one piece, and its guest in one lane."""
    train = [
        make_batch(size, shapes=SHAPES, taken_at=at, gone=(make_domain(100 + at),))
        for at, size in enumerate(sizes)
    ]
    lost = {reason: Tally() for reason in LOSSES}
    ended: list[Batch] = []
    it = Underway(train, Splitter(), Tally(), lost, lambda batch, _: ended.append(batch))
    before = it.left
    rows = it.lanes(samples * UNIT, lanes)
    assert len(rows) <= lanes
    owners: list[set[Domain | None]] = []
    found = []
    for row in rows:
        flat = [batch for piece in row for batch in piece.batches]
        assert all(times == sorted(times) for times in order_of(flat).values())
        assert all(piece.samples <= samples * UNIT for piece in row)
        owners.append({reading.domain for batch in flat for reading in batch.readings})
        found += flat
    assert sum(len(each) for each in owners) == len(set().union(*owners))
    assert sum(batch.samples for batch in found) == sum(batch.samples for batch in train)
    assert sorted(d.name for b in found for d in b.gone) == sorted(
        d.name for b in train for d in b.gone
    )
    assert it.left == before
    for row in rows:
        for piece in row:
            it.got(piece)
    assert it.left == Tally()
    assert ended == train or set(map(id, ended)) == set(map(id, train))
    assert it.settled() == len(train)


def test_a_request_size_has_bounds():
    """A size is halved by what was too large, never below one, and grows to what it was at most."""
    size = RequestSize(1000)
    size.refused(1000)
    assert size.samples == 500
    size.refused(1)
    assert size.samples == 1
    for _ in range(1000):
        size.taken(size.samples)
    assert size.samples == 1000
    size.refused(600)
    size.taken(10)
    assert size.samples == 300

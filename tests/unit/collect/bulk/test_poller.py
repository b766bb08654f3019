"""Tiers, slices and second questions, against lanes that answer what the test says."""

import asyncio
import math
from collections.abc import Callable
from functools import partial

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from virtstatd.catalog import load
from virtstatd.collect.bulk.answer import MONITOR, Answer
from virtstatd.collect.bulk.control import Verdicts
from virtstatd.collect.bulk.exceptions import RETRY_SECONDS, Exceptions
from virtstatd.collect.bulk.monitors import SMALL_LIST, TRIAL_SECONDS, Monitors
from virtstatd.collect.bulk.poller import Poller
from virtstatd.collect.bulk.sweep import GROW_SECONDS, Sweep
from virtstatd.collect.tier import Tier
from virtstatd.collector import Up
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Oversize
from virtstatd.model import Batch, Domain, Field, Kind, Reading, Series, Shape
from virtstatd.runtime.ticker import Ticker
from virtstatd.testing import settle


SHAPES = {
    group: Shape(group, (Series(Field("p", group, Kind.GAUGE, "", "Help.")),))
    for group in ("state", "block", "vm", "strange")
}
BITS = {"state": 1, "block": 32, "vm": 1024}


VERDICTS = Verdicts(load())


class World:
    """A hypervisor with some domains; `trouble` may raise for each question."""

    def __init__(self, domains: int) -> None:
        self.everybody = [f"u{i:03}" for i in range(domains)]
        self.stuck = 0
        self.deadlines: list[float] = []
        self.stalled: dict[str, str] = {}
        self.hung: set[str] = set()
        self.holding: set[str] = set()
        self.now = 1.0
        self.asked: list[tuple[int, list[str] | None]] = []
        self.trouble: Callable[[int, list[str] | None], None] = lambda *_: None
        self.stepped_over: set[str] = set()
        self.pauses: list[float] = []
        self.moment: set[str] = set()
        self.idle: set[str] = set()
        self.undecodable: dict[str, str] = {}
        self.batches: list[Batch] = []

    # as lanes
    async def run(
        self,
        function: Callable[[None], object],
        seconds: float,
        *,
        monitor: bool,
        proven: bool,
    ) -> object:
        """Call at once, on this thread; one that hangs stays stuck until `freed`."""
        self.deadlines.append(seconds)
        await asyncio.sleep(0)
        if monitor and self.stuck >= (3 if proven else 2):
            raise Crowded
        try:
            return function(None)
        except Overdue:
            self.stuck += monitor
            raise

    # as a source
    def selects(self) -> bool:
        """Leave nobody out."""
        return False

    def known(self) -> int:
        """Return how many there are."""
        return len(self.everybody)

    def uuids(self) -> list[str]:
        """Return all, as they are believed to be."""
        return list(self.everybody)

    def running(self, _: object) -> list[str]:
        """Return all."""
        return list(self.everybody)

    def everyone(self, _: object, bits: int) -> Answer:
        """Answer for all."""
        return self._answer(bits, None)

    def some(self, _: object, bits: int, uuids: list[str]) -> Answer:
        """Answer for these."""
        return self._answer(bits, uuids)

    def held(self, _: object, uuids: list[str]) -> Answer:
        """Tell whose monitors are held by calls that hang."""
        answer = Answer(taken_at=len(self.asked))
        for uuid in self.holding & set(uuids):
            answer.domains[uuid] = Domain(uuid, uuid, 1, (("domain", uuid),))
            answer.partial[uuid] = (2, 0, 9000)
            answer.seen.add(uuid)
        return answer

    def states(self, _: object, uuids: list[str]) -> Answer:
        """Answer with states alone, one by one."""
        return self._answered(1, uuids)

    def name(self, uuid: str) -> str:
        """Return a name."""
        return uuid

    async def pause(self, seconds: float) -> None:
        """Let time pass at once."""
        self.now += seconds
        self.pauses.append(seconds)

    def free(self, *uuids: str) -> None:
        """Let monitors answer again, and the calls that hang for them return."""
        self.hung -= set(uuids)
        self.stuck -= len(self.holding & set(uuids))
        self.holding -= set(uuids)

    def _hang(self, bits: int, uuids: list[str] | None) -> None:
        """Hold the first whose monitor hangs and is not held already, as libvirt does."""
        self.stepped_over = set(self.holding)
        for uuid in self.everybody if uuids is None else uuids:
            if bits & MONITOR and uuid in self.hung - self.holding:
                self.holding.add(uuid)
                raise Overdue("hung")

    def _answer(self, bits: int, uuids: list[str] | None) -> Answer:
        self.asked.append((bits, uuids))
        self.trouble(bits, uuids)
        if self.hung:
            self._hang(bits, uuids)
        return self._answered(bits, uuids)

    def _answered(self, bits: int, uuids: list[str] | None) -> Answer:
        answer = Answer(taken_at=len(self.asked))
        for uuid in self.everybody if uuids is None else [u for u in uuids if u in self.everybody]:
            domain = Domain(uuid, uuid, 1, (("domain", uuid),))
            answer.domains[uuid] = domain
            if uuid in self.stalled and bits & MONITOR:
                answer.stalled[uuid] = self.stalled[uuid]
                continue
            groups = [group for group, bit in BITS.items() if bits & bit] + ["strange"]
            answer.readings += [Reading(domain, SHAPES[group], (1,)) for group in groups]
            answer.seen.add(uuid)
            if uuid in self.stepped_over:
                answer.partial[uuid] = (2, 0, 9000)
            if uuid in self.moment and bits & MONITOR:
                answer.partial[uuid] = (2, 0, 100)
            if uuid in self.idle and bits & MONITOR:
                answer.partial[uuid] = (0, 0, 0)
            group = self.undecodable.get(uuid, "").partition(".")[0]
            if group and bits & BITS[group]:
                answer.undecodable[uuid] = f"{self.undecodable[uuid]}: nonsense"
        self.moment = set()
        return answer

    def poller(self, *groups: str, size: int = 10) -> Poller:
        """Return a poller with one tier per group."""
        tiers = [
            Tier(g, BITS[g], frozenset({g}), Ticker(g, 5.0, 0.0), bool(BITS[g] & MONITOR))
            for g in groups
        ]
        log = structlog.get_logger()
        self.monitors = Monitors(
            VERDICTS,
            log,
            lambda: self.now,
            pid_of=lambda domain: 1000 + int(domain.uuid[1:]),
            wall=lambda: 1000.0,
        )
        self.sweep = Sweep(
            self,  # type: ignore[arg-type]
            self,
            self.monitors,
            Exceptions(log, lambda: self.now),
            log,
            clock=lambda: self.now,
            sleep=self.pause,
            slice_domains=size,
            deadline_seconds=1.0,
        )
        return Poller(tiers, self.sweep, clock=lambda: self.now)


def domains(batches: list[Batch], group: str) -> set[str]:
    """Return whose readings of a group the batches hold."""
    return {
        reading.domain.uuid
        for batch in batches
        for reading in batch.readings
        if reading.domain and reading.shape.group == group
    }


async def test_tiers_that_are_due_together_travel_in_one_call():
    """One question holds the groups of both tiers; each tier's readings are a batch of its own."""
    world = World(3)
    poller = world.poller("block", "vm")
    await poller.poll(poller.tiers, world.batches.append)

    assert world.asked == [(BITS["block"] | BITS["vm"], None)]
    assert [(b.groups, b.lifetime_seconds) for b in world.batches] == [
        (frozenset({"block", "control"}), 10.0),
        (frozenset({"vm"}), 10.0),
    ]
    assert domains(world.batches[:1], "block") == domains(world.batches[1:], "vm")
    assert domains(world.batches, "strange") == set(world.everybody)


async def test_many_domains_are_asked_in_slices_and_none_is_left_out():
    """Each domain is asked exactly once, whatever the size of the slices."""
    world = World(25)
    poller = world.poller("state")
    await poller.poll(poller.tiers, world.batches.append)

    assert [len(uuids or []) for _, uuids in world.asked] == [10, 10, 5]
    assert domains(world.batches, "state") == set(world.everybody)
    assert poller.tiers[0].good_at == 1.0


async def test_a_slice_past_its_deadline_is_asked_again_in_the_same_cycle():
    """One stuck guest costs the others nothing, and is counted as partial."""
    world = World(25)
    poller = world.poller("block")
    hung = False

    def trouble(_: int, uuids: list[str] | None) -> None:
        nonlocal hung
        if uuids and "u004" in uuids and not hung:
            hung = True
            world.stepped_over = {"u004"}
            raise Overdue("hung")

    world.trouble = trouble
    await poller.poll(poller.tiers, world.batches.append)

    assert domains(world.batches, "block") == set(world.everybody)
    assert poller.tiers[0].partial == {"u004"}
    assert (poller.tiers[0].outcomes["overdue"], poller.tiers[0].outcomes["ok"]) == (1, 4)


async def test_a_fault_of_one_tiers_groups_costs_that_tier_alone():
    """When the call for all tiers is refused, each is asked by itself."""
    world = World(3)
    poller = world.poller("state", "vm")

    def trouble(bits: int, _: list[str] | None) -> None:
        if bits & BITS["vm"]:
            raise Refused("one guest failed")

    world.trouble = trouble
    await poller.poll(poller.tiers, world.batches.append)

    assert domains(world.batches, "state") == set(world.everybody)
    assert domains(world.batches, "vm") == set()
    assert all(batch.groups == {"state"} for batch in world.batches)


@pytest.mark.parametrize(
    ("domain_count", "slice_domains", "most"),
    [pytest.param(40, 20, 6, id="a slice"), pytest.param(8, 10, 4, id="the call for all")],
)
async def test_an_answer_too_large_is_polled_in_halves(
    domain_count: int, slice_domains: int, most: int
):
    """A call for a slice, or for all domains at once, is halved until libvirt can answer."""
    world = World(domain_count)
    poller = world.poller("block", size=slice_domains)

    def trouble(_: int, uuids: list[str] | None) -> None:
        if uuids is None or len(uuids) > most:
            raise Oversize("too large")

    world.trouble = trouble
    await poller.poll(poller.tiers, world.batches.append)

    assert domains(world.batches, "block") == set(world.everybody)


async def test_up_means_that_the_last_call_succeeded():
    """A lost connection turns it off, the next answer on."""
    world = World(2)
    poller = world.poller("state")
    await poller.poll(poller.tiers, world.batches.append)
    up = [world.sweep.asking.up]

    def trouble(*_: object) -> None:
        raise Disconnected("gone")

    world.trouble = trouble
    await poller.poll(poller.tiers, world.batches.append)
    up.append(world.sweep.asking.up)
    assert poller.tiers[0].outcomes["disconnected"] == 2
    world.trouble = lambda *_: None
    await poller.poll(poller.tiers, world.batches.append)
    assert [*up, world.sweep.asking.up] == [True, False, True]


@pytest.mark.parametrize("troubles", [[Disconnected], [Disconnected, Overdue, Disconnected]])
async def test_what_recovers_was_said_to_fail(troubles: list[type[VirtstatdError]]):
    """Failing is said once and so is its end, however often the connection dies meanwhile."""
    world = World(2)
    poller = world.poller("state")

    def trouble(kind: type[VirtstatdError], *_: object) -> None:
        raise kind("trouble")

    with capture_logs() as logs:
        for kind in troubles:
            world.trouble = partial(trouble, kind)
            await poller.poll(poller.tiers, world.batches.append)
        world.trouble = lambda *_: None
        await poller.poll(poller.tiers, world.batches.append)
    said = ["poll.failing", "poll.recovered"] if Overdue in troubles else []
    assert [each["event"] for each in logs] == said
    if said:
        assert (logs[0]["tier"], logs[0]["domains"]) == ("state", ["u000", "u001"])


def refusing(world: World, group: str, *uuids: str) -> Callable[[int, list[str] | None], None]:
    """Return trouble that refuses a group where one of these is asked for it."""

    def trouble(bits: int, asked: list[str] | None) -> None:
        of = world.everybody if asked is None else asked
        if bits & BITS[group] and set(of) & set(uuids):
            raise Refused(f"{group} cannot be had")

    return trouble


@pytest.mark.parametrize("size", [10, 25, 100])
@pytest.mark.parametrize("culprits", [["u000"], ["u013"], ["u059"], ["u003", "u004", "u058"]])
async def test_who_is_refused_costs_nobody_else(size: int, culprits: list[str]):
    """The others have all in the same poll, the culprit all but the group; it is named once."""
    world = World(60)
    poller = world.poller("block", "vm", size=size)
    world.trouble = refusing(world, "vm", *culprits)
    with capture_logs() as logs:
        for _ in range(3):
            world.batches.clear()
            await poller.poll(poller.tiers, world.batches.append)
            assert domains(world.batches, "block") == set(world.everybody)
            assert domains(world.batches, "vm") == set(world.everybody) - set(culprits)
    said = [(each["event"], each["uuid"], each["groups"]) for each in logs]
    assert sorted(said) == [("domain.refused", uuid, ["vm"]) for uuid in culprits]
    assert world.sweep.asking.up
    world.asked.clear()
    await poller.poll(poller.tiers, world.batches.append)
    sizes = [len(uuids or []) for _, uuids in world.asked]
    assert len(sizes) == -(-(60 - len(culprits)) // size) + 1
    assert (sizes[-1], sum(sizes)) == (len(culprits), 60)


async def test_who_is_refused_is_asked_again_and_comes_back():
    """After a while everything is asked again; once it is answered it is one of the others."""
    world = World(20)
    poller = world.poller("block", "vm")
    world.trouble = refusing(world, "vm", "u007")
    with capture_logs() as logs:
        await poller.poll(poller.tiers, world.batches.append)
        world.now += RETRY_SECONDS[0] + 1
        await poller.poll(poller.tiers, world.batches.append)
        world.trouble = lambda *_: None
        await poller.poll(poller.tiers, world.batches.append)
        assert "u007" not in domains(world.batches[-2:], "vm")
        world.now += 2 * RETRY_SECONDS[0] + 1
        world.batches.clear()
        await poller.poll(poller.tiers, world.batches.append)
    assert domains(world.batches, "vm") == set(world.everybody)
    assert [each["event"] for each in logs] == ["domain.refused", "domain.answered"]
    world.asked.clear()
    await poller.poll(poller.tiers, world.batches.append)
    assert [len(uuids or []) for _, uuids in world.asked] == [10, 10]


async def test_a_guest_that_is_refused_much_is_tried_again_as_soon():
    """The first pause is the same for each group, however many a guest is refused."""
    world = World(20)
    poller = world.poller("block", "vm")
    block, vm = refusing(world, "block", "u007"), refusing(world, "vm", "u007")

    def trouble(bits: int, uuids: list[str] | None) -> None:
        block(bits, uuids)
        vm(bits, uuids)

    world.trouble = trouble
    with capture_logs() as logs:
        await poller.poll(poller.tiers, world.batches.append)
        world.trouble = lambda *_: None
        world.now += RETRY_SECONDS[0]
        world.batches.clear()
        await poller.poll(poller.tiers, world.batches.append)
    for group in ("block", "vm"):
        assert domains(world.batches, group) == set(world.everybody)
    assert [each["event"] for each in logs] == ["domain.refused", "domain.answered"]
    assert logs[0]["groups"] == ["block", "vm"]


async def test_a_group_that_is_still_refused_holds_up_no_other():
    """Each tier tries its own groups again, whichever tier of the guest is due first."""
    world = World(20)
    poller = world.poller("state", "block")
    troubles = [refusing(world, "state", "u007"), refusing(world, "block", "u007")]

    def trouble(bits: int, uuids: list[str] | None) -> None:
        for each in troubles:
            each(bits, uuids)

    world.trouble = trouble
    with capture_logs() as logs:
        for _ in range(2):
            for tier in poller.tiers:
                await poller.poll([tier], world.batches.append)
            del troubles[1:]
            world.now += RETRY_SECONDS[0]
    assert "u007" not in domains(world.batches, "state")
    assert "u007" in domains(world.batches, "block")
    assert [each["event"] for each in logs] == ["domain.refused"]


async def test_groups_that_are_too_large_together_are_asked_one_by_one():
    """A guest that has too much for one message lacks nothing, and slices stay as they are."""
    world = World(60)
    poller = world.poller("block", "vm")

    def trouble(bits: int, uuids: list[str] | None) -> None:
        if bits == BITS["block"] | BITS["vm"] and (uuids is None or "u007" in uuids):
            raise Oversize("too large")

    async def asked() -> list[tuple[int, int]]:
        world.asked.clear()
        world.batches.clear()
        await poller.poll(poller.tiers, world.batches.append)
        for group in ("block", "vm"):
            assert domains(world.batches, group) == set(world.everybody)
        return [(bits, len(uuids or [])) for bits, uuids in world.asked]

    both = BITS["block"] | BITS["vm"]
    world.trouble = trouble
    with capture_logs() as logs:
        await asked()
        apart = [*[(both, 10)] * 5, (both, 9), (BITS["block"], 1), (BITS["vm"], 1)]
        assert await asked() == apart
        world.now += RETRY_SECONDS[0]
        assert await asked() == [*apart[:6], (both, 1), *apart[6:]]
        assert await asked() == apart
        world.trouble = lambda *_: None
        world.now += 2 * RETRY_SECONDS[0]
        assert await asked() == [*apart[:6], (both, 1)]
        assert await asked() == [(both, 10)] * 6
    assert logs == []


@pytest.mark.parametrize("size", [10, 100])
async def test_some_who_are_refused_before_anybody_is_answered_are_not_everybody(size: int):
    """Five of sixty are nothing of the driver's, though they happen to be asked first."""
    world = World(60)
    poller = world.poller("vm", size=size)
    culprits = world.everybody[:5]
    world.trouble = refusing(world, "vm", *culprits)
    with capture_logs() as logs:
        await poller.poll(poller.tiers, world.batches.append)
    assert domains(world.batches, "vm") == set(world.everybody) - set(culprits)
    assert [each["event"] for each in logs] == ["domain.refused"] * 5


async def test_what_was_answered_before_is_never_the_drivers_fault():
    """Where all guests are refused what they had, each is named, and each is tried again."""
    world = World(20)
    poller = world.poller("block", "vm")
    await poller.poll(poller.tiers, world.batches.append)
    world.trouble = refusing(world, "vm", *world.everybody)
    with capture_logs() as logs:
        await poller.poll(poller.tiers, world.batches.append)
    assert [each["event"] for each in logs] == ["domain.refused"] * 20


async def test_what_everybody_is_refused_is_the_drivers():
    """A group that nobody has is named, not asked for again, and costs no call for each guest."""
    world = World(60)
    poller = world.poller("block", "vm")
    world.trouble = refusing(world, "vm", *world.everybody)
    with capture_logs() as logs:
        await poller.poll(poller.tiers, world.batches.append)
        assert domains(world.batches, "block") == set(world.everybody)
        asked = len(world.asked)
        world.asked.clear()
        await poller.poll(poller.tiers, world.batches.append)
    assert asked <= 80
    assert [bits for bits, _ in world.asked] == [BITS["block"]] * 6
    assert [(each["event"], each["groups"]) for each in logs] == [("group.refused", ["vm"])]
    assert world.sweep.asking.up


async def test_a_driver_without_the_bulk_call_still_says_who_runs_in_which_state():
    """Where every group is refused, states come from the plain list, and libvirt is up."""
    world = World(3)
    poller = world.poller("state")
    world.trouble = refusing(world, "state", *world.everybody)
    await poller.poll(poller.tiers, world.batches.append)
    assert domains(world.batches, "state") == set(world.everybody)
    world.batches.clear()
    await poller.poll(poller.tiers, world.batches.append)
    assert domains(world.batches, "state") == set(world.everybody)
    assert world.sweep.asking.up


async def test_one_record_that_is_too_large_leaves_the_slices_as_they_are():
    """One oversize guest is found and asked by itself; the others travel as before."""
    world = World(200)
    poller = world.poller("block", "state", size=25)

    def trouble(bits: int, uuids: list[str] | None) -> None:
        if bits & BITS["block"] and (uuids is None or "u100" in uuids):
            raise Oversize("too large")

    world.trouble = trouble
    with capture_logs() as logs:
        for _ in range(2):
            for together in poller._together(poller.tiers):
                await poller.poll(together, world.batches.append)
    assert domains(world.batches, "block") == set(world.everybody) - {"u100"}
    assert domains(world.batches, "state") == set(world.everybody)
    world.asked.clear()
    for together in poller._together(poller.tiers):
        await poller.poll(together, world.batches.append)
    assert [len(uuids or []) for _, uuids in world.asked] == [25] * 8 + [25] * 7 + [24]
    assert [each["event"] for each in logs] == ["domain.refused"]


async def test_slices_that_are_too_large_shrink_for_their_groups_alone_and_grow_back():
    """Where many together are too many, slices shrink to what fits, and are tried larger later."""
    world = World(40)
    poller = world.poller("state", "block", size=20)

    def trouble(bits: int, uuids: list[str] | None) -> None:
        if bits & BITS["block"] and (uuids is None or len(uuids) > 6):
            raise Oversize("too large")

    async def sizes() -> list[int]:
        world.asked.clear()
        for together in poller._together(poller.tiers):
            await poller.poll(together, world.batches.append)
        return [len(uuids or []) for _, uuids in world.asked]

    world.trouble = trouble
    await sizes()
    assert await sizes() == [20, 20, *[5] * 8]
    world.trouble = lambda *_: None
    world.now += GROW_SECONDS + 1
    assert await sizes() == [20, 20, *[10] * 4]
    world.now += GROW_SECONDS + 1
    assert await sizes() == [20, 20, 20, 20]


async def test_who_was_held_for_a_moment_is_asked_again_at_once():
    """A monitor that others held for milliseconds costs its guest a second, and no interval."""
    world = World(12)
    poller = world.poller("block")
    world.moment = {"u003"}
    await poller.poll(poller.tiers, world.batches.append)
    assert world.pauses == [1.0]
    assert domains(world.batches[-1:], "block") == {"u003"}
    assert poller.tiers[0].partial == set()


async def test_who_was_held_is_asked_again_though_others_are_not_answered():
    """A slice that is left out, since its calls hang, costs a guest of another one nothing."""
    world = World(20)
    poller = world.poller("block")
    await poller.poll(poller.tiers, world.batches.append)

    def trouble(_: int, uuids: list[str] | None) -> None:
        if uuids and "u015" in uuids:
            raise Overdue("hung")

    world.trouble = trouble
    world.moment = {"u003"}
    world.now += 5.0
    await poller.poll(poller.tiers, world.batches.append)
    assert poller.tiers[0].missing == set(world.everybody[10:])
    assert domains(world.batches[-1:], "block") == {"u003"}
    assert poller.tiers[0].partial == set()


async def test_who_was_held_in_one_tier_is_asked_again_in_another():
    """Only who is stepped over in every poll of every tier is left at that."""
    world = World(12)
    poller = world.poller("block", "vm")
    poller.tiers[1].partial = {"u003", "u005"}
    poller.tiers[0].partial = {"u005"}
    world.moment = {"u003", "u005"}
    await poller.poll(poller.tiers, world.batches.append)
    assert world.pauses == [1.0]
    assert domains(world.batches[-1:], "vm") == {"u003"}
    assert [tier.partial for tier in poller.tiers] == [{"u005"}, {"u005"}]


async def test_who_only_seemed_to_lack_something_is_asked_again_later():
    """A guest that was held by chance whenever it was asked is not taken for one built so."""
    world = World(12)
    poller = world.poller("block")
    world.idle = {"u003"}
    for _ in range(2):
        await poller.poll(poller.tiers, world.batches.append)
        assert (world.pauses, poller.tiers[0].partial) == ([1.0], set())
    world.idle = set()
    await poller.poll(poller.tiers, world.batches.append)
    world.moment = {"u003"}
    await poller.poll(poller.tiers, world.batches.append)
    assert world.pauses == [1.0, 1.0]


async def test_what_all_are_refused_is_one_line_though_tiers_are_polled_side_by_side():
    """Nobody is named for what is the driver's, while one poll is over and another still looks."""
    world = World(3)
    poller = world.poller("state", "block", "vm")

    def trouble(*_: object) -> None:
        raise Refused("no such call")

    world.trouble = trouble
    with capture_logs() as logs:
        await asyncio.gather(
            *(poller.poll(t, world.batches.append) for t in poller._together(poller.tiers))
        )
    assert [(each["event"], each["groups"]) for each in logs] == [
        ("group.refused", ["state", "block", "vm"])
    ]
    assert domains(world.batches, "state") == set(world.everybody)


async def test_who_is_built_so_that_something_lacks_is_named_when_it_hangs():
    """What it lacks anyway is no reason to overlook that its monitor is held."""
    world = World(12)
    poller = world.poller("block")
    world.idle = {"u003"}
    await poller.poll(poller.tiers, world.batches.append)
    assert poller.tiers[0].partial == set()
    world.idle, world.stepped_over = set(), {"u003"}
    await poller.poll(poller.tiers, world.batches.append)
    assert poller.tiers[0].partial == {"u003"}
    assert poller.unresponsive() == ["u003"]


async def test_who_is_built_so_that_something_lacks_is_found_at_short_intervals_too():
    """There the next poll is the second question, and nobody is asked in between."""
    world = World(12)
    poller = world.poller("block")
    poller.tiers[0].ticker = Ticker("block", 1.0, 0.0)
    world.idle = {"u003"}
    lacking = []
    for _ in range(3):
        await poller.poll(poller.tiers, world.batches.append)
        lacking.append(set(poller.tiers[0].partial))
    assert lacking == [{"u003"}, set(), set()]
    assert world.pauses == []
    assert len(world.asked) == 3 * 2


async def test_who_was_held_is_asked_again_within_a_poll_that_is_spread(
    monkeypatch: pytest.MonkeyPatch,
):
    """With an interval of minutes it would miss minutes."""
    spread = Spread(World(12), monkeypatch)
    spread.meanwhile = lambda _: spread.world.moment.add("u007")
    await spread.poller.poll(spread.poller.tiers, spread.world.batches.append)
    assert spread.world.pauses == [1.0]
    assert spread.turns.count(["u007"]) == 1
    assert spread.tier.partial == set()


async def test_what_cannot_be_decoded_is_named_once_until_it_can():
    """A tier without the group says nothing of it; other guests are not named."""
    world = World(3)
    poller = world.poller("state", "block")
    with capture_logs() as logs:
        for undecodable in ({}, {"u001": "block.0.rd.reqs"}, {"u001": "block.0.rd.reqs"}, {}):
            world.undecodable = undecodable
            for tier in poller.tiers:
                await poller.poll([tier], world.batches.append)
    assert [(each["event"], each["uuid"]) for each in logs] == [
        ("domain.undecodable", "u001"),
        ("domain.decodable", "u001"),
    ]
    assert world.sweep.asking.undecodable.records == 2


async def test_a_call_that_hangs_names_nobody_who_was_answered():
    """Of a slice that was asked again only those are named who lack something."""
    world = World(25)
    poller = world.poller("block")
    world.hung = {"u004"}
    with capture_logs() as logs:
        await poller.poll(poller.tiers, world.batches.append)
    failing = next(each for each in logs if each["event"] == "poll.failing")
    assert (failing["domains"], failing["others"]) == (["u004"], 0)


async def test_a_vanished_domain_is_missing_and_nothing_else():
    """A domain that ends between list and answer is counted as missing, and no fault."""
    world = World(12)
    poller = world.poller("state")

    def trouble(_: int, uuids: list[str] | None) -> None:
        if uuids and "u011" in uuids:
            world.everybody.remove("u011")

    world.trouble = trouble
    await poller.poll(poller.tiers, world.batches.append)

    assert poller.tiers[0].missing == {"u011"}
    assert poller.tiers[0].good_at == 1.0


async def test_a_tier_that_is_busy_skips_its_tick():
    """A poll that lasts longer than its interval is never doubled; the tick is counted."""
    world = World(1)
    poller = world.poller("state")
    poller.tiers[0].busy = True
    stop = asyncio.Event()
    stopping = asyncio.create_task(poller.run(world.batches.append, Up(up=True), stop))
    await settle(50)
    assert poller.tiers[0].ticker.skipped == 1
    stop.set()
    await stopping

    assert world.asked == []


async def test_what_cannot_hang_travels_by_itself():
    """Tiers that ask no monitor never share a call with those that do."""
    poller = World(1).poller("state", "block", "vm")
    state, block, vm = poller.tiers

    assert poller._together([state, block, vm]) == [[state], [block, vm]]
    assert poller._together([block]) == [[block]]


async def polled(world: World, poller: Poller) -> set[str]:
    """Poll once more, and return whose numbers came from a monitor."""
    world.now += 5.0
    world.batches.clear()
    await poller.poll(poller.tiers, world.batches.append)
    return domains(world.batches, "block") - world.holding


@pytest.mark.parametrize("count", [1, 2])
async def test_as_many_as_may_hang_hide_nobody(count: int):
    """When one guest hangs, or a second one later, all others are answered in every cycle."""
    world = World(200)
    poller = world.poller("block")
    assert await polled(world, poller) == set(world.everybody)
    for victim in ("u104", "u003")[:count]:
        world.hung.add(victim)
        for _ in range(3):
            assert await polled(world, poller) == set(world.everybody) - world.hung
    assert (world.stuck, world.holding) == (count, world.hung)
    world.free(*world.hung)
    assert await polled(world, poller) == set(world.everybody)


@pytest.mark.parametrize("count", [3, 5, 10])
async def test_who_is_known_good_is_asked_while_many_hang(count: int):
    """The last call that may hang is kept for those who answered; they miss no cycle."""
    world = World(200)
    poller = world.poller("block")
    await polled(world, poller)
    victims = world.everybody[60 : 60 + 10 * count : 10]
    world.hung.update(victims)
    good = await polled(world, poller)
    assert (world.stuck, world.holding) == (2, set(victims[:2]))
    assert good >= set(world.everybody[:60])
    for _ in range(5):
        world.asked.clear()
        assert await polled(world, poller) >= good
        assert max(len(uuids or []) for _, uuids in world.asked) <= SMALL_LIST
        assert poller.tiers[0].missing.isdisjoint(good)
    assert world.stuck == 2
    world.free(*victims)
    assert await polled(world, poller) == set(world.everybody)


async def test_a_call_that_returns_makes_room_to_find_out_more():
    """When one of those that hang answers again, the guests that were left out are asked."""
    world = World(200)
    poller = world.poller("block")
    await polled(world, poller)
    world.hung.update(("u060", "u080", "u100"))
    assert "u150" not in await polled(world, poller)
    world.free("u060", "u100")
    assert await polled(world, poller) == set(world.everybody) - {"u080"}


async def test_who_is_not_known_good_is_tried_after_a_pause_that_grows():
    """Left out for ever they could be well: they are tried, and more rarely when that hangs."""
    world = World(200)
    poller = world.poller("block")
    await polled(world, poller)
    world.hung.update(("u060", "u080"))
    assert "u150" not in await polled(world, poller)
    world.now += TRIAL_SECONDS[0]
    assert await polled(world, poller) == set(world.everybody) - world.hung

    world.free("u060", "u080")
    assert await polled(world, poller) == set(world.everybody)
    world.hung.update(("u060", "u080", "u100"))
    assert "u150" not in await polled(world, poller)
    world.now += TRIAL_SECONDS[0]
    await polled(world, poller)
    assert world.stuck == 3
    assert await polled(world, poller) == set(), "one call is always left for what cannot hang"
    world.free("u100")
    for pauses, tried in ((1, False), (2, True)):
        world.now += pauses * TRIAL_SECONDS[0]
        assert ("u150" in await polled(world, poller)) == tried


async def test_with_nothing_to_lose_the_others_are_tried_at_once():
    """When two hang before anybody has answered, some are asked with the last call."""
    world = World(20)
    world.hung.update(("u000", "u010"))
    poller = world.poller("block")
    good = await polled(world, poller)
    assert 0 < len(good) <= SMALL_LIST
    assert await polled(world, poller) == good


async def test_everybody_who_hangs_a_call_is_named():
    """Also the last, after whom no monitor is asked: libvirt says whose monitor is held."""
    world = World(200)
    poller = world.poller("block")
    await polled(world, poller)
    world.hung.update(world.everybody[::50])
    await polled(world, poller)
    world.now += TRIAL_SECONDS[0]
    await polled(world, poller)

    assert world.stuck == 3
    assert world.monitors.unresponsive.keys() == world.holding
    assert domains(world.batches, "control") >= world.holding


async def test_no_more_monitors_are_asked_when_every_call_that_may_hang_does():
    """With three calls stuck the monitors are left alone, and the rest goes on."""
    world = World(25)
    poller = world.poller("state", "block")
    world.stuck = 3
    for together in poller._together(poller.tiers):
        await poller.poll(together, world.batches.append)

    assert {bits for bits, _ in world.asked} == {BITS["state"]}
    assert domains(world.batches, "state") == set(world.everybody)
    assert poller.tiers[1].outcomes["withheld"] == 1
    assert poller.tiers[1].missing == set(world.everybody)


async def test_a_stuck_guest_is_named_once_and_its_return_once():
    """Trouble of a guest is two lines of the log, and a number that turns."""
    world = World(3)
    poller = world.poller("block")
    with capture_logs() as logs:
        world.stepped_over = {"u001"}
        await poller.poll(poller.tiers, world.batches.append)
        await poller.poll(poller.tiers, world.batches.append)
        world.stepped_over = set()
        await poller.poll(poller.tiers, world.batches.append)

    stuck, back = logs
    assert (stuck["event"], back["event"]) == ("domain.unresponsive", "domain.responsive")
    assert {key: stuck[key] for key in ("domain", "uuid", "pid")} == {
        "domain": "u001",
        "uuid": "u001",
        "pid": 1001,
    }
    assert stuck["since"] == "1970-01-01T00:16:31+00:00", "9 s before, as libvirt says"
    assert stuck["fix"].endswith("virsh domcontrol u001; cat /proc/1001/stack")
    assert back["seconds"] == 9.0
    verdicts = [
        reading.values[-1]
        for batch in world.batches
        for reading in batch.readings
        if reading.domain and reading.domain.uuid == "u001" and reading.shape.group == "control"
    ]
    assert verdicts == [0, 0, 1]


async def test_a_stalled_guest_is_not_asked_and_its_old_numbers_are_taken_back():
    """A process that stands still is left alone; its batch says that its groups are no more."""
    world = World(3)
    world.stalled = {"u001": "its process is stopped"}
    poller = world.poller("block")
    await poller.poll(poller.tiers, world.batches.append)

    assert domains(world.batches, "block") == {"u000", "u002"}
    assert domains(world.batches, "control") == {"u000", "u001", "u002"}
    assert world.batches[0].groups == {"block", "control"}
    found = world.monitors.unresponsive["u001"]
    assert (found.reason, found.since) == ("its process is stopped", 1000.0)
    assert "kill -CONT 1001" in str(found.values()["fix"])
    assert poller.unresponsive() == ["u001"]


async def test_who_stands_still_has_not_answered_since_the_last_answer():
    """`since` is when a guest last answered, where libvirt does not say; the longest is first."""
    world = World(3)
    poller = world.poller("block")
    await poller.poll(poller.tiers, world.batches.append)
    world.stalled = {"u002": "its process waits for storage"}
    world.now += 7.0
    await poller.poll(poller.tiers, world.batches.append)
    world.stalled["u001"] = "its process is stopped"
    world.now += 5.0
    await poller.poll(poller.tiers, world.batches.append)

    since = {uuid: each.since for uuid, each in world.monitors.unresponsive.items()}
    assert since == {"u002": 993.0, "u001": 995.0}
    assert poller.unresponsive() == ["u002", "u001"]


async def test_the_size_that_fits_is_remembered():
    """Once halved, the slices of later polls are small from the start."""
    world = World(40)
    poller = world.poller("block", size=20)

    def trouble(_: int, uuids: list[str] | None) -> None:
        if uuids is None or len(uuids) > 6:
            raise Oversize("too large")

    world.trouble = trouble
    await poller.poll(poller.tiers, world.batches.append)
    refused = poller.tiers[0].outcomes["oversize"]
    await poller.poll(poller.tiers, world.batches.append)

    assert refused > 0
    assert poller.tiers[0].outcomes["oversize"] == refused


async def test_a_call_may_last_half_an_interval_at_most():
    """What is asked again after a deadline still belongs to its cycle."""
    world = World(2)
    poller = world.poller("block")
    poller.tiers[0].ticker.seconds = 1.6
    world.sweep.asking._deadline = 5.0
    await poller.poll(poller.tiers, world.batches.append)
    poller.tiers[0].ticker.seconds = 6.0
    await poller.poll(poller.tiers, world.batches.append)

    assert world.deadlines == [1.0, 3.0]


class Spread:
    """A poller whose interval was stretched to a minute, on a clock that pauses move."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.poller = world.poller("block")
        self.tier = self.poller.tiers[0]
        self.tier.ticker.stretch(12, 0.0)
        self.pauses: list[float] = []
        self.meanwhile: Callable[[int], None] = lambda _: None
        patch.setattr("virtstatd.collect.bulk.poller.first_of", self.pause)

    async def pause(self, _: asyncio.Event, *, seconds: float) -> None:
        """Let the time pass at once."""
        assert self.tier.pausing
        assert not self.tier.asking
        self.pauses.append(seconds)
        self.world.now += seconds
        self.meanwhile(len(self.pauses))

    @property
    def turns(self) -> list[list[str]]:
        """Who was asked in each call."""
        return [uuids or [] for _, uuids in self.world.asked]


async def test_a_stretched_poll_is_spread_over_its_interval(monkeypatch: pytest.MonkeyPatch):
    """Each guest is asked once, so many at a time that the interval just suffices."""
    spread = Spread(World(30), monkeypatch)
    await spread.poller.poll(spread.poller.tiers, spread.world.batches.append)

    assert [len(each) for each in spread.turns] == [8, 8, 7, 7]
    assert spread.pauses == [15.0] * 3
    assert domains(spread.world.batches, "block") == set(spread.world.everybody)
    assert spread.tier.asked == pytest.approx(1.0)
    assert (spread.tier.good_at, spread.tier.busy) == (1.0, False)
    assert not spread.tier.missing


async def test_who_comes_and_goes_between_turns(monkeypatch: pytest.MonkeyPatch):
    """A guest that starts is asked in the same poll; one that ends is no longer, nor missing."""
    spread = Spread(World(12), monkeypatch)

    def meanwhile(turn: int) -> None:
        if turn == 2:
            spread.world.everybody.remove("u011")
            spread.world.everybody.append("u100")

    spread.meanwhile = meanwhile
    await spread.poller.poll(spread.poller.tiers, spread.world.batches.append)

    asked = [uuid for each in spread.turns for uuid in each]
    assert sorted(asked) == sorted(spread.world.everybody)
    assert not spread.tier.missing
    assert spread.tier.good_at is not None


@pytest.mark.parametrize("known", [True, False])
async def test_who_could_not_be_asked_is_asked_when_libvirt_is_back(
    known: bool, monkeypatch: pytest.MonkeyPatch
):
    """A turn that falls into an outage, known of or not, is made up for by the others."""
    spread = Spread(World(12), monkeypatch)
    away = False

    def meanwhile(turn: int) -> None:
        nonlocal away
        away = turn == 1
        libvirt.turn(up=not (known and away))

    def trouble(*_: object) -> None:
        if away:
            assert not known, "asked though it was away"
            raise Disconnected("gone")

    spread.meanwhile, spread.world.trouble = meanwhile, trouble
    libvirt = spread.poller._libvirt
    await spread.poller.poll(spread.poller.tiers, spread.world.batches.append)

    assert domains(spread.world.batches, "block") == set(spread.world.everybody)
    assert spread.tier.good_at == 1.0


async def test_a_stuck_guest_costs_its_turn_nothing(monkeypatch: pytest.MonkeyPatch):
    """It is stepped over as in any other poll, and the others of all turns are there."""
    spread = Spread(World(12), monkeypatch)
    spread.world.hung = {"u004"}
    await spread.poller.poll(spread.poller.tiers, spread.world.batches.append)

    assert domains(spread.world.batches, "block") == set(spread.world.everybody)
    assert spread.tier.partial == {"u004"}


async def test_an_interval_that_shrinks_ends_the_spreading(monkeypatch: pytest.MonkeyPatch):
    """With room for all there is no reason to wait: the others are asked at the next turn."""
    spread = Spread(World(12), monkeypatch)
    spread.meanwhile = lambda _: spread.tier.ticker.stretch(1, spread.world.now)
    await spread.poller.poll(spread.poller.tiers, spread.world.batches.append)

    assert [len(each) for each in spread.turns] == [3, 9]


@settings(deadline=None)
@example(changes=[(5, 0.0), (8, 0.0), (14, 0.0), (14, 25.0), (1, 25.0)], first=False)
@given(
    changes=st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.0, 0.0, 25.0])), max_size=60),
    first=st.booleans(),
)
@example(changes=[(11, 0.0), (9, 0.0), (17, 25.0)], first=False)
async def test_no_reading_expires_before_the_next_whatever_the_interval_becomes(
    changes: list[tuple[int, float]], first: bool
):
    """Every guest is read again while its last is current, though intervals change, calls last."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(9)
        spread = Spread(world, patch)
        ticker, until = spread.tier.ticker, dict.fromkeys(world.everybody, math.inf)
        ticker.stretch(1 if first else 12, 0.0)
        pending = iter(changes)

        def meanwhile(turn: int) -> None:
            times, lasted = next(pending, (round(ticker.seconds / ticker.configured), 0.0))
            ticker.stretch(times, world.now)
            world.now += lasted if turn else 0.0
            if world.now >= ticker.due:  # its poll is under way
                ticker.advance(world.now)
                ticker.skip()

        def emit(batch: Batch) -> None:
            for uuid in domains([batch], "block"):
                assert world.now <= until[uuid], "its last reading had expired"
                until[uuid] = world.now + batch.lifetime_seconds

        spread.meanwhile = meanwhile
        for _ in range(40):
            world.now = max(world.now, ticker.due)
            ticker.advance(world.now)
            meanwhile(0)
            await spread.poller.poll(spread.poller.tiers, emit)


async def test_the_first_poll_after_an_interval_grew_asks_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    """What is shown was said to be current for two short intervals; the next poll is spread."""
    spread = Spread(World(8), monkeypatch)
    tier = spread.tier
    tier.ticker.stretch(1, 0.0)
    for times, turns in ((1, [8]), (12, [8]), (12, [2] * 4), (13, [2] * 4), (26, [8])):
        tier.ticker.stretch(times, spread.world.now)
        spread.world.asked.clear()
        spread.world.now = tier.ticker.due
        tier.ticker.advance(spread.world.now)
        await spread.poller.poll(spread.poller.tiers, spread.world.batches.append)
        assert [len(each) or 8 for each in spread.turns] == turns


async def test_the_end_does_not_wait_for_turns():
    """A stop in a pause ends the poll; nobody else is asked."""
    world = World(12)
    poller = world.poller("block")
    tier = poller.tiers[0]
    tier.ticker.stretch(12, 0.0)
    stop = asyncio.Event()
    running = asyncio.create_task(poller.run(world.batches.append, Up(up=True), stop))
    await settle(100)
    assert (tier.busy, tier.asking) == (True, False)
    stop.set()
    async with asyncio.timeout(100):
        await running

    assert [len(uuids or []) for _, uuids in world.asked] == [3]
    assert not tier.busy


async def test_polls_that_are_spread_never_ask_the_same_guest_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    """Two tiers whose intervals do not fall together take turns: NOWAIT would step over guests."""
    world = World(30)
    poller = world.poller("block", "vm")
    now = most = 0
    ask = world.run

    async def counted(*args: object, **options: object) -> object:
        nonlocal now, most
        now += bool(options["monitor"])
        most = max(most, now)
        try:
            await asyncio.sleep(0)
            return await ask(*args, **options)  # type: ignore[arg-type]
        finally:
            now -= bool(options["monitor"])

    async def pause(_: asyncio.Event, *, seconds: float) -> None:
        world.now += seconds / 2
        await asyncio.sleep(0)

    monkeypatch.setattr("virtstatd.collect.bulk.poller.first_of", pause)
    world.run = counted  # type: ignore[method-assign]
    for tier in poller.tiers:
        tier.ticker.stretch(12, 0.0)
    await asyncio.gather(*(poller.poll([tier], world.batches.append) for tier in poller.tiers))

    assert most == 1
    assert domains(world.batches, "block") == domains(world.batches, "vm") == set(world.everybody)

"""What the kernel tells is polled less often: no series is lost, none goes back, none is older."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import structlog
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from virtstatd.catalog import load
from virtstatd.catalog.decode import Decoder
from virtstatd.catalog.recipe import Value
from virtstatd.collect.bulk.answer import MONITOR, POLLED, SPARED, Answer
from virtstatd.collect.bulk.control import Verdicts
from virtstatd.collect.bulk.exceptions import Exceptions
from virtstatd.collect.bulk.monitors import Monitors
from virtstatd.collect.bulk.options import TIERS, MonitorOptions, PollOptions, note, slow_interval
from virtstatd.collect.bulk.pace import Pace
from virtstatd.collect.bulk.poller import KIND, Poller
from virtstatd.collect.bulk.sweep import Sweep
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.parts import Parts
from virtstatd.collect.tier import Tier
from virtstatd.collector import Up
from virtstatd.hypervisor.arrivals import Arrival
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Domain, Kind, Labels, Number, Reading
from virtstatd.pipeline.one_source import OneSource
from virtstatd.runtime.ticker import Ticker
from virtstatd.serving.latest import Latest


SECOND = 1_000_000_000
TICK = 10_000_000
"""Libvirt's times are in steps of it."""

GUESTS = 3
CATALOG = load()
OPTIONS = PollOptions()
TOLD = {
    POLLED[name].bit: families
    for name, families in {
        "interface": {"libvirt_domain_interface_stats_receive_bytes"},
        "cpu_total": {"libvirt_domain_info_cpu_time_seconds"},
        "vcpu": {"libvirt_domain_vcpu_time_seconds", "libvirt_domain_vcpu_delay_seconds"},
        "balloon": {"libvirt_domain_memory_stats_rss_bytes"},
    }.items()
}
"""Some of what both tell, by libvirt's flags."""

Page = dict[tuple[str, str, Labels], tuple[Kind, Number]]


@dataclass
class Guest:
    """A guest, and what about it the kernel shows."""

    domain: Domain
    more: dict[str, Value] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def time(self, at: float) -> int:
        """Return a counter in nanoseconds."""
        return 7 * SECOND + int(at * 0.37 * SECOND)

    def record(self, bits: int, at: float) -> dict[str, Value]:
        """Return libvirt's record for some groups."""
        time = self.time(at) // TICK * TICK
        nic = self.domain.name.replace("vm", "vnet")
        counters = {f"net.0.{way}.{what}": int(at) for way in ("rx", "tx") for what in NET}
        of: dict[str, dict[str, Value]] = {
            "state": {"state.state": 1, "state.reason": 1},
            "interface": {"net.count": 1, "net.0.name": nic, **counters},
            "cpu_total": {
                "cpu.time": time,
                "cpu.user": time // 2,
                "cpu.system": time // 4,
                "cpu.haltpoll.success.time": time // 8,
            },
            "vcpu": {
                "vcpu.current": 1,
                "vcpu.maximum": 1,
                "vcpu.0.state": 1,
                "vcpu.0.time": time,
                "vcpu.0.wait": 0,
                "vcpu.0.delay": time,
                "vcpu.0.halted": 0,
                "vcpu.0.exits.sum": int(at),
            },
            "balloon": {
                "balloon.current": 1024,
                "balloon.maximum": 1024,
                "balloon.last-update": 0,
                "balloon.rss": 4,
            },
            "block": {
                "block.count": 1,
                "block.0.name": "vda",
                "block.0.backingIndex": 1,
                "block.0.rd.reqs": int(at),
            },
        }
        record = {
            key: value
            for name, rows in of.items()
            if POLLED[name].bit & bits
            for key, value in rows.items()
        }
        asked = {POLLED[name].name for name in of if POLLED[name].bit & bits}
        return record | {k: v for k, v in self.more.items() if k.partition(".")[0] in asked}


NET = ("bytes", "pkts", "errs", "drop")


class Scene:
    """A poller and the kernel, one stage that chooses between both, and a page; time is passed."""

    def __init__(self, *, sparing: bool = True, named: Sequence[str] = ()) -> None:
        self.now = 1000.0
        self.guests = [
            Guest(Domain(f"u{at}", f"vm{at}", at + 1, (("domain", f"vm{at}"),)))
            for at in range(GUESTS)
        ]
        self.asked: Counter[tuple[str, int]] = Counter()
        self.partial: set[str] = set()
        self._decoder = Decoder(CATALOG, lambda _: None)
        self._shapes = Shapes(CATALOG)
        self._latest = Latest(self.clock, self.wall)
        log = structlog.wrap_logger(structlog.testing.CapturingLogger())
        self.emit = OneSource([self._latest.put], log, self.clock, self.wall)
        self.ticks = {
            name: Ticker(name, getattr(OPTIONS, name).interval_seconds, self.now) for name in TIERS
        }
        self.tiers = [self._tier(name) for name in TIERS]
        self.pace = Pace(
            self.emit.left if sparing else None,
            lambda: self.ticks["extra"].seconds,
            self.clock,
            named,
        )
        sweep = Sweep(
            self,  # type: ignore[arg-type]
            self,
            Monitors(Verdicts(CATALOG), log, self.clock, wall=self.clock),
            Exceptions(log, self.clock),
            log,
            slice_domains=3,
            deadline_seconds=1.0,
            pace=self.pace,
            clock=self.clock,
            sleep=self._no_pause,
        )
        self._poller = Poller(self.tiers, sweep, clock=self.clock)
        self._polls: set[asyncio.Task[None]] = set()
        self._passed = asyncio.Event()
        self._pausing = 0

    def _tier(self, name: str) -> Tier:
        options = getattr(OPTIONS, name)
        groups = frozenset(POLLED[group].name for group in options.groups)
        monitor = bool(options.bits & MONITOR)
        return Tier(name, options.bits, groups, self.ticks[name], monitor)

    def clock(self) -> float:
        """Return monotonic seconds."""
        return self.now

    def wall(self) -> int:
        """Return Unix time in nanoseconds."""
        return int(self.now * SECOND)

    async def _no_pause(self, _: float) -> None:
        pass

    async def pause(self, _: asyncio.Event, *, seconds: float) -> None:
        """Let a poll that is spread over its interval wait for its next turn."""
        until = self.now + seconds
        self._pausing += 1
        while self.now < until:
            await self._passed.wait()
        self._pausing -= 1

    def stretch(self, times: int) -> None:
        """Stretch the intervals as the budget does."""
        for name in ("monitor", "extra"):
            self.ticks[name].stretch(times, self.now)

    # as lanes
    stuck = 0

    async def run(
        self, function: Callable[[None], Answer], _: float, *, monitor: bool, proven: bool
    ) -> Answer:
        """Call at once."""
        del monitor, proven
        await asyncio.sleep(0)
        return function(None)

    # as a source
    def selects(self) -> bool:
        """Leave nobody out."""
        return False

    def known(self) -> int:
        """Return how many there are."""
        return len(self.guests)

    def uuids(self) -> list[str]:
        """Return all."""
        return [guest.domain.uuid for guest in self.guests]

    def running(self, _: object) -> list[str]:
        """Return all."""
        return self.uuids()

    def everyone(self, session: object, bits: int) -> Answer:
        """Answer for all."""
        return self.some(session, bits, self.uuids())

    def some(self, _: object, bits: int, uuids: list[str]) -> Answer:
        """Answer for these."""
        answer = Answer(self.wall())
        for guest in self.guests:
            if guest.domain.uuid in uuids:
                uuid = guest.domain.uuid
                self.asked.update((uuid, bit) for bit in TOLD if bit & bits)
                answer.readings += self._decoder.readings(
                    guest.domain, guest.record(bits, self.now)
                )
                answer.seen.add(uuid)
                answer.domains[uuid] = guest.domain
                if uuid in self.partial and bits & MONITOR:
                    answer.partial[uuid] = (2, 0, 9000)
        return answer

    def held(self, *_: object) -> Answer:
        """Hold nobody."""
        return Answer(self.wall())

    def states(self, *_: object) -> Answer:
        """Answer as nobody asks."""
        return Answer(self.wall())

    def name(self, uuid: str) -> str:
        """Return a name."""
        return uuid

    def look(self) -> None:
        """Read the kernel."""
        local: list[Reading] = []
        cgroups: list[Reading] = []
        for guest in self.guests:
            time = guest.time(self.now)
            if "threads" not in guest.hidden:
                shape = self._shapes.times((("vcpu", 0), ("emulator", 0)))
                local.append(Reading(guest.domain, shape, (time,) * 5 + (4096, 1, 1)))
            if not {"threads", "interfaces"} & guest.hidden:
                links = self._shapes.links([guest.domain.name.replace("vm", "vnet")])
                local.append(Reading(guest.domain, links, (int(self.now),) * len(links.series)))
            if "cgroup" not in guest.hidden and not (int(self.now) + guest.domain.id) % 5:
                facts = ("cpu", "time", ()), ("cpu", "user", ()), ("cpu", "system", ())
                order, shape = self._shapes.facts(facts, "local_cgroup")
                values = (time, time // 2, time // 4)
                cgroups.append(Reading(guest.domain, shape, tuple(values[at] for at in order)))
        self.emit(Batch("local", self.wall(), tuple(local), frozenset({"local", "local_net"}), 5.0))
        cgroup = frozenset({"local_cgroup"})
        self.emit(Batch("local cgroup", self.wall(), tuple(cgroups), cgroup, 15.0))

    async def second(self) -> Page:
        """Let a second pass: the kernel is read, what is due is polled; return the page."""
        self.now += 1
        self.look()
        due = []
        for tier in self.tiers:
            if tier.ticker.due <= self.now:
                tier.ticker.advance(self.now)
                if tier.busy:
                    tier.ticker.skip()
                else:
                    tier.busy = True
                    due.append(tier)
        self.now += 0.01  # libvirt answers a little later
        await self._polled(due)
        page = dict(self._shown())
        self.now -= 0.01
        return page

    async def _polled(self, due: Sequence[Tier]) -> None:
        """Poll tiers, and go on with polls under way, until each has ended or waits."""
        for together in self._poller._together(due):
            self._polls.add(asyncio.create_task(self._poller.poll(together, self.emit)))
        passed, self._passed = self._passed, asyncio.Event()
        passed.set()
        for _ in range(2):  # who waits looks at the time
            await asyncio.sleep(0)
        while sum(not poll.done() for poll in self._polls) > self._pausing:
            await asyncio.sleep(0)
        for poll in [poll for poll in self._polls if poll.done()]:
            self._polls.remove(poll)
            poll.result()

    async def end(self) -> None:
        """End the polls that are still spread."""
        for poll in self._polls:
            poll.cancel()
        await asyncio.gather(*self._polls, return_exceptions=True)

    def _shown(self) -> Iterator[tuple[tuple[str, str, Labels], tuple[Kind, Number]]]:
        shown: set[tuple[str, str, Labels]] = set()
        for members in self._latest.together():
            for held in members:
                domain, shape = held.reading.domain, held.reading.shape
                for series, value in zip(shape.series, held.reading.values, strict=True):
                    key = (domain.uuid if domain else "", series.field.family, series.labels)
                    if key not in shown:
                        shown.add(key)
                        yield key, (series.field.kind, value)


async def passed(scene: Scene, seconds: int) -> None:
    """Let so many seconds pass."""
    for _ in range(seconds):
        await scene.second()


OFTEN = {"interface": 108, "cpu_total": 36, "vcpu": 36, "balloon": 36}
"""How often each group is polled in nine minutes at the interval of its tier."""

RARELY = {"interface": 9, "cpu_total": 9, "vcpu": 9, "balloon": 3}
"""The same for what the kernel has."""


async def settled(scene: Scene) -> Counter[tuple[str, int]]:
    """Return how often what is polled in nine minutes, once all guests have taken turns."""
    await passed(scene, 240)
    with counted(scene) as counts:
        await passed(scene, 540)
    return counts


@contextmanager
def counted(scene: Scene) -> Iterator[Counter[tuple[str, int]]]:
    """Count what is asked of libvirt in a block."""
    scene.asked.clear()
    counts: Counter[tuple[str, int]] = Counter()
    yield counts
    counts.update(scene.asked)


def of(counts: Counter[tuple[str, int]], name: str, uuid: str = "u0") -> int:
    """Return how often a group of a guest was asked."""
    return counts[uuid, POLLED[name].bit]


async def test_what_the_kernel_tells_is_polled_once_a_minute():
    """Each guest's groups are polled once in the slow interval, a balloon once in three of it."""
    scene = Scene()
    counts = await settled(scene)
    for name, often in RARELY.items():
        assert {of(counts, name, uuid) for uuid in scene.uuids()} == {often}, name
    assert scene.pace.counts() == dict.fromkeys(SPARED, GUESTS)


async def test_guests_take_turns():
    """No poll asks all guests for what is polled slowly: the host never pays for all at once."""
    scene = Scene()
    await passed(scene, 180)
    most = 0
    for _ in range(60):
        with counted(scene) as counts:
            await scene.second()
        most = max(most, sum(of(counts, "vcpu", uuid) for uuid in scene.uuids()))
    assert 0 < most < GUESTS


@pytest.mark.parametrize(
    ("hidden", "names"),
    [
        ("threads", {"vcpu", "balloon", "interface"}),
        ("interfaces", {"interface"}),
        ("cgroup", {"cpu_total"}),
    ],
)
async def test_what_the_kernel_hides_of_one_guest_stays_in_its_tier(hidden: str, names: set[str]):
    """A fact that the kernel does not show of a guest is polled as before, of that guest alone."""
    scene = Scene()
    scene.guests[0].hidden.add(hidden)
    counts = await settled(scene)
    for name, rarely in RARELY.items():
        assert of(counts, name) == (OFTEN[name] if name in names else rarely), name
        assert of(counts, name, "u1") == rarely, name


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"net.count": 2, "net.1.name": "vhost-user1", "net.1.rx.bytes": 1}, "interface"),
        (
            {
                "cpu.energy.monitor.count": 1,
                "cpu.energy.monitor.0.pkg.count": 1,
                "cpu.energy.monitor.0.pkg.0.core_energy": 5,
                "cpu.energy.monitor.0.pkg.0.id": 0,
                "cpu.energy.monitor.0.name": "m",
            },
            "cpu_total",
        ),
        ({"vcpu.0.later": 1}, "vcpu"),
        ({"balloon.usable": 1}, "balloon"),
    ],
)
async def test_what_libvirt_alone_tells_keeps_its_group_in_the_tier(
    more: dict[str, Value], name: str
):
    """A vhost-user NIC, a cache monitor, an unknown key or a balloon's period: polled as before."""
    scene = Scene()
    scene.guests[0].more.update(more)
    counts = await settled(scene)
    for each, rarely in RARELY.items():
        assert of(counts, each) == (OFTEN[each] if each == name else rarely), each
        assert of(counts, each, "u1") == rarely, each


async def test_a_balloon_is_polled_where_nothing_else_shows_whether_a_monitor_hangs():
    """Of a guest without a disk that counts requests, the balloon is polled as before."""
    scene = Scene()
    scene.guests[0].more["block.1.name"] = "vdb"
    scene.guests[0].more["block.1.backingIndex"] = 2
    counts = await settled(scene)
    assert of(counts, "balloon") == OFTEN["balloon"]
    assert of(counts, "balloon", "u1") == RARELY["balloon"]


async def test_groups_that_the_file_names_are_polled_as_it_says():
    """A tier whose groups are named polls them all of all guests; the others' are spared."""
    scene = Scene(named=["monitor"])
    counts = await settled(scene)
    wanted = OFTEN | {"interface": RARELY["interface"]}
    assert {name: of(counts, name) for name in SPARED} == wanted


@pytest.mark.parametrize(("extra", "balloon"), [(60, 180), (300, 600), (900, 900)])
def test_a_balloon_is_polled_more_rarely(extra: float, balloon: float):
    """Three intervals of the tier extra, ten minutes at most, and never more often than that."""
    assert slow_interval("balloon", extra) == balloon
    assert slow_interval("vcpu", extra) == extra


def test_the_options_know_whether_their_groups_are_named():
    """Groups in a file are named, also where they are those of the default."""
    assert not OPTIONS.monitor.named
    named = PollOptions(monitor=MonitorOptions(groups=tuple(OPTIONS.monitor.groups)))
    assert named.monitor.named
    assert named == OPTIONS
    assert note(OPTIONS) == ""
    assert "poll.monitor names cpu_total, balloon, vcpu:" in note(named)


async def test_what_changes_is_polled_at_the_next_tick():
    """After an event of a guest, after libvirt was away, everything is polled again."""
    scene = Scene()
    await passed(scene, 180)
    with counted(scene) as counts:
        scene.pace.changed(Arrival("balloon_change", "u1", "vm1", 2, (), 0), scene.guests[1].domain)
        await passed(scene, 15)
    assert all(of(counts, name, "u1") >= 1 for name in SPARED)
    with counted(scene) as counts:
        scene.pace.reset()
        await passed(scene, 15)
    assert all(of(counts, name, uuid) >= 1 for name in SPARED for uuid in scene.uuids())


async def test_a_guest_that_was_stepped_over_is_not_left_out():
    """What lacks the monitor's numbers is no reading to live on: it is polled at each tick."""
    scene = Scene()
    scene.partial.add("u0")
    await passed(scene, 180)
    with counted(scene) as counts:
        await passed(scene, 60)
    assert of(counts, "vcpu") >= 4
    assert of(counts, "vcpu", "u1") == 1


BLINDNESS = st.tuples(
    st.integers(0, GUESTS - 1),
    st.sampled_from(["threads", "interfaces", "cgroup"]),
    st.integers(1, 150),
    st.integers(1, 90),
)


class Libvirt:
    """A connection to a guest, and its handle, whose record is what the kernel has too."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        record = Guest(VM).record(OPTIONS.pulse.bits | OPTIONS.monitor.bits, 1000.0)
        answers = {
            "UUIDString": VM.uuid,
            "name": VM.name,
            "ID": VM.id,
            "listAllDomains": [self],
            "domainListGetStats": [(self, record)],
            "getAllDomainStats": [(self, record)],
            "controlInfo": (0, 0, 0),
            "close": 0,
            "isAlive": True,
        }
        return lambda *_: answers[name]


VM = Domain("u0", "vm0", 1, (("domain", "vm0"),))
EVERYTHING = dict.fromkeys(SPARED, 1)


async def test_events_and_what_the_kernel_leaves_arrive_at_the_poller_that_is_built():
    """What the pipeline says of the kernel spares a guest; an event of its devices ends that."""
    up, inventory = Up(up=True), Inventory()
    log = structlog.wrap_logger(structlog.testing.CapturingLogger())
    session: Session = Session(Libvirt())
    lanes = Lanes(lambda: session, 1, up)
    connection = Connection(lambda: session, inventory, log, up)
    there = Hypervisor(up, inventory, lanes, connection, None, "", 25, 5.0, lambda: session)
    parts = Parts(CATALOG, there, log, frozenset(), 1.0, asyncio.Event(), left=lambda *_: None)
    try:
        built = KIND.built(OPTIONS, parts)
        assert isinstance(built, Poller)
        await built.once(lambda _: None)
        assert built.spared() == EVERYTHING
        for name, left in (("reboot", EVERYTHING), ("balloon_change", dict.fromkeys(SPARED, 0))):
            for call in connection._tell:
                call(Arrival(name, VM.uuid, VM.name, 1, (), 0), VM)
            assert built.spared() == left
        rows = [labels["group"] for row, labels, _ in built.numbers() if row == "slow_domains"]
        assert rows == list(SPARED)
        blind = KIND.built(OPTIONS, replace(parts, left=None))
        assert isinstance(blind, Poller)
        await blind.once(lambda _: None)
        assert blind.spared() == {}
    finally:
        await lanes.close(5.0)


STRETCHES = st.tuples(st.integers(10, 230), st.integers(1, 12))


async def pages(
    scene: Scene, blind: Sequence[tuple[int, str, int, int]], stretches: Sequence[tuple[int, int]]
) -> list[Page]:
    """Return the page of each second, while the kernel hides some and the budget stretches."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("virtstatd.collect.bulk.poller.first_of", scene.pause)
        for second in range(1, 241):
            for at, guest in enumerate(scene.guests):
                guest.hidden = {
                    what
                    for who, what, begin, length in blind
                    if who == at and begin <= second < begin + length
                }
            for at, times in stretches:
                if at == second:
                    scene.stretch(times)
            found.append(await scene.second())
        await scene.end()
    return found


@example(blind=[], stretches=[])
@example(blind=[(0, "threads", 70, 20)], stretches=[])
@example(blind=[(1, "threads", 4, 79)], stretches=[])  # libvirt's first readings are still shown
@example(blind=[(1, "interfaces", 116, 70)], stretches=[(20, 4), (150, 1)])
@given(blind=st.lists(BLINDNESS, max_size=12), stretches=st.lists(STRETCHES, max_size=4))
@settings(max_examples=9, deadline=None, phases=[Phase.explicit, Phase.generate])
async def test_no_series_is_lost_goes_back_or_is_older(
    blind: list[tuple[int, str, int, int]], stretches: list[tuple[int, int]]
):
    """
    Each second the page has what it had without sparing.

    That holds whatever the kernel hides when, and however the budget stretches the intervals.
    """
    both = set().union(*TOLD.values())
    before: Page = {}
    shown = await pages(Scene(), blind, stretches)
    usual = await pages(Scene(sparing=False), blind, stretches)
    for second, (page, expected) in enumerate(zip(shown, usual, strict=True), 1):
        assert not expected.keys() - page.keys(), second
        for key, (kind, value) in page.items():
            if kind is Kind.COUNTER and key in before:
                assert value >= before[key][1], (second, key)
            if key[1] in both and key in expected:
                assert value >= expected[key][1], (second, key)
        before = page

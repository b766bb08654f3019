"""
What one guest does to the bulk statistics costs that guest alone.

libvirt-python asks a simulated libvirtd through the agent's lanes, poll after poll and without
waits, since counts are compared and no times. Faults strike one, two or five of sixty guests.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import combinations, product
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple

import libvirt
import pytest
import structlog
from structlog.testing import capture_logs

from support.agent import running
from support.simulator import simulated
from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.bulk.answer import MONITOR, POLLED
from virtstatd.collect.bulk.call import BulkCall
from virtstatd.collect.bulk.control import Verdicts
from virtstatd.collect.bulk.exceptions import RETRY_SECONDS, Exceptions
from virtstatd.collect.bulk.monitors import Monitors
from virtstatd.collect.bulk.poller import Poller
from virtstatd.collect.bulk.sweep import Sweep
from virtstatd.collect.tier import Tier
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Series, Shape
from virtstatd.runtime.ticker import Ticker
from virtstatd_simulator import Simulator


GUESTS: Final = 60
INTERVALS: Final = 5
INTERVAL_SECONDS: Final = 5.0
STRETCH: Final = 12

LINES: Final = {
    "refused": ("domain.refused", "domain.answered"),
    "oversize": ("domain.refused", "domain.answered"),
    "hung": ("domain.unresponsive", "domain.responsive"),
    "undecodable": ("domain.undecodable", "domain.decodable"),
}
"""What the log says of a guest when a fault begins and when it ends."""

GROUPS: Final = {each.name: each for each in POLLED.values()}
"""The groups by the names that readings have for them."""


class Case(NamedTuple):
    """One fault; `group` is `every` for all of them, `size` the length of a slice."""

    fault: str
    group: str
    many: int
    place: str
    tiers: str
    size: int

    def __str__(self) -> str:
        """Name it."""
        return "-".join(map(str, self))


FAULTS: Final = ("refused", "oversize", "hung", "vanished", "held", "undecodable", "slow")
MANY: Final = (1, 2, 5)
PLACES: Final = ("first", "middle", "last")
TIERS: Final = ("three", "alone", "one", "spread")
SIZES: Final = (7, 25, 100)
FACTORS: Final = (FAULTS, (*POLLED, "every"), MANY, PLACES, TIERS, SIZES)


def case_of(row: tuple[int, ...]) -> Case:
    """Return a case by the places of its values among those of the factors."""
    values: list[Any] = [factor[at] for factor, at in zip(FACTORS, row, strict=True)]
    return Case(*values)


def every_pair() -> Iterator[Case]:
    """Yield few cases in which any two values of different factors come together at least once."""

    def pairs(row: dict[int, int]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(sorted(row.items()), 2))

    left = {
        ((a, x), (b, y))
        for a, b in combinations(range(len(FACTORS)), 2)
        for x, y in product(range(len(FACTORS[a])), range(len(FACTORS[b])))
    }
    turn = 0
    while left:
        turn += 1
        row = dict(min(left))
        for factor in range(len(FACTORS)):
            if factor not in row:
                values = range(len(FACTORS[factor]))
                row[factor] = max(
                    # values that are as good as each other take turns
                    (*values[turn % len(values) :], *values[: turn % len(values)]),
                    key=lambda value, at=factor: len(pairs({**row, at: value}) & left),  # type: ignore[misc]
                )
        left -= pairs(row)
        yield case_of(tuple(at for _, at in sorted(row.items())))


def every_case() -> Iterator[Case]:
    """Yield each fault with each group, number and place; tiers and slices take turns."""
    four = product(*(range(len(factor)) for factor in FACTORS[:4]))
    for number, row in enumerate(four):
        yield case_of((*row, number % len(TIERS), number // len(TIERS) % len(SIZES)))


Seen = dict[tuple[str, str], frozenset[int]]
"""The series of each group of each guest, by the guest's name; each series has a number."""


class TimelessLanes(Lanes):
    """Lanes where a call is past its deadline when it hangs, and all others have been answered."""

    def __init__(self, simulator: Simulator, width: int) -> None:
        super().__init__(lambda: Session(libvirt.openReadOnly(simulator.uri)), width)
        self._host = simulator.host

    async def _wait(self, future: asyncio.Future[Any], _: float, *, monitor: bool) -> None:
        while not future.done() and not (monitor and self._hangs()):
            await asyncio.sleep(0.001)

    def _hangs(self) -> bool:
        held = sum(
            guest.hung is not None and guest.job.locked() for guest in self._host.guests.values()
        )
        return held == self._asking + self.stuck


class Host:
    """Sixty simulated guests, and a collector that polls them when the test says so."""

    def __init__(
        self, simulator: Simulator, case: Case, patch: pytest.MonkeyPatch, width: int
    ) -> None:
        self.simulator, self.case = simulator, case
        self.now = 1.0
        self.batches: list[Batch] = []
        self.lanes = TimelessLanes(simulator, width)
        self.inventory = Inventory()
        log = structlog.get_logger()
        self.monitors = Monitors(Verdicts(shipped()), log, self.clock)
        self.sweep = Sweep(
            self.lanes,
            BulkCall(self.inventory, Decoder(shipped(), lambda _: None)),
            self.monitors,
            Exceptions(log, self.clock),
            log,
            slice_domains=case.size,
            deadline_seconds=INTERVAL_SECONDS,
            clock=self.clock,
            sleep=self.sleep,
        )
        self.poller = Poller(list(self._tiers()), self.sweep, clock=self.clock)
        self.held: list[str] = []
        self._numbers: dict[Series, int] = {}
        self._series: dict[Shape, frozenset[int]] = {}
        simulator.host.clock = self.clock
        patch.setattr("virtstatd.collect.bulk.poller.first_of", self.pause)

    def clock(self) -> float:
        """Return the time, which polls and pauses alone move."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let a second pass at once; what others held for a moment is free again."""
        self.now += seconds
        if self.held:
            await self.do("release", domains=self.held)

    async def pause(self, _: asyncio.Event, *, seconds: float) -> None:
        """Let the time between two turns of a poll that is spread pass at once."""
        await self.do("release", domains=self.held)
        self.now += seconds
        await self.hold()

    async def hold(self) -> None:
        """Have others hold guests for a moment, which ends when the agent sleeps."""
        if self.held:
            await self.do("hold", domains=self.held, seconds=60.0)

    def _tiers(self) -> Iterator[Tier]:
        names = ("pulse", "monitor", "extra")
        layout = {
            name: [option for option, each in POLLED.items() if each.tier == name] for name in names
        }
        if self.case.tiers == "one":
            layout = {"monitor": list(POLLED)}
        elif self.case.tiers == "alone" and self.case.group != "every":
            layout = {"pulse": ["state"], "monitor": [self.case.group]}
        for name, options in layout.items():
            bits = sum(POLLED[option].bit for option in options)
            ticker = Ticker(name, INTERVAL_SECONDS, 0.0)
            if self.case.tiers == "spread" and name != "pulse":
                ticker.stretch(STRETCH, 0.0)
            groups = frozenset(POLLED[option].name for option in options)
            yield Tier(name, bits, groups, ticker, monitor=bool(bits & MONITOR))

    async def poll(self) -> Seen:
        """Poll all tiers once, as when they fall due together."""
        self.batches.clear()
        self.now += INTERVAL_SECONDS
        await self.hold()
        await asyncio.gather(
            *(
                self.poller.poll(together, self.batches.append)
                for together in self.poller._together(self.poller.tiers)
            )
        )
        await self.do("release", domains=self.held)
        seen: Seen = defaultdict(frozenset)
        for batch in self.batches:
            for reading in batch.readings:
                if reading.domain and reading.shape.group in GROUPS:
                    assert all(map(isfinite, reading.values))
                    seen[reading.domain.name, reading.shape.group] |= self._seen(reading.shape)
        return dict(seen)

    def _seen(self, shape: Shape) -> frozenset[int]:
        if shape not in self._series:
            numbers = (self._numbers.setdefault(s, len(self._numbers)) for s in shape.series)
            self._series[shape] = frozenset(numbers)
        return self._series[shape]

    def slices(self) -> list[list[str]]:
        """Return the names of the guests as they are asked."""
        ordered = self.monitors.in_order(self.inventory.uuids())
        domains = [self.inventory.get(uuid) for uuid in ordered]
        names = [domain.name for domain in domains if domain]
        return [names[at : at + self.case.size] for at in range(0, len(names), self.case.size)]

    async def begin(self, fault: str, names: list[str], group: str) -> None:
        """Begin a fault of some guests."""
        groups = None if group == "every" else [group]
        match fault:
            case "refused" | "oversize":
                large = fault == "oversize"
                await self.do("refuse", domains=names, groups=groups, too_large=large, times=None)
            case "hung":
                await self.do("hang", domains=names)
            case "vanished":
                await self.do("vanish", domains=names, times=None)
            case "held":
                self.held = names
            case "undecodable":
                await self.do("spoil", domains=names, groups=groups)
            case "slow":
                await self.do("lag", domains=names, seconds=0.02)

    async def end(self) -> None:
        """End all faults, and let calls return that they have held up."""
        self.held = []
        await self.do("clear")
        await self.do("release")
        while self.lanes.abandoned:
            await asyncio.sleep(0.001)

    async def do(self, verb: str, **arguments: object) -> None:
        """Carry out a verb of the simulator."""
        await self.simulator.command(verb, **arguments)


@asynccontextmanager
async def hosting(
    folder: Path, case: Case, patch: pytest.MonkeyPatch, width: int = 2
) -> AsyncIterator[Host]:
    """Run a host with every statistic that libvirt has."""
    socket = folder / "socket"
    async with Simulator(
        socket=socket, domains=GUESTS, profile="complete", libvirt=12
    ) as simulator:
        host = Host(simulator, case, patch, width)
        try:
            yield host
        finally:
            await host.end()
            await host.lanes.close(5.0)


def of(seen: Seen, names: set[str]) -> Seen:
    """Return what was seen of some guests."""
    return {key: series for key, series in seen.items() if key[0] in names}


def concerns(option: str, group: str) -> bool:
    """Tell whether a fault of a group, named as in the configuration, is one of a reading's."""
    return option == "every" or POLLED[option].name == group


def left(fault: str, group: str, before: Seen, seen: Seen) -> bool:
    """Tell whether a guest that is struck has in a poll what it should have."""
    match fault:
        case "refused" | "oversize":
            return seen == {k: all_ for k, all_ in before.items() if not concerns(group, k[1])}
        case "hung":  # what needs no monitor is there, and of the rest what libvirt knows itself
            return all(
                seen.get(key, frozenset()) <= all_
                if GROUPS[key[1]].monitor
                else seen.get(key) == all_
                for key, all_ in before.items()
            )
        case "vanished":
            return not seen
        case "undecodable":
            return all(
                seen.get(key, frozenset()) < all_
                if concerns(group, key[1])
                else seen.get(key) == all_
                for key, all_ in before.items()
            )
    return seen == before


def culprits(case: Case, slices: list[list[str]]) -> list[str]:
    """Return who is struck: neighbours at a place of a slice."""
    match case.place:
        case "first":
            return slices[0][: case.many]
        case "middle":
            part = slices[len(slices) // 2]
            at = (len(part) - case.many) // 2
            return part[at : at + case.many]
    return [name for part in slices for name in part][-case.many :]


def said(logs: list[Any]) -> Counter[tuple[str, str]]:
    """Return how often each event of each guest was logged."""
    return Counter((line["event"], line["domain"]) for line in logs if "domain" in line)


async def check(folder: Path, case: Case, patch: pytest.MonkeyPatch) -> None:
    """Hold one case to the promise from its beginning to its end."""
    async with hosting(folder, case, patch) as host:
        await host.poll()
        before = await host.poll()
        everybody = {name for name, _ in before}
        assert len(everybody) == GUESTS
        slices = host.slices()
        struck = set(culprits(case, slices))
        assert len(struck) == case.many
        expected = of(before, everybody - struck)
        # with one tier what needs no monitor is left out as well, where too many calls hang
        withheld = case.fault == "hung" and case.many > 1 and case.tiers == "one"
        with capture_logs() as logs:
            await host.begin(case.fault, sorted(struck), case.group)
            for number in range(INTERVALS):
                seen = await host.poll()
                if case.fault == "hung" and case.many > 1 and not number:
                    # two calls hang; the last that may is kept for those who answered since then
                    apart = {n for part in slices if struck.isdisjoint(part) for n in part}
                    if case.tiers != "spread":
                        assert of(seen, apart) == of(before, apart)
                    expected = of(seen, everybody - struck)
                assert of(seen, everybody - struck) == expected, f"poll {number + 1} of others"
                for name in struck:
                    had, has = of(before, {name}), of(seen, {name})
                    assert left(case.fault, case.group, had, has) or (withheld and not has)
            await host.end()
            if case.fault in {"refused", "oversize"}:
                host.now += RETRY_SECONDS[0]
            if case.fault == "vanished":
                await host.do("start", count=case.many)
            for _ in range(2):
                seen = await host.poll()
        if case.fault == "vanished":
            assert of(seen, everybody) == expected
            assert len({name for name, _ in seen}) == GUESTS
        else:
            assert seen == before
        if case.fault == "undecodable":
            struck = {n for n, group in before if n in struck and concerns(case.group, group)}
        check_log(case, struck, said(logs), monitors=any(t.monitor for t in host.poller.tiers))


def check_log(
    case: Case, struck: set[str], lines: Counter[tuple[str, str]], *, monitors: bool
) -> None:
    """Check that each guest that is struck was named once, and so was its return."""
    begins, ends = LINES.get(case.fault, ("", ""))
    if not begins or (case.fault == "hung" and not monitors):
        assert not lines
        return
    named = {name for _, name in lines}
    assert lines == Counter((event, name) for event in (begins, ends) for name in named)
    if case.fault == "hung" and case.many > 1:
        assert named
        assert named <= struck
    else:
        assert named == struck


def alone() -> Iterator[Case]:
    """Yield the groups for which a monitor is asked as tiers of their own."""
    for fault, (option, group) in product(("hung", "held"), POLLED.items()):
        if group.monitor:
            yield Case(fault, option, 2 if fault == "held" else 1, "last", "alone", 25)


@pytest.mark.parametrize("case", [*every_pair(), *alone()], ids=str)
async def test_what_one_guest_does_costs_it_alone(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The others miss nothing in any poll; the culprit is named once, and so is its return."""
    await check(tmp_path, case, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("case", list(every_case()), ids=str)
async def test_each_fault_of_each_group(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same with each group, number of guests and place."""
    await check(tmp_path, case, monkeypatch)


MIXED: Final = {
    "refused": "vm",
    "oversize": "block",
    "hung": "every",
    "held": "every",
    "undecodable": "balloon",
    "slow": "every",
}


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("size", SIZES)
async def test_each_of_many_faults_costs_its_guest_alone(
    size: int, tiers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Six guests with a fault each at the same time: nobody has the fault of another one."""
    case = Case("many", "every", 1, "", tiers, size)
    async with hosting(tmp_path, case, monkeypatch) as host:
        await host.poll()
        before = await host.poll()
        everybody = {name for name, _ in before}
        struck = dict(zip(sorted(everybody)[::10], MIXED, strict=True))
        with capture_logs() as logs:
            for name, fault in struck.items():
                await host.begin(fault, [name], MIXED[fault])
            for _ in range(INTERVALS):
                seen = await host.poll()
                assert of(seen, everybody - struck.keys()) == of(before, everybody - struck.keys())
                for name, fault in struck.items():
                    assert left(fault, MIXED[fault], of(before, {name}), of(seen, {name})), fault
            await host.end()
            host.now += RETRY_SECONDS[0]
            for _ in range(2):
                seen = await host.poll()
        assert seen == before
        assert said(logs) == Counter(
            (event, name) for name, fault in struck.items() for event in LINES.get(fault, ())
        )


async def test_refusals_while_calls_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With as many calls stuck as may be, who is refused is found, and others lack nothing."""
    case = Case("many", "every", 1, "", "three", 25)
    async with hosting(tmp_path, case, monkeypatch) as host:
        await host.poll()
        before = await host.poll()
        everybody = {name for name, _ in before}
        first, second, *others = sorted(everybody)
        for hung in (first, second):
            await host.begin("hung", [hung], "every")
            await host.poll()
        assert host.lanes.stuck == 2
        struck = set(others[::20])
        with capture_logs() as logs:
            await host.begin("refused", sorted(struck), "block")
            for _ in range(INTERVALS):
                seen = await host.poll()
                well = set(others) - struck
                assert of(seen, well) == of(before, well)
                for name in struck:
                    assert left("refused", "block", of(before, {name}), of(seen, {name}))
            assert host.lanes.stuck == 2
            await host.do("clear")
            host.now += RETRY_SECONDS[0]
            for _ in range(2):
                seen = await host.poll()
            assert of(seen, set(others)) == of(before, set(others))
        lines = {line: n for line, n in said(logs).items() if line[1] not in {first, second}}
        assert lines == {(event, name): 1 for name in struck for event in LINES["refused"]}


@pytest.mark.parametrize("fault", ["refused", "oversize", "undecodable"])
@pytest.mark.parametrize("size", SIZES)
async def test_guests_that_are_bad_from_the_start(
    fault: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Five that come first, on one lane and before anybody was answered, are still only five."""
    case = Case(fault, "vcpu", 5, "first", "three", size)
    async with hosting(tmp_path, case, monkeypatch, width=1) as host:
        names = {guest.uuid.hex(): name for name, guest in host.simulator.host.by_name.items()}
        struck = {names[uuid] for uuid in sorted(names)[:5]}
        others = set(names.values()) - struck
        with capture_logs() as logs:
            await host.begin(fault, sorted(struck), case.group)
            first = await host.poll()
            await host.end()
            host.now += RETRY_SECONDS[0]
            before = await host.poll()
        assert of(first, others) == of(before, others)
        for name in struck:
            assert left(fault, case.group, of(before, {name}), of(first, {name}))
        assert said(logs) == Counter((event, name) for event in LINES[fault] for name in struck)


@pytest.mark.parametrize("size", SIZES)
async def test_a_guest_that_answers_after_the_deadline(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It costs its slice a second question in each poll, and no other guest a number."""
    case = Case("late", "every", 1, "", "three", size)
    async with hosting(tmp_path, case, monkeypatch) as host:
        await host.poll()
        before = await host.poll()
        (late, *others) = sorted({name for name, _ in before})
        for _ in range(3):
            await host.begin("hung", [late], "every")
            seen = await host.poll()
            assert of(seen, set(others)) == of(before, set(others))
            assert left("hung", "every", of(before, {late}), of(seen, {late}))
            await host.end()
        assert await host.poll() == before


class Lines:
    """A file of JSON lines that grows: how often each group of each guest was read."""

    def __init__(self, file: Path) -> None:
        self._file, self._at = file, 0
        self._seen: set[tuple[str, str, str]] = set()

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how often until now."""
        with self._file.open("rb") as lines:
            lines.seek(self._at)
            whole, end, _ = lines.read().rpartition(b"\n")
        self._at += len(whole + end)
        for line in map(json.loads, whole.splitlines()):
            if line["group"] in GROUPS:
                self._seen.add((line["domain"], line["group"], line["time"]))
        return Counter((domain, group) for domain, group, _ in self._seen)

    def polls(self) -> int:
        """Return how many polls of monitors a guest was in."""
        return max((n for (_, group), n in self.counts().items() if group == "vcpu"), default=0)


@pytest.mark.slow
def test_a_running_agent_with_a_fault_of_each_kind(tmp_path: Path):
    """By its own ticks and in its file the others miss no poll; each culprit is named once."""
    file = tmp_path / "lines"
    with (
        simulated(tmp_path, f"--domains={GUESTS}", "--profile=complete", "--libvirt=12") as sim,
        running(tmp_path, sim.uri, pulse=1.0, monitor=3.0, extra=3.0, lines=file) as agent,
    ):
        agent.wait_for(file.exists)
        lines = Lines(file)
        agent.wait_for(lambda: lines.polls() >= 2)
        everybody = sorted({domain for domain, _ in lines.counts()})
        assert len(everybody) == GUESTS
        refused, large, hung, nonsense, slow = struck = everybody[::12]
        sim.do("refuse", domains=[refused], groups=["vcpu"], times=None)
        sim.do("refuse", domains=[large], groups=["block"], times=None, too_large=True)
        sim.do("hang", domains=[hung])
        sim.do("spoil", domains=[nonsense], groups=["balloon"])
        sim.do("lag", domains=[slow], seconds=0.02)
        agent.wait_for(lambda: agent.events("domain.unresponsive"))
        before, polls = lines.counts(), lines.polls()
        agent.wait_for(lambda: lines.polls() >= polls + INTERVALS)
        counts = lines.counts()
        sim.do("release")
        agent.wait_for(lambda: agent.events("domain.responsive"))
        sim.do("clear")
        agent.wait_for(lambda: agent.events("domain.decodable"))
        sim.do("restart")  # what is refused is forgotten then
        back = {(refused, "vcpu"), (large, "block")}
        agent.wait_for(lambda: all(lines.counts()[each] > counts[each] for each in back))
    for group in GROUPS:
        most = max(n for (name, of), n in counts.items() if of == group and name not in struck)
        for name in everybody:
            if (name, group) in back:
                assert counts[name, group] == before[name, group]
            elif name != hung or not GROUPS[group].monitor:
                has = (name, group) in before  # not every guest has every group
                assert counts[name, group] in ({most - 1, most} if has else {0}), (name, group)
    for event, names in {
        "domain.refused": [refused, large],
        "domain.unresponsive": [hung],
        "domain.responsive": [hung],
        "domain.undecodable": [nonsense],
        "domain.decodable": [nonsense],
    }.items():
        assert sorted(str(line["domain"]) for line in agent.events(event)) == sorted(names)

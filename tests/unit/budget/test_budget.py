"""The cost budget: what is learned from what was spent, and what gives way."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from virtstatd.budget.budget import SETTLING_SECONDS, Budget
from virtstatd.budget.cost import Meter
from virtstatd.budget.processes import Daemon, Qemus, UnseenClock, socket_of
from virtstatd.hypervisor.processes import Processes
from virtstatd.runtime.ticker import Ticker


@dataclass
class Tier:
    """A tier whose polls cost what the test says."""

    ticker: Ticker
    cost: float
    asking: bool = False
    asked: float = 0.0


@dataclass
class Kernel:
    """A collector of the kernel's numbers whose looks cost what the test says."""

    ticker: Ticker
    cost: float
    cpu_seconds: float = 0.0


@dataclass
class Host:
    """A host on which time passes as the test wants it; `own` is spent each second besides."""

    tiers: list[Tier]
    own: float = 0.0
    now: float = 0.0
    total: float = 0.0
    asking: float = 0.0
    polls: dict[str, int] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)
    kernel: Kernel | None = None

    def spent(self) -> dict[str, float]:
        """Return everything."""
        return {"agent": self.total}

    def asked(self) -> float:
        """Return the polls' share."""
        return self.asking

    def budget(self, percent: float, cpus: int = 10) -> Budget:
        """Return a budget on this host."""
        log = structlog.get_logger()
        return Budget(self.tiers, self, percent, log, lambda: self.now, cpus, self.kernel)

    def live(self, budget: Budget, seconds: int) -> float:
        """Let seconds pass, reviewed one by one; return what was spent, as a share of the CPUs."""
        before = self.total
        self.polls = {tier.ticker.name: 0 for tier in self.tiers}
        for _ in range(seconds):
            self.now += 1
            self.total += self.own
            if self.kernel and self.kernel.ticker.due <= self.now:
                self.kernel.ticker.advance(self.now)
                self.kernel.cpu_seconds += self.kernel.cost
                self.total += self.kernel.cost
            for tier in self.tiers:
                if tier.ticker.due <= self.now:
                    tier.ticker.advance(self.now)
                    tier.asked += 1
                    self.total += tier.cost
                    self.asking += tier.cost
                    self.polls[tier.ticker.name] += 1
            budget.review()
        return (self.total - before) / seconds / 10


def host(pulse: float, monitor: float, extra: float, own: float = 0.0) -> Host:
    """Return a host with the usual intervals, on which polls cost so many seconds."""
    costs = {"pulse": (5.0, pulse), "monitor": (15.0, monitor), "extra": (60.0, extra)}
    return Host([Tier(Ticker(n, i, 0.0), cost) for n, (i, cost) in costs.items()], own)


@pytest.mark.parametrize(
    ("pulse", "monitor", "extra", "own"),
    [(0.05, 1.4, 0.6, 0.01), (0.01, 8.0, 1.0, 0.0), (0.02, 0.3, 20.0, 0.01)],
)
def test_what_would_cost_too_much_is_held_to_the_budget(
    pulse: float, monitor: float, extra: float, own: float
):
    """Whichever tier is dear, the host spends the budget and not much less; the pulse keeps on."""
    there = host(pulse, monitor, extra, own)
    budget = there.budget(0.5)
    unlimited = own + pulse / 5 + monitor / 15 + extra / 60
    there.live(budget, 1200)
    share = there.live(budget, 1200)

    assert unlimited / 10 > 0.005, "without a limit it would be more"
    assert 0.6 * 0.005 < share <= 1.05 * 0.005
    assert there.polls["pulse"] == 240
    assert budget.ratio == pytest.approx(share, rel=0.15)


def test_looks_at_the_kernel_are_stretched_last_and_restored_first():
    """They count; they are stretched for what the tiers at their longest leave, and no further."""
    there = host(0.01, 0.3, 0.1)
    there.kernel = Kernel(Ticker("kernel", 1.0, 0.0), 0.02)
    budget = there.budget(0.3)
    there.live(budget, 600)
    assert budget.times > 1, "the tiers are stretched for what the looks cost"
    assert there.kernel.ticker.seconds == 1

    there.kernel.cost = 0.1
    there.live(budget, 1200)
    share = there.live(budget, 1200)
    assert share <= 1.05 * 0.003
    assert there.tiers[1].ticker.seconds == 300
    assert 4 <= there.kernel.ticker.seconds <= 6
    assert there.polls["pulse"] == 240
    assert budget.ratio == pytest.approx(share, rel=0.15)

    there.kernel.cost = 0.001
    seen = []
    for _ in range(1200):
        there.live(budget, 1)
        seen.append((budget.times, budget.looks))
    assert seen[-1] == (1, 1)
    assert all(times == 20 for times, looks in seen if looks > 1)


@pytest.mark.parametrize(("configured", "longest"), [(0.5, 5.0), (1.0, 10.0), (4.0, 8.0), (60, 60)])
def test_no_look_is_stretched_beyond_its_bounds(configured: float, longest: float):
    """Ten times, ten seconds; one that is longer by itself stays as it is."""
    there = host(0.0, 0.1, 0.0)
    there.kernel = Kernel(Ticker("kernel", configured, 0.0), 10.0)
    there.live(there.budget(0.1), 1200)
    assert there.kernel.ticker.seconds == longest


def test_looks_are_stretched_where_nothing_is_polled():
    """With all tiers off there are still the looks."""
    there = Host([], kernel=Kernel(Ticker("kernel", 1.0, 0.0), 0.1))
    budget = there.budget(0.5)
    there.live(budget, 600)
    assert there.live(budget, 600) <= 1.05 * 0.005


def test_a_cheap_host_is_left_alone():
    """Where all is within the budget nothing is stretched and nothing said."""
    there = host(0.01, 0.1, 0.1, 0.01)
    with capture_logs() as logs:
        there.live(there.budget(1.0), 1200)

    assert (there.polls["monitor"], there.polls["extra"]) == (81, 21)
    assert logs == []


def test_each_turn_is_told_once_and_taken_back_when_there_is_room():
    """Guests come and go: one line when intervals grow, one when they are what they were."""
    there = host(0.01, 0.1, 0.1)
    budget = there.budget(0.5)
    with capture_logs() as logs:
        there.live(budget, 300)
        there.tiers[1].cost = 3.0
        there.live(budget, 1200)
        stretched = there.tiers[1].ticker.seconds
        there.tiers[1].cost = 0.1
        there.live(budget, 2400)

    assert stretched > 15
    assert [line["event"] for line in logs] == ["budget.stretched", "budget.restored"]
    assert there.tiers[1].ticker.seconds == there.tiers[1].ticker.configured == 15
    assert there.live(budget, 600) > 0
    assert there.polls["monitor"] == 40


def test_a_cost_at_the_edge_does_not_swing():
    """Costs that vary by a twentieth around the edge of a step leave the interval alone."""
    there = host(0.0, 1.5, 0.0)
    budget = there.budget(0.5)
    there.live(budget, 600)
    seen = set()
    for turn in range(200):
        there.tiers[1].cost = 1.5 * (1.05 if turn % 2 else 0.95)
        there.live(budget, 30)
        seen.add(there.tiers[1].ticker.seconds)

    assert len(seen) <= 2, seen


def test_no_interval_grows_beyond_its_bounds():
    """Twenty times, ten minutes, never the pulse; a budget that cannot be kept is told once."""
    there = host(1.0, 60.0, 60.0)
    budget = there.budget(0.1)
    with capture_logs() as logs:
        there.live(budget, 3600)

    assert [tier.ticker.seconds for tier in there.tiers] == [5, 300, 600]
    assert [line["event"] for line in logs] == ["budget.stretched", "budget.exceeded"]


def test_the_start_is_not_taken_for_the_rule():
    """What only the first seconds cost stretches nothing."""
    there = host(0.01, 5.0, 5.0)
    budget = there.budget(1.0)
    with capture_logs() as logs:
        there.total += 2.0  # descriptions are read, connections opened
        there.live(budget, int(SETTLING_SECONDS))
        for tier in there.tiers[1:]:
            tier.cost = 0.1
        there.live(budget, 600)

    assert logs == []
    assert budget.ratio < 0.001 + 0.1 / 15


def test_a_poll_that_is_spread_teaches_in_parts():
    """A poll dearer than the first is known for what it costs before the next one begins."""
    there = host(0.0, 1.5, 0.0)
    monitor = there.tiers[1]
    budget = there.budget(0.1)
    there.live(budget, 60)
    monitor.ticker.due = there.now + 3600  # from now on the test asks
    asked, before = monitor.asked, budget.ratio * monitor.ticker.seconds
    while monitor.asked < asked + 1:
        there.now += 15
        there.total += 3.0 * 15 / monitor.ticker.seconds
        there.asking += 3.0 * 15 / monitor.ticker.seconds
        monitor.asked += 15 / monitor.ticker.seconds
        budget.review()

    assert before < 2.0 / 10
    assert budget.ratio * monitor.ticker.seconds == pytest.approx(3.0 / 10, rel=0.2)


def test_nothing_gives_way_for_what_nothing_else_costs():
    """Where no poll was seen yet, longer intervals are no answer to what the agent uses."""
    there = host(0.0, 0.0, 0.0, own=1.0)
    with capture_logs() as logs:
        there.live(there.budget(0.5), 30)

    assert [tier.ticker.stretched for tier in there.tiers] == [False] * 3
    assert [line["event"] for line in logs] == []


def test_half_a_poll_is_not_judged():
    """What a poll under way has cost so far waits until it is done."""
    there = host(0.0, 5.0, 0.0)
    budget = there.budget(0.5)
    there.tiers[1].asking = True
    there.live(budget, 40)
    assert budget.times == 1
    there.tiers[1].asking = False
    there.live(budget, 40)
    assert budget.times > 1


def test_a_host_on_which_a_poll_always_runs_is_judged_all_the_same():
    """Of several polls the one under way makes little difference."""
    there = host(0.0, 5.0, 0.0)
    budget = there.budget(0.5)
    there.tiers[1].asking = True
    there.live(budget, 300)

    assert budget.times > 1


def test_what_cannot_be_seen_is_said_once():
    """A remote hypervisor leaves the agent's own CPU to watch, and one line about it."""
    there = host(0.01, 0.1, 0.1)
    there.blind = {"libvirtd": "the hypervisor is remote"}
    with capture_logs() as logs:
        there.live(there.budget(1.0), 100)

    assert [(line["event"], line["reason"]) for line in logs] == [
        ("budget.blind", "the hypervisor is remote")
    ]


class Moved:
    """A clock of processes that the test moves."""

    def __init__(self, **times: float) -> None:
        self.blind = ""
        self.now = {int(pid[1:]): each for pid, each in times.items()}

    def times(self) -> dict[int, float]:
        """Return the times as they are."""
        return dict(self.now)

    def close(self) -> None:
        """Have nothing to close."""


class World:
    """A meter and what it reads."""

    def __init__(self, guests: int = 1) -> None:
        self.now = self.own = 0.0
        self.daemon, self.qemus = Moved(p1=5.0), Moved(p7=1.0, p8=2.0)
        self.meter = Meter(
            self.daemon, self.qemus, lambda: guests, lambda: self.now, lambda: self.own
        )

    def spend(self, seconds: float, *, daemon: float = 0.0, qemu: float = 0.0, own: float = 0.0):
        """Let time pass in which so much is spent, by each of the QEMUs."""
        self.now += seconds
        self.own += own
        for pid in self.daemon.now:
            self.daemon.now[pid] += daemon
        for pid in self.qemus.now:
            self.qemus.now[pid] += qemu


def test_only_what_is_spent_while_we_ask_is_ours():
    """What libvirtd and the QEMUs do at other times, and would have done anyway, is not counted."""
    there = World(guests=2)
    with there.meter.asking(monitors=True):
        there.spend(1.0)
    for _ in range(60):
        there.spend(10.0, daemon=1.0, qemu=0.5, own=0.1)  # work for others
        with there.meter.asking(monitors=True):
            there.spend(1.0, daemon=0.1 + 0.3, qemu=0.05 + 0.2, own=0.05)
    spent = there.meter.spent()

    assert spent["libvirtd"] == pytest.approx(60 * 0.3, rel=0.03)
    assert spent["qemu"] == pytest.approx(60 * 2 * 0.2, rel=0.03)
    assert spent["agent"] == pytest.approx(60 * 0.15)
    assert there.meter.asked() == pytest.approx(60 * (0.3 + 0.4 + 0.05), rel=0.03)


def test_some_guests_stand_for_all():
    """Two QEMUs are looked at, the other 98 have spent as much."""
    there = World(guests=100)
    with there.meter.asking(monitors=True):
        there.spend(1.0, qemu=0.01)

    assert there.meter.spent()["qemu"] == pytest.approx(1.0)


def test_calls_side_by_side_are_one():
    """Time in which two calls are in flight is not counted twice."""
    there = World()
    with there.meter.asking(monitors=True):
        there.spend(1.0, daemon=0.1)
        with there.meter.asking(monitors=True):
            there.spend(1.0, daemon=0.1)
        there.spend(1.0, daemon=0.1)

    assert there.meter.spent()["libvirtd"] == pytest.approx(0.3)


def test_who_is_not_asked_is_not_looked_at():
    """A call that asks libvirtd alone costs no look at QEMUs, nor does its end beside another."""
    there = World()
    there.qemus.times = lambda: pytest.fail("looked at")  # type: ignore[method-assign]
    with there.meter.asking(monitors=False):
        there.spend(1.0, daemon=0.1, qemu=0.5)
    del there.qemus.times
    with there.meter.asking(monitors=False):
        there.spend(1.0, daemon=0.1, qemu=0.5)
        with there.meter.asking(monitors=True):
            there.spend(1.0, daemon=0.1, qemu=0.5)
        there.spend(1.0, daemon=0.1, qemu=0.5)

    assert there.meter.spent()["libvirtd"] == pytest.approx(0.4)
    assert there.meter.spent()["qemu"] == pytest.approx(2 * 0.5)


def test_a_call_that_hangs_keeps_nothing_from_being_counted():
    """What is spent beside an endless call is known at the end of the next one."""
    there = World()
    with there.meter.asking(monitors=True):
        there.spend(60.0, daemon=6.0, own=1.0)
        with there.meter.asking(monitors=False):
            there.spend(1.0, daemon=0.5)
        assert there.meter.spent()["libvirtd"] == pytest.approx(6.5)
        assert there.meter.asked() == pytest.approx(7.5)


@pytest.mark.parametrize("hangs", ["begin", "end"])
def test_nobody_waits_for_a_clock_that_hangs(hangs: str):
    """The kernel holds one thread up: what is known is told at once, and other calls go on."""
    there = World()
    reading, go = threading.Event(), threading.Event()
    looks = 0

    def times() -> dict[int, float]:
        nonlocal looks
        looks += 1
        if looks == (1 if hangs == "begin" else 2):
            reading.set()
            go.wait(10)
        return dict(there.daemon.now)

    there.daemon.times = times  # type: ignore[method-assign]

    def call() -> None:
        with there.meter.asking(monitors=False):
            pass

    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert reading.wait(10)
        assert there.meter.spent()["libvirtd"] == 0.0
        assert there.meter.asked() == 0.0
        with there.meter.asking(monitors=True):
            there.spend(1.0, qemu=0.1)
        assert there.meter.spent()["qemu"] == pytest.approx(2 * 0.1)
        there.meter.close()
    finally:
        go.set()
        thread.join(10)
    assert looks <= 2


def test_processes_that_come_and_go_are_no_cost():
    """A daemon that was started anew brings its own history, which is not ours."""
    there = World()
    with there.meter.asking(monitors=True):
        there.daemon.now = {2: 1000.0}
    with there.meter.asking(monitors=True):
        there.spend(1.0, daemon=0.1)

    assert there.meter.spent()["libvirtd"] == pytest.approx(0.1)


def test_a_blind_meter_says_why_and_counts_the_agent():
    """Without any clock but its own the agent's CPU is all there is."""
    own = iter((0.0, 1.0, 3.0, 4.0))
    unseen = UnseenClock("the hypervisor is remote")
    meter = Meter(unseen, unseen, lambda: 5, lambda: 0.0, own.__next__)
    with meter.asking(monitors=True):
        pass

    assert meter.spent() == {"agent": 4.0, "libvirtd": 0.0, "qemu": 0.0}
    assert dict(meter.blind) == dict.fromkeys(("libvirtd", "qemu"), "the hypervisor is remote")
    assert meter.asked() == 2.0


def test_the_daemon_is_who_listens(tmp_path: Path):
    """The process behind the socket is found by the kernel's word and read from /proc."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "libvirt-sock-ro"))
        server.listen()
        daemon = Daemon(tmp_path / "libvirt-sock-ro")
        times = daemon.times()
        daemon.close()
    used = os.times()

    assert list(times) == [os.getpid()]
    assert 0 < times[os.getpid()] <= used.user + used.system + 0.02


def test_a_daemon_that_is_gone_is_blindness(tmp_path: Path):
    """Without a listener there are no times, and a reason."""
    daemon = Daemon(tmp_path / "libvirt-sock-ro")

    assert daemon.times() == {}
    assert "No such file" in daemon.blind


def qemu(proc: Path, pids: Path, number: int) -> None:
    """Make a QEMU: its pid file, its main loop, its monitor's thread and a vCPU."""
    (pids / f"guest-{number}.pid").write_text(str(number))
    process = proc / str(number)
    for thread, name, time in ((number, "qemu", 1), (5001, "IO mon_iothread", 2), (5002, "CPU", 9)):
        folder = process / "task" / str(thread)
        folder.mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "schedstat").write_text(f"{time}000000000 5 6\n")
    (process / "schedstat").write_text("1000000000 5 6\n")
    uuid = f"{number:08x}-1111-4111-8111-111111111111"
    (process / "cmdline").write_bytes(b"qemu\0-uuid\0" + uuid.encode() + b"\0")
    (process / "stat").write_text(f"{number} (qemu) S {'0 ' * 18}77\n")


@pytest.mark.parametrize(("guests", "looked_at"), [(1, 1), (16, 16), (17, 9), (33, 11)])
def test_of_many_guests_some_are_read_and_never_a_vcpu(tmp_path: Path, guests: int, looked_at: int):
    """At most sixteen guests, main loop and monitor: three seconds each."""
    proc, pids = tmp_path / "proc", tmp_path / "qemu"
    proc.mkdir()
    pids.mkdir()
    for number in range(1, guests + 1):
        qemu(proc, pids, number)
    qemus = Qemus(Processes(pids, proc))
    times = qemus.times()
    qemus.close()

    assert len(times) == looked_at
    assert set(times.values()) == {3.0}


def test_a_process_that_is_no_qemu_is_left_alone(tmp_path: Path):
    """A pid file whose process has ended may name anybody's process."""
    proc, pids = tmp_path / "proc", tmp_path / "qemu"
    pids.mkdir()
    qemu(proc, pids, 1)
    (proc / "1/cmdline").write_bytes(b"sleep\0")
    qemus = Qemus(Processes(pids, proc))

    assert qemus.times() == {}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("qemu:///system", "/run/libvirt/virtqemud-sock-ro"),
        ("qemu+unix:///system?socket=/some/where", "/some/where"),
    ],
)
def test_the_socket_is_the_uris_or_the_one_that_is_there(uri: str, expected: str):
    """A URI that names no socket leads to the local daemon's."""
    found = "qemu+unix:///system?socket=/run/libvirt/virtqemud-sock-ro"
    assert socket_of(uri, lambda: found) == Path(expected)

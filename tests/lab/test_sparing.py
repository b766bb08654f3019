"""What the kernel reads of real guests is polled rarely, and the page stays the same."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from lab.support.hypervisor import Lab
from lab.support.watcher import newest, settled, shown, times
from support.agent import Agent, Series, running
from virtstatd.collect.bulk.answer import SPARED
from virtstatd.collect.bulk.options import TIERS, PollOptions


SLOW_SECONDS = 20.0
NAMED = {tier: getattr(PollOptions(), tier).groups for tier in TIERS}
TICKS = 40
"""So many polls of the tier monitor are watched, two slow intervals."""


def sparing(folder: Path, lab: Lab, **others: Any) -> AbstractContextManager[Agent]:
    """Run an agent whose tiers are due each second, but for the slow one."""
    return running(folder, lab.uri_readonly, local=True, monitor=1.0, extra=SLOW_SECONDS, **others)


def slow(agent: Agent) -> dict[str, float]:
    """Return of how many guests each group is polled slowly."""
    return {
        dict(labels)["group"]: value
        for (name, labels), value in agent.samples().items()
        if name == "virtstatd_slow_domains"
    }


def spared(guests: int) -> dict[str, float]:
    """Return what `slow` has where all is spared of so many guests."""
    return dict.fromkeys(SPARED, guests)


def ticks(agent: Agent, tier: str = "monitor") -> float:
    """Return how many polls of a tier were due."""
    return agent.value("virtstatd_ticks_total", tier=tier) or 0


def of_guests(samples: dict[Series, float]) -> dict[Series, float]:
    """Return what is of guests."""
    return {
        key: value
        for key, value in samples.items()
        if any(name == "domain" for name, _ in key[1]) and not key[0].startswith("virtstatd_")
    }


def of_libvirt(lab: Lab, folder: Path) -> set[Series]:
    """Return the series of guests that an agent has without the kernel collector."""
    bare = folder / "without the kernel"
    bare.mkdir()
    with running(bare, lab.uri_readonly) as agent:
        agent.wait_for(
            lambda: all(
                shown(agent, family) == set(lab.names())
                for family in ("libvirt_domain_vcpu_state", "libvirt_domain_iothreads")
            )
        )
        return set(of_guests(agent.samples()))


class Rising:
    """
    Looks at a page all the time; remembers what was missing of it, and what went back.

    Counters are looked at that libvirt has: others of the kernel's begin anew with their process.
    """

    def __init__(self, agent: Agent, libvirts: set[Series]) -> None:
        self._libvirts = libvirts
        self._agent = agent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.wanted: set[Series] = set()
        self.before = of_guests(agent.samples())
        self.missing: Counter[Series] = Counter()
        self.back: list[tuple[Series, float, float]] = []

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            self.take(self._agent)

    def take(self, agent: Agent) -> None:
        """Compare a page with all before."""
        samples = of_guests(agent.samples())
        self.missing.update(self.wanted - samples.keys())
        for key, value in samples.items():
            if (
                key in self._libvirts
                and key[0].endswith("_total")
                and value < self.before.get(key, value)
            ):
                self.back.append((key, self.before[key], value))
            self.before[key] = value


@contextmanager
def watched(agent: Agent, libvirts: set[Series]) -> Iterator[Rising]:
    """Look at the page during a block; no counter may go back, and nothing `wanted` be missing."""
    rising = Rising(agent, libvirts)
    rising._thread.start()
    try:
        yield rising
    finally:
        rising._stop.set()
        rising._thread.join(300)
    assert not rising._thread.is_alive()
    assert rising.missing == Counter()
    assert rising.back == []


def all_spared(agent: Agent, guests: int) -> bool:
    """Tell whether all is spared of so many guests."""
    return slow(agent) == spared(guests)


def test_the_page_is_the_same_with_a_part_of_the_questions(private_lab: Lab, tmp_path: Path):
    """Beside an agent that polls all of all guests, one that spares them has the same series."""
    folders = [tmp_path / name for name in ("sparing", "named")]
    lines = [folder / "lines.jsonl" for folder in folders]
    for folder in folders:
        folder.mkdir()
    guests = len(private_lab.names())
    with (
        sparing(folders[0], private_lab, lines=lines[0]) as agent,
        sparing(folders[1], private_lab, lines=lines[1], groups=NAMED) as named,
    ):
        agent.wait_for(lambda: all_spared(agent, guests))
        assert slow(named) == spared(0)
        named.wait_for(
            lambda: of_guests(agent.samples()).keys() == of_guests(named.samples()).keys()
        )
        assert len(of_guests(agent.samples())) > 100 * guests
        since, begun = [newest(each) for each in lines], ticks(agent)
        agent.wait_for(lambda: ticks(agent) >= begun + TICKS)
    # the state of a vCPU is libvirt's alone: it shows how often libvirt was polled for vCPUs
    counts, usual = [
        times(each, "vcpu", "state", since=at) for each, at in zip(lines, since, strict=True)
    ]
    assert counts.keys() == usual.keys() == set(private_lab.names())
    assert all(counts[name] * 4 < usual[name] for name in usual), (counts, usual)
    assert min(counts.values()) >= TICKS / SLOW_SECONDS - 1
    blocks = [times(each, "block", since=at) for each, at in zip(lines, since, strict=True)]
    assert all(blocks[0][name] * 2 > blocks[1][name] for name in usual), "others are not"


def test_a_guest_that_the_kernel_hides_is_polled_again(private_lab: Lab, tmp_path: Path):
    """
    At the next poll all that libvirt has of it is there, and none of its counters ever goes back.

    That is so, too, when the kernel shows it again.
    """
    libvirts = of_libvirt(private_lab, tmp_path)
    file = private_lab.directory / "run/qemu/guest-0.pid"
    away = file.with_suffix(".away")
    with sparing(tmp_path, private_lab) as agent:
        agent.wait_for(lambda: all_spared(agent, 4))
        assert of_guests(agent.samples()).keys() >= libvirts
        with watched(agent, libvirts) as rising:
            file.rename(away)
            try:
                agent.wait_for(lambda: all_spared(agent, 3))
                settled(agent, lambda: of_guests(agent.samples()).keys() >= libvirts)
                rising.wanted = libvirts
                hidden = ticks(agent)
                agent.wait_for(lambda: ticks(agent) >= hidden + 2 * SLOW_SECONDS)
                assert all_spared(agent, 3)
            finally:
                away.rename(file)
            agent.wait_for(lambda: all_spared(agent, 4))


def test_sparing_begins_anew_after_a_reload_and_a_restart(private_lab: Lab, tmp_path: Path):
    """The series are the same again, none is lower than before, and all is spared again."""
    libvirts = of_libvirt(private_lab, tmp_path)
    with sparing(tmp_path, private_lab) as agent:
        agent.wait_for(lambda: all_spared(agent, 4))
        rising = Rising(agent, libvirts)
        rising.wanted = libvirts
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for(lambda: len(agent.events("agent.started")) == 2)
        agent.wait_for(lambda: all_spared(agent, 4))
        rising.take(agent)
    with sparing(tmp_path, private_lab) as agent:
        agent.wait_for(lambda: all_spared(agent, 4))
        rising.take(agent)
    assert rising.missing == Counter()
    assert rising.back == []

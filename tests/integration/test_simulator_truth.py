"""The comparison with virsh that the lab passes, before the simulator and for newer libvirts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.agent import Agent, running
from support.servers import needs
from support.simulator import simulated, virsh
from support.truth import compare, printed


pytestmark = needs("virsh")


def read(uri: str) -> dict[str, dict[str, str]]:
    """Return what virsh shows of all active guests."""
    return printed(virsh(uri, "domstats", "--raw", "--list-active"))


def polled_anew(agent: Agent) -> str:
    """Return a page whose every number was asked for after this call began."""

    def ticks() -> list[int]:
        found = r'(?m)^virtstatd_ticks_total{tier="(?:pulse|monitor|extra)"} (\d+)$'
        return [int(n) for n in re.findall(found, agent.page())]

    agent.wait_for(lambda: len(ticks()) == 3)
    before = ticks()
    # one poll may be under way, the next is ours
    agent.wait_for(lambda: all(n > b + 1 for n, b in zip(ticks(), before, strict=True)))
    return agent.page()


def once(folder: Path) -> str:
    """Return what the command for a look prints, with the file of the agent that runs."""
    file = folder / "virtstatd.toml"
    return subprocess.run(
        [sys.executable, "-m", "virtstatd", "once", "--config", str(file)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
        text=True,
    ).stdout


@pytest.mark.parametrize(("profile", "release"), [("mixed", 9), ("mixed", 11), ("complete", 12)])
def test_every_number_on_the_page_is_virshs(tmp_path: Path, profile: str, release: int) -> None:
    """While the guests' time stands still every number is virsh's, in two different moments."""
    options = ("--domains=9", f"--profile={profile}", f"--libvirt={release}")
    with (
        simulated(tmp_path, *options) as host,
        running(tmp_path, host.uri, pulse=0.5, monitor=0.5, extra=0.5) as agent,
    ):
        host.do("stop_time")
        early = read(host.uri)
        agreed, moved = compare(early, polled_anew(agent), early)
        assert agreed > 60 * len(early) > 0
        assert moved == 0
        assert read(host.uri) == early
        host.do("start_time")
        agent.wait_for(lambda: read(host.uri) != early)
        host.do("stop_time")
        late = read(host.uri)
        assert compare(late, polled_anew(agent), late)[0] == agreed
        assert compare(late, once(tmp_path), late)[0] == agreed


def spoilt(key: str) -> Callable[[dict[str, str]], dict[str, str]]:
    """Return what changes one number of a guest by one."""
    return lambda stats: stats | {key: str(int(stats[key]) + 1)}


@pytest.mark.parametrize(
    "key",
    [
        "cpu.time",
        "vcpu.1.delay",
        "block.0.rd.times",
        "block.0.limits.discard_max",
        "block.0.timed_group.0.wr_latency_avg",
        "block.0.latency_histogram.read.bin.2.value",
        "cpu.energy.monitor.0.pkg.1.core_energy",
        "cpu.cache.monitor.0.bank.0.bytes",
        "memory.bandwidth.monitor.0.node.1.bytes.local",
        "perf.cache_misses",
        "dirtyrate.megabytes_per_second",
        "vm.pages_4k.cur",
    ],
)
def test_the_comparison_sees_the_smallest_difference(
    complete: tuple[dict[str, dict[str, str]], str], key: str
) -> None:
    """One unit more or less in one number of one guest is found out."""
    stats, page = complete
    compare(stats, page, stats)
    name = next(name for name in stats if key in stats[name])
    wrong = stats | {name: spoilt(key)(stats[name])}
    with pytest.raises(AssertionError):
        compare(wrong, page, wrong)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], str]:
    """Return what virsh and the page show of two guests with every statistic there is."""
    folder = tmp_path_factory.mktemp("complete")
    options = ("--domains=3", "--profile=complete", "--libvirt=12")
    with simulated(folder, *options) as host:
        host.do("stop_time")
        with running(folder, host.uri, extra=1.0) as agent:
            agent.wait_for(lambda: agent.value("libvirt_up"))
            return read(host.uri), polled_anew(agent)

"""The cost budget on real guests: what is measured is true, and what is allowed is kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.watcher import Watch, shown
from support.agent import Agent, running


DISK = "libvirt_domain_block_stats_read_requests_total"


def used(pid: int) -> float:
    """Return the CPU seconds of a process, those of threads that have ended too."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


class Outside:
    """What the agent, libvirtd and QEMUs have used since the last look, by the kernel's word."""

    def __init__(self, agent: Agent, lab: Lab, qemus: Sequence[int]) -> None:
        self._pids = {"agent": [agent.pid], "libvirtd": [lab.pid], "qemu": qemus}
        self._last = self._used()

    def _used(self) -> dict[str, float]:
        return {of: sum(map(used, pids)) for of, pids in self._pids.items()}

    def look(self) -> dict[str, float]:
        """Return the CPU seconds since the last look."""
        before, self._last = self._last, self._used()
        return {of: self._last[of] - before[of] for of in before}


def polls(agent: Agent, tier: str) -> float:
    """Return how many polls of a tier were due."""
    return agent.value("virtstatd_ticks_total", tier=tier) or 0


def test_a_small_budget_slows_the_monitor_and_never_the_pulse(lab: Lab, tmp_path: Path):
    """
    Polls that cost more than is allowed become rare, and what they cost was measured rightly.

    Measured per poll of the pulse and in CPU time, so that a slow machine changes nothing.
    """
    paused = [lab.qemu_pid(name) for name in lab.names() if name != "live"]
    with running(tmp_path, lab.uri_readonly, extra=1.0, budget=0.05) as agent:
        outside = Outside(agent, lab, paused)
        agent.wait_for(lambda: polls(agent, "monitor") >= 6)
        begun, first = polls(agent, "pulse"), outside.look()
        told = {
            of: agent.value("virtstatd_cost_cpu_seconds_total", of=of)
            for of in ("agent", "libvirtd", "qemu")
        }
        agent.wait_for(lambda: agent.events("budget.stretched"))
        agent.wait_for(
            lambda: (agent.value("virtstatd_interval_seconds", tier="monitor") or 0) >= 8
        )
        outside.look()
        since = polls(agent, "pulse")
        agent.wait_for(lambda: polls(agent, "pulse") >= since + 7)
        more, second = polls(agent, "pulse") - since, outside.look()
        samples = agent.samples()
        log = agent.events("budget.stretched")

    def of_tier(name: str) -> float:
        return samples[f"virtstatd_{name}", (("tier", "pulse"),)]

    before = (first["libvirtd"] + first["qemu"]) / begun
    after = (second["libvirtd"] + second["qemu"]) / more
    print(f"per poll of the pulse: {before * 1000:.1f} ms, then {after * 1000:.1f} ms; {told}")
    assert after < before / 2
    assert of_tier("interval_seconds") == of_tier("configured_interval_seconds") == 1
    assert samples["virtstatd_configured_interval_seconds", (("tier", "monitor"),)] == 1
    assert len(log) == 1
    # the live guest is told, but works for itself and is not in what is seen from outside
    guests = (len(paused) + 1) / len(paused)
    assert told["libvirtd"] == pytest.approx(first["libvirtd"], rel=0.5)
    assert told["qemu"] == pytest.approx(first["qemu"] * guests, rel=0.6)
    assert told["agent"] is not None


def test_a_stretched_interval_hides_nobody(lab: Lab, tmp_path: Path):
    """Every guest's disks are shown all the time, while the interval grows and polls are spread."""
    with running(tmp_path, lab.uri_readonly, monitor=1.5, extra=60.0, budget=0.01) as agent:
        wanted = {name for name in lab.names() if name != "live"}
        agent.wait_for(lambda: wanted <= shown(agent, DISK))

        def grown() -> bool:
            return (agent.value("virtstatd_interval_seconds", tier="monitor") or 0) >= 30

        with Watch(agent, DISK, wanted, pause_seconds=1.0) as watch:
            agent.wait_for(grown)
            since = polls(agent, "monitor")
            agent.wait_for(lambda: polls(agent, "monitor") >= since + 3)  # one of them is spread
        samples = agent.samples()
    age = samples["virtstatd_age_seconds", (("tier", "monitor"),)]
    print(f"{watch.looks} looks while the interval grew to {age:.0f} s")
    assert watch.looks > 20
    assert not watch.missing


SOAK = """
[hypervisor]
uri = {uri}
[poll.pulse]
interval_seconds = {pulse}
groups = ["state"]
[poll.monitor]
interval_seconds = {monitor}
groups = ["balloon"]
[poll.extra]
groups = []
[local]
enabled = false
[budget]
host_cpu_percent = 0.2
[[sink]]
type = "prometheus"
listen_address = "127.0.0.1:0"
"""
SOAK_SECONDS = 300
IDLE_SECONDS = 10


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_three_hundred_guests_are_watched_for_a_fifth_of_a_percent(
    many_for_long: Lab, tmp_path: Path
):
    """
    Over five minutes all that monitoring costs is what is allowed, a third more or less.

    The intervals go by the number of CPUs, so that without the budget it would be several times
    as much on any machine.
    """
    cpus = os.cpu_count() or 1
    pulse, monitor = max(0.5, 180 / cpus), max(0.5, 60 / cpus)
    qemus = [many_for_long.qemu_pid(name) for name in many_for_long.names()]
    libvirt = sum(used(pid) for pid in [many_for_long.pid, *qemus])
    time.sleep(IDLE_SECONDS)
    idle = (sum(used(pid) for pid in [many_for_long.pid, *qemus]) - libvirt) / IDLE_SECONDS
    file = tmp_path / "virtstatd.toml"
    uri = json.dumps(many_for_long.uri_readonly)
    file.write_text(SOAK.format(uri=uri, pulse=pulse, monitor=monitor))
    agent = Agent(file)
    try:
        agent.wait_for(lambda: agent.events("budget.stretched"), 300)
        time.sleep(monitor + 10)  # the poll that was promised, and what it teaches
        outside, begun = Outside(agent, many_for_long, qemus), time.monotonic()
        before = polls(agent, "pulse"), polls(agent, "monitor")
        skipped = agent.value("virtstatd_ticks_skipped_total", tier="pulse")
        time.sleep(SOAK_SECONDS)
        seconds, spent = time.monotonic() - begun, outside.look()
        after = polls(agent, "pulse"), polls(agent, "monitor")
        samples = agent.samples()
    finally:
        agent.stop()
    percent = 100 * (sum(spent.values()) / seconds - idle) / cpus
    share = 100 * samples["virtstatd_cost_ratio", ()]
    print(f"{percent:.3f} % of {cpus} CPUs over {seconds:.0f} s, {spent}; by its own word {share}")
    print(f"monitor polls: {after[1] - before[1]}, idle without an agent: {idle:.5f}")
    assert 0.2 * 2 / 3 < percent < 0.2 * 4 / 3
    assert after[0] - before[0] == pytest.approx(seconds / pulse, abs=1.1)
    assert samples["virtstatd_interval_seconds", (("tier", "pulse"),)] == pulse
    assert samples["virtstatd_ticks_skipped_total", (("tier", "pulse"),)] == skipped
    assert samples["virtstatd_interval_seconds", (("tier", "monitor"),)] > monitor

"""The agent when the wall clock is set, and when the agent itself is stopped for a while."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent, running
from support.servers import needs
from support.simulator import simulated
from support.waits import slowness


FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
STEPS = (3600.0, -3600.0, -5.0, 5.0)
GUESTS = 20
NO_EXTRA: dict[str, list[str]] = {"extra": []}

pytestmark = pytest.mark.timeout(240)


def ticks(agent: Agent) -> float:
    """Return how many polls were due."""
    return agent.value("virtstatd_ticks_total", tier="pulse") or 0


@needs("faketime")
def test_a_wall_clock_that_is_set_changes_nothing_but_the_times(tmp_path: Path):
    """An hour or some seconds, forth and back: no burst, no gap, true times, each step counted."""
    lines, offset = tmp_path / "lines", tmp_path / "offset"
    offset.write_text("+0")
    environ: dict[str, Any] = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with (
        simulated(tmp_path, f"--domains={GUESTS}", "--profile=small") as sim,
        running(tmp_path, sim.uri, groups=NO_EXTRA, lines=lines, **environ) as agent,
    ):
        agent.wait_for(lambda: ticks(agent) >= 2)
        began, at, moved = ticks(agent), time.monotonic(), 0.0
        for count, step in enumerate(STEPS, 1):
            moved += step
            offset.write_text(f"{moved:+}")
            agent.wait_for(
                partial(lambda count: len(agent.events("clock.stepped")) == count, count)
            )
            due = ticks(agent)
            agent.wait_for(partial(lambda due: ticks(agent) >= due + 2, due))
        due = ticks(agent) - began
        assert abs(due - (time.monotonic() - at)) <= 2, "a burst, or a pause"
        agent.wait_for(lambda: agent.value("virtstatd_clock_steps_total") == len(STEPS))
        # the agent's own numbers live for two seconds here, and a busy machine may be late
        agent.wait_for(lambda: agent.value("libvirt_up") == 1)
        agent.wait_for(lambda: agent.value("libvirt_domains") == GUESTS)
        assert agent.stop() == 0
    logged = [each["seconds"] for each in agent.events("clock.stepped")]
    assert [round(float(str(each))) for each in logged] == [round(step) for step in STEPS]
    assert not any("exception" in line for line in agent.log)
    epochs = epochs_of(lines)
    assert len(epochs) == GUESTS
    for times in epochs.values():
        back = [before - after for before, after in pairwise(times)]
        assert sum(each >= 0 for each in back) == 2, "it steps back twice, and never else"


def epochs_of(lines: Path) -> dict[str, list[float]]:
    """Return the times of each domain's processor time; its counter never falls."""
    times: dict[str, list[float]] = defaultdict(list)
    last: dict[str, float] = defaultdict(float)
    for line in lines.read_text().splitlines():
        each = json.loads(line)
        if each.get("group") == "cpu" and "domain" in each:
            name, total = each["domain"], each["fields"]["cpu_time_seconds"]
            assert total >= last[name], "a negative rate"
            last[name] = total
            times[name].append(datetime.fromisoformat(each["time"]).timestamp())
    return times


def skipped_ticks(agent: Agent) -> float:
    """Return how many ticks of the pulse were skipped."""
    return agent.value("virtstatd_ticks_skipped_total", tier="pulse") or 0.0


def test_an_agent_that_was_stopped_goes_on_where_it_is(tmp_path: Path):
    """After a pause it polls once, counts what it skipped, and shows nothing old as current."""
    seconds, lines, slow = 4, tmp_path / "lines", slowness()
    with (
        simulated(tmp_path, f"--domains={GUESTS}", "--profile=small") as sim,
        running(tmp_path, sim.uri, groups=NO_EXTRA, lines=lines) as agent,
    ):
        agent.wait_for(lambda: ticks(agent) >= 2)
        skipped = skipped_ticks(agent)
        os.kill(agent.pid, signal.SIGSTOP)
        stopped_at = time.time()
        signal.sigtimedwait([], seconds)  # it is time that is under test
        os.kill(agent.pid, signal.SIGCONT)
        went_on_at = time.time()
        agent.wait_for(lambda: skipped_ticks(agent) >= skipped + seconds - 2)
        due = ticks(agent)
        agent.wait_for(lambda: ticks(agent) >= due + 3)
        agent.wait_for(lambda: agent.value("libvirt_up") == 1)
        agent.wait_for(lambda: agent.value("virtstatd_clock_steps_total") == 0)
        assert agent.stop() == 0
    times = sorted({round(at, 1) for of in epochs_of(lines).values() for at in of})
    # what was read when it was stopped may carry that time, nothing else lies in between
    assert not [at for at in times if stopped_at + 0.5 < at < went_on_at - 0.5]
    after = [at for at in times if at >= went_on_at - 0.5]
    assert after[1] - after[0] < 3 * slow, "it polls on"
    assert len([at for at in after if at < went_on_at + 0.5]) <= 2, "no burst"

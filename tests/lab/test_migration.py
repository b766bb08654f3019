"""Guests that move from one hypervisor to another while both are polled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.support.hypervisor import Lab
from lab.support.namespaces import Trace
from lab.support.watcher import (
    Watch,
    domains,
    polls,
    polls_kept,
    records,
    settled,
    shown,
    times,
)
from support.agent import running
from support.waits import unstalled


READ = "libvirt_domain_block_stats_read_bytes_total"
STATE = "libvirt_domain_info_state"
INTERVALS: dict[str, Any] = {"pulse": 2.0, "monitor": 2.0, "extra": 2.0}
RISING = {
    "cpu": ("cpu_time_seconds",),
    "block": ("read_requests", "read_bytes", "write_requests"),
    "net": ("receive_packets", "transmit_packets"),
    "vcpu": ("time_seconds",),
}


@pytest.fixture
def two(traces: list[Trace]) -> Iterator[tuple[Lab, Lab]]:
    """Two hypervisors, three paused guests each."""
    with ExitStack() as stack:
        labs = []
        for prefix in ("here", "there"):
            lab = stack.enter_context(Lab())
            traces.append(lab.trace)
            lab.paused_guests(3, prefix=prefix)
            labs.append(lab)
        yield labs[0], labs[1]


@pytest.mark.parametrize("moves", [1, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.timeout(600)
def test_a_guest_that_moves_is_on_one_host_after_the_other(
    two: tuple[Lab, Lab], tmp_path: Path, moves: int
):
    """Its series end here and begin there; nobody else misses an interval, no record is wrong."""
    stay = [set(lab.names()) for lab in two]
    two[0].live_guest("travels")
    files = [tmp_path / f"{number}.jsonl" for number in range(2)]
    with ExitStack() as stack:
        agents = []
        for lab, file, local in zip(two, files, (True, False), strict=True):
            folder = tmp_path / lab.directory.name
            folder.mkdir()
            agents.append(
                stack.enter_context(
                    running(folder, lab.uri_readonly, **INTERVALS, local=local, lines=file)
                )
            )
        agents[0].wait_for(lambda: shown(agents[0], READ) == stay[0] | {"travels"})
        agents[1].wait_for(lambda: shown(agents[1], READ) == stay[1])
        begun = [polls(agent) for agent in agents]
        watches = [
            Watch(agent, family, names)
            for agent, names in zip(agents, stay, strict=True)
            for family in (READ, STATE)
        ]
        with ExitStack() as watching:
            for agent in agents:
                watching.enter_context(unstalled(agent))
            for watch in watches:
                watching.enter_context(watch)
            for move in range(moves):
                here, there = agents[move % 2], agents[1 - move % 2]
                before = polls(here)
                two[move % 2].migrate("travels", two[1 - move % 2], "--bandwidth", "32")
                print(f"move {move}: {polls(here, since=before):.0f} polls while it moved")
                settled(here, partial(lambda here: "travels" not in domains(here), here))
                settled(there, partial(lambda there: "travels" in shown(there, READ), there))
        assert [watch.missing for watch in watches] == [[]] * len(watches)
        assert all(map(polls_kept, agents, begun))
        assert all(agent.value("virtstatd_undecodable_records_total") == 0 for agent in agents)
        assert [agent.stop() for agent in agents] == [0, 0]
        assert not any("exception" in line for agent in agents for line in agent.log)
    for file, names in zip(files, stay, strict=True):
        counts = times(file, "block", "read_requests")
        assert max(counts[name] for name in names) - min(counts[name] for name in names) <= 1
    check_stays(files, moves)
    for file in files:
        check_counters(file)


def check_stays(files: list[Path], moves: int) -> None:
    """Look that it runs on one host at a time, in turns, and waits where it is to run next."""
    stays: list[tuple[int, str]] = []
    rows = [
        (str(each["time"]), number, next(iter(each["fields"]["state"])))
        for number, file in enumerate(files)
        for each in records(file, "state")
        if each["domain"] == "travels"
    ]
    assert {state for _, _, state in rows} <= {"running", "paused"}
    for _, number, state in sorted(rows):
        if state == "running" and (not stays or stays[-1][0] != number):
            stays.append((number, state))
    assert [number for number, _ in stays] == [move % 2 for move in range(moves + 1)]


def check_counters(file: Path) -> None:
    """Look that no counter of one stay was ever lower than before, half-way states included."""
    last: dict[tuple[object, ...], float] = defaultdict(float)
    looked = 0
    for group, fields in RISING.items():
        for each in records(file, group):
            device = tuple(sorted(each.get("device", {}).items()))
            for field in fields:
                if (value := each["fields"].get(field)) is not None:
                    key = (each["domain"], each["id"], group, device, field)
                    assert value >= last[key], f"{key}: {value} after {last[key]}"
                    last[key] = value
                    looked += 1
    assert looked > 100

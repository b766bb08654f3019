"""A guest that is stopped, one short of CPU and one whose disk is throttled, named to people."""

from __future__ import annotations

import json
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lab.support.hypervisor import Lab
from support.agent import Agent, running
from support.command import virtstatd
from support.terminal import terminal
from support.waits import settled


NAMES = ("frozen", "starved", "throttled")
POLLS = 15
"""Within so many polls all is found; there is one a second."""

MARK = re.compile("(!!| !) ")
BURN = "while :; do :; done"


def starve(lab: Lab, name: str) -> None:
    """Let a guest want all of a CPU, and have a twentieth of it."""
    lab.inside_guest(name, BURN)
    lab.virsh("schedinfo", lab.uuid(name), "--live", "--set", "vcpu_quota=5000")


def throttle(lab: Lab, name: str) -> None:
    """Allow a guest's disk less than it asks for."""
    lab.virsh("blkdeviotune", lab.uuid(name), "vda", "--total-iops-sec", "10", "--live")


def hurts(name: str, lines: list[str]) -> bool:
    """Tell whether a finding of a guest is on the screen."""
    return any(name in line and re.match("(!!| !) (critical|warning) ", line) for line in lines)


def found(agent: Agent) -> set[str]:
    """Return the guests that have findings."""
    with urllib.request.urlopen(f"{agent.address}/api/v1/findings", timeout=100) as answer:
        several = json.load(answer)["findings"]
    return {each["guest"]["name"] for each in several if each["guest"]}


def test_top_and_status_name_the_three(tmp_path: Path):
    """Within 15 polls each of the three is named, with its cause and an advice, first of all."""
    with Lab() as lab:
        with ThreadPoolExecutor(len(NAMES)) as pool:
            list(pool.map(lab.live_guest, NAMES))
        with (
            running(tmp_path, lab.uri_readonly, local=True) as agent,
            terminal("top", "--url", agent.address, columns=120, lines=40) as top,
        ):
            top.shows("3 running")
            agent.wait_for(lambda: (agent.value("virtstatd_xml_reads_total") or 0) >= len(NAMES))
            starve(lab, "starved")
            throttle(lab, "throttled")
            with lab.stuck("frozen"):
                settled(
                    agent,
                    lambda: agent.value("virtstatd_ticks_total", tier="pulse") or 0.0,
                    lambda: set(NAMES) <= found(agent),
                    within=POLLS,
                )
                for name in NAMES:
                    top.until(partial(hurts, name))
                status = virtstatd("status", "--url", agent.address)
                shown = json.loads(virtstatd("top", "--url", agent.address, "--json").stdout)
            top.press("q")
            assert top.ended() == 0
        trace = lab.trace
    assert not trace.leftovers()

    assert status.returncode == 2
    marked = [line for line in status.stdout.splitlines() if MARK.search(line)]
    for name in NAMES:
        assert any(name in line for line in marked), status.stdout
    advised = {
        each["guest"]["name"]
        for each in shown["findings"]["findings"]
        if each["guest"] and each["advice"]
    }
    assert advised == set(NAMES)

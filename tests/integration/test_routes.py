"""Sinks that get a part of everything: by metric, guest, collector and time, with more labels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from support.agent import running
from support.simulator import simulated


FILES = ("all", "lean", "some", "rare", "kernel")
SINKS = """
[[sink]]
type = "jsonl"
name = "all"
target = "{folder}/all"
[[sink]]
type = "jsonl"
name = "lean"
target = "{folder}/lean"
profile = "lean"
keep = ["libvirt_domain_info_state_reason"]
labels = ["project_name", "flavor_name"]
[[sink]]
type = "jsonl"
name = "some"
target = "{folder}/some"
domains = ["instance-0000000[12]"]
drop = ["libvirt_domain_block_*"]
groups = ["block", "state", "vcpu"]
[[sink]]
type = "jsonl"
name = "rare"
target = "{folder}/rare"
interval_seconds = 4.0
collectors = ["bulk"]
[[sink]]
type = "jsonl"
name = "kernel"
target = "{folder}/kernel"
collectors = ["kernel"]
"""


def whole(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, one under way left out."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def test_each_sink_gets_what_it_wants(tmp_path: Path):
    """Of the same polls: all, the lean ones with labels, some guests, the last of an interval."""
    with (
        simulated(tmp_path, "--domains=5", "--profile=complete", "--libvirt=12") as sim,
        running(tmp_path, sim.uri, more=SINKS.format(folder=tmp_path)) as agent,
    ):
        agent.wait_for(lambda: len({e["time"] for e in whole(tmp_path / "rare")}) >= 8)
        assert agent.stop() == 0
    lines = {name: whole(tmp_path / name) for name in FILES}
    everybody = {e["domain"] for e in lines["all"] if "domain" in e}
    assert len(everybody) == 5

    fields = {name: {key for e in lines[name] for key in e["fields"]} for name in FILES}
    assert fields["lean"] < fields["all"]
    assert len(fields["lean"] - {"reason"}) < 0.6 * len(fields["all"])
    labelled = {e["domain"]: set(e["labels"]) for e in lines["lean"] if "labels" in e}
    assert labelled == {name: {"project_name", "flavor_name"} for name in everybody}

    assert {e["domain"] for e in lines["some"] if "domain" in e} == set(sorted(everybody)[:2])
    assert {e["group"] for e in lines["some"]} == {"state", "vcpu"}

    assert {e["source"] for e in lines["rare"]} == {"bulk"}
    states = defaultdict(list)
    for e in lines["rare"]:
        if e["group"] == "state":
            states[e["domain"]].append(e["time"])
    every = {(e["domain"], e["time"]): e["fields"] for e in lines["all"] if e["group"] == "state"}
    assert all(len(set(times)) == len(times) for times in states.values())
    assert all((domain, time) in every for domain, times in states.items() for time in times)
    for e in lines["rare"]:
        if e["group"] == "state":
            assert e["fields"] == every[e["domain"], e["time"]]
    assert sum(map(len, states.values())) <= len(every) / 3
    assert lines["kernel"] == []


def test_a_wish_that_matches_nothing_is_pointed_out(tmp_path: Path):
    """`check` names the place of a pattern without a match; a collector must be one."""
    file = tmp_path / "virtstatd.toml"
    text = '[[sink]]\ntype = "null"\nkeep = ["libvirt_up", "libvirt_domian_*"]\ngroups = ["blok"]\n'
    file.write_text(text)

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "virtstatd", "check", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = check()
    assert done.returncode == 0
    notes = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: {file}:3: sink[0].keep[1]: matches nothing of `virtstatd fields`",
        f"note: {file}:4: sink[0].groups[0]: matches nothing of `virtstatd fields`",
    ]
    file.write_text(text + 'collectors = ["bulk", "kernal"]\n')
    done = check()
    assert done.returncode == 78
    assert (
        done.stderr == f"{file}:5: sink[0].collectors[1]: no collector is called 'kernal',"
        " did you mean kernel?\n"
    )

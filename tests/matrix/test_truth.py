"""What the agent shows is what virsh shows, on every generation of libvirt, from two sides."""

from __future__ import annotations

import json
import platform
import re
from functools import partial

import pytest

from lab.support.watcher import polls
from matrix.support.generation import (
    AHEAD,
    CHECKOUT,
    HISTOGRAM_SINCE,
    TIMED_SINCE,
    Generation,
)
from support.agent import parsed
from support.truth import BINS, RULES, TEXTS, Stats, compare


BUILD = "virtstatd_build_info"
UNKNOWN = "libvirt_domain_unknown_stat"
GROUPS = {"state", "cpu", "balloon", "vcpu", "net", "block", "iothread", "dirtyrate"}


def readings(lab: Generation) -> dict[str, dict[str, str]]:
    """Return what virsh shows of every guest."""
    return {name: lab.stats(name) for name in lab.names()}


def unknown(stats: Stats) -> set[str]:
    """Return the keys that the table of the truth does not know."""
    patterns = [TEXTS, BINS, *(re.compile(pattern) for pattern, _, _ in RULES)]
    return {key for key in stats if not any(each.fullmatch(key) for each in patterns)}


def keep_unknown(lab: Generation, guests: dict[str, dict[str, str]], lines: list[str]) -> str:
    """Write records with unknown fields to `build/matrix`, and return what to say of them."""
    fields = sorted({key for stats in guests.values() for key in unknown(stats)})
    file = CHECKOUT / "build/matrix" / f"unknown-{lab.suite}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"made of": lab.made_of, "fields": fields, "page": lines, "records": guests}
    file.write_text(json.dumps(about, indent=1))
    return f"{lab.made_of}: unknown fields {fields}, on the page {lines[:5]}; all: {file}"


def test_guests_have_a_bit_of_everything(generation: Generation):
    """What a generation's libvirt can count is there to compare, and moved where a guest ran."""
    lab = generation
    rested, paused = lab.stats("rested"), lab.stats("paused-0")
    assert {key.partition(".")[0] for key in rested} >= GROUPS
    assert rested["block.count"] == paused["block.count"] == "3"
    assert "block.2.name" in rested
    assert "block.2.capacity" not in rested, "the CD-ROM should be empty"
    assert rested["state.state"] == paused["state.state"] == "3"
    assert paused["vcpu.current"] == "4"
    assert "net.1.rx.bytes" in paused
    assert int(rested["balloon.last-update"]) > 0
    assert int(rested["block.0.rd.reqs"]) > 0
    has = {"limits": False, "timed_group": False, "latency_histogram": False}
    for part in has:
        has[part] = any(key.startswith(f"block.0.{part}.") for key in rested)
    assert has == {
        "limits": lab.version >= TIMED_SINCE,
        "timed_group": lab.version >= TIMED_SINCE,
        "latency_histogram": lab.version >= HISTOGRAM_SINCE,
    }
    if has["timed_group"]:
        assert int(rested["block.0.timed_group.1.rd_latency_max"]) > 0
    if has["latency_histogram"]:
        bins = [key for key in rested if re.fullmatch(r"block\.0\.l.*\.read\.bin\.\d+\.value", key)]
        assert sum(int(rested[key]) for key in bins) == int(rested["block.0.rd.reqs"])


@pytest.mark.kvm
def test_kvm_statistics_are_among_them(generation: Generation):
    """A guest of type kvm has KVM's statistics of itself and of each vCPU."""
    stats = generation.stats("paused-0")
    assert "vcpu.3.exits.sum" in stats
    assert any(key.startswith("vm.") for key in stats)


@pytest.mark.parametrize("inside", [False, True], ids=["from outside", "from inside"])
def test_every_number_is_virshs(
    generation: Generation, inside: bool, capsys: pytest.CaptureFixture[str]
):
    """
    Constant fields are equal, counters lie between two readings, and no field is unknown.

    The agent runs on this machine's Python and client library, or on the generation's own. Fields
    that are new in the suite ahead are reported and fail nothing.
    """
    lab = generation
    with lab.agent(inside=inside) as (agent, _):
        agent.wait_for(lambda: agent.value("libvirt_up"))
        before = readings(lab)
        # virsh takes a guest's job, and a poll that meets it there has seen less of the guest
        begun = {tier: polls(agent, tier) for tier in ("pulse", "monitor", "extra")}
        for tier, count in begun.items():
            agent.wait_for(partial(lambda t, c: polls(agent, t, since=c) > 2, tier, count))
        page = agent.page()
        build = next(dict(labels) for name, labels in parsed(page) if name == BUILD)
        after = readings(lab)
        assert agent.stop() == 0
    print(f"{lab.made_of}; the agent: {build}")
    assert build["python"] == (lab.python if inside else platform.python_version())
    if inside:
        assert build["libvirt"] == ".".join(map(str, lab.version))
    strange = [line for line in page.splitlines() if line.startswith(UNKNOWN)]
    if strange or any(map(unknown, after.values())):
        said = keep_unknown(lab, after, strange)
        assert lab.suite == AHEAD, said
        with capsys.disabled():
            print(f"\n{said}")
        page = "".join(line for line in page.splitlines(True) if UNKNOWN not in line)
        for stats in (*before.values(), *after.values()):
            for key in unknown(stats):
                del stats[key]
    agreed, moved = compare(before, page, after)
    print(f"{lab.made_of}: {agreed} numbers agreed, {moved} of them moved")
    assert agreed > 80 * len(after)
    assert 0 < moved < agreed / 2, "a bracket that moves that much, or not at all, proves nothing"

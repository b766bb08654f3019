"""A hundred guests, or three hundred, and every group."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lab.support.hypervisor import Lab
from support.agent import Agent, running
from support.waits import idle_loop, slowness


WARM_POLLS = 5
STALL_SECONDS = 0.05
GROWTH_BYTES = 6 << 20


def resident(agent: Agent) -> int:
    """Return the agent's resident memory in bytes, by the kernel's word."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{agent.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize(
    ("lab", "polls", "seconds"),
    [("many", 25, 2), pytest.param("many_for_long", 100, 10, marks=pytest.mark.soak)],
)
@pytest.mark.timeout(1800)
def test_many_guests_neither_stall_the_loop_nor_fill_the_memory(
    request: pytest.FixtureRequest, tmp_path: Path, lab: str, polls: int, seconds: int
):
    """Poll after poll of all groups the loop has its turn, and memory stays where it was."""
    many: Lab = request.getfixturevalue(lab)
    intervals: dict[str, Any] = {"pulse": seconds, "monitor": seconds, "extra": seconds}
    with idle_loop() as idle, running(tmp_path, many.uri_readonly, **intervals) as a:
        guests = len(many.names())
        lags: list[float] = []

        def polled(count: int) -> bool:
            samples = a.samples()
            if ("virtstatd_loop_lag_max_seconds", ()) not in samples:
                return False  # its own numbers come a little later
            lags.append(samples["virtstatd_loop_lag_max_seconds", ()])
            ticks = samples["virtstatd_ticks_total", (("tier", "extra"),)]
            skipped = samples["virtstatd_ticks_skipped_total", (("tier", "extra"),)]
            return ticks - skipped >= count

        a.wait_for(lambda: polled(WARM_POLLS), 600)
        before = resident(a)
        lags.clear()
        idle()
        a.wait_for(lambda: polled(WARM_POLLS + polls), 1500)
        grown = resident(a) - before
        lags.sort()
        noise = idle()
        print(f"loop lag: median {lags[len(lags) // 2]:.4f} s, longest {lags[-1]:.4f} s")
        print(f"loop lag of a process without work in the same time: longest {noise:.4f} s")
        print(f"memory: {before >> 20} MiB, grown by {grown >> 10} KiB over {polls} polls")
        assert a.value("libvirt_domains") == guests
        assert a.value("virtstatd_missing_domains", tier="extra") == 0
        assert grown < GROWTH_BYTES
        # what the machine does to a loop without any work is not the agent's
        assert lags[len(lags) * 9 // 10] < STALL_SECONDS * slowness() + noise

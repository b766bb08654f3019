"""What the agent shows is what virsh shows, number by number."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from support.agent import parsed, running
from support.truth import compare


@pytest.fixture(scope="session")
def guests(lab: Lab) -> list[str]:
    """All guests of the shared lab."""
    return lab.names()


def test_every_number_on_the_page_is_virshs(lab: Lab, guests: list[str], tmp_path: Path):
    """Constant fields are equal, counters lie between the two readings around the poll."""
    with running(tmp_path, lab.uri_readonly) as agent:
        agent.wait_for(lambda: agent.value("libvirt_up"))
        before = {name: lab.stats(name) for name in guests}
        ticks = {
            tier: agent.value("virtstatd_ticks_total", tier=tier) or 0
            for tier in ("pulse", "monitor", "extra")
        }
        # virsh takes a guest's job, and the poll that met it there has seen less of the guest. That
        # one may be the next that is counted, for the count on the page is a second old
        for tier, count in ticks.items():
            agent.wait_for(
                partial(
                    lambda t, c: (agent.value("virtstatd_ticks_total", tier=t) or 0) > c + 2,
                    tier,
                    count,
                )
            )
        page = agent.page()
        agreed, moved = compare(before, page, {name: lab.stats(name) for name in guests})
    assert agreed > 100 * len(guests)
    assert moved < agreed / 2, "a bracket that moves that much proves nothing"


def once(lab: Lab, folder: Path, more: str = "") -> str:
    """Return what `virtstatd once` prints."""
    file = folder / "once.toml"
    file.write_text(f"[hypervisor]\nuri = '{lab.uri_readonly}'\n{more}")
    done = subprocess.run(
        [sys.executable, "-m", "virtstatd", "once", "--config", str(file)],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""
    return done.stdout.decode()


def test_once_prints_the_same_numbers(lab: Lab, guests: list[str], tmp_path: Path):
    """The command for a look gives what the service gives of libvirt."""
    before = {name: lab.stats(name) for name in guests}
    page = once(lab, tmp_path, "[local]\nenabled = false\n")
    after = {name: lab.stats(name) for name in guests}
    agreed, moved = compare(before, page, after)
    assert moved < agreed / 2


def test_once_asks_every_collector(lab: Lab, guests: list[str], tmp_path: Path):
    """It has the kernel's numbers, descriptions, limits and the agent's own beside libvirt's."""
    shown = parsed(once(lab, tmp_path))
    guest = {"domain": guests[0]}
    for family, labels in {
        "libvirt_domain_info_state": guest,
        "libvirt_domain_process_minor_faults_total": guest,
        "libvirt_domain_steal_ratio_count": guest,
        "libvirt_domain_info": guest,
        "libvirt_node_memory_total_bytes": {},
        "virtstatd_build_info": {},
        "virtstatd_collector_success": {"collector": "kernel"},
    }.items():
        found = [of for name, of in shown if name == family and labels.items() <= dict(of).items()]
        assert found, family
    assert shown["libvirt_up", ()] == 1

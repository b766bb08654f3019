"""The names of other tools, held to what such a tool shows of the same guests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lab.support.guest import make_disk
from lab.support.hypervisor import Lab
from support.agent import Series, parsed, running
from support.ports import free_port
from support.servers import fetched, needs, serving


pytestmark = needs("prometheus-libvirt-exporter")

NAMES = """
names = "kumina"
"""
MOVES = "libvirt_domain_info_cpu_time_seconds_total"
"""A paused guest's QEMU still runs now and then."""

APART_SECONDS = 0.05
"""The exporter's call reads /proc in steps of 10 ms, the bulk call the cgroup to the nanosecond."""


async def exported(url: str) -> dict[Series, float]:
    """Return what the exporter shows of libvirt."""
    page = await fetched(url)
    assert page
    return {each: value for each, value in parsed(page.decode()).items() if "libvirt_" in each[0]}


def attach(lab: Lab, folder: Path, name: str, xml: str) -> None:
    """Plug a device into a guest."""
    file = folder / "device.xml"
    file.write_text(xml)
    lab.virsh("attach-device", lab.uuid(name), str(file))


@pytest.mark.timeout(180)
async def test_kumina_names_have_the_numbers_of_debians_exporter(private_lab: Lab, tmp_path: Path):
    """Every series of Debian's exporter is there with its labels and value, and no other one."""
    lab = private_lab
    name = lab.names()[0]
    lab.run("ip", "link", "add", "lab-bridge", "type", "bridge")
    nic = "<interface type='bridge'><source bridge='lab-bridge'/><model type='virtio'/></interface>"
    attach(lab, tmp_path, name, nic)
    disc = lab.images / "disc.iso"
    make_disk(disc, 1)
    target = "<target dev='sdz' bus='scsi'/><readonly/>"
    source = f"<source file='{disc}'/>"
    attach(lab, tmp_path, name, f"<disk type='file' device='cdrom'>{source}{target}</disk>")
    with running(tmp_path, lab.uri_readonly, more=NAMES) as agent:

        def polled() -> float:
            return agent.value("virtstatd_ticks_total", tier="monitor") or 0.0

        port = free_port()
        url = f"http://127.0.0.1:{port}/metrics"
        listen = [f"--web.listen-address=127.0.0.1:{port}", f"--libvirt.uri={lab.uri}"]
        async with serving(["prometheus-libvirt-exporter", *listen], ready=url):
            await asyncio.to_thread(agent.wait_for, lambda: polled() > 2)
            before = await exported(url)
            begun = polled()
            await asyncio.to_thread(agent.wait_for, lambda: polled() > begun + 1)
            page = agent.samples()
            after = await exported(url)
    names = {each for each, _ in before}
    assert len(names) == 19
    ours = {series: value for series, value in page.items() if series[0] in names}
    assert ours.keys() == before.keys()
    assert any(("source_bridge", "lab-bridge") in labels for _, labels in ours)
    assert {s: v for s, v in ours.items() if s[0] != MOVES} == {
        s: v for s, v in before.items() if s[0] != MOVES
    }
    assert all(
        before[s] - APART_SECONDS <= value <= after[s] + APART_SECONDS
        for s, value in ours.items()
        if s[0] == MOVES
    )

"""A container of libvirt's LXC driver, which has none of the bulk statistics."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lab.support.hypervisor import Lab
from lab.support.keeper import cgroup_versions
from lab.support.machine import LabError, output
from support.agent import Agent, running


NAME = "container"
CONTAINER = """
<domain type='lxc'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg>
<initarg>while :; do sleep 0.01; done</initarg></os>
<devices><filesystem type='mount'><source dir='{root}'/><target dir='/'/></filesystem>
<console type='pty'/></devices></domain>
"""
OFTEN = "[defined]\ninterval_seconds = 1.0\n[pools]\ninterval_seconds = 1.0\n"
STATE = "libvirt_domain_info_state"


@contextmanager
def container(lab: Lab) -> Iterator[str]:
    """Define a container for the length of a block, and return how virsh reaches its driver."""
    root = lab.images / "root"
    for folder in "bin", "dev", "proc", "sys":
        (root / folder).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, root / "bin/sh")
    shutil.copy(busybox, root / "bin/sleep")
    file = lab.images / "container.xml"
    file.write_text(CONTAINER.format(name=NAME, root=root))
    uri = f"lxc+unix:///system?socket={lab.socket}"
    output(["virsh", "--connect", uri, "define", str(file)], 60)
    try:
        yield uri
    finally:
        with suppress(LabError):
            output(["virsh", "--connect", uri, "destroy", NAME], 60)
        output(["virsh", "--connect", uri, "undefine", NAME], 60)


def state(agent: Agent) -> set[str]:
    """Return the states that the page has for the container."""
    return {dict(labels)["state"] for family, labels in agent.samples() if family == STATE}


def test_a_real_container(tmp_path: Path):
    """State, CPU time, memory and description are there, and what it lacks is reported once."""
    if "v1" not in cgroup_versions():  # beside those of version 2 libvirt 9 starts none
        pytest.skip("this machine's cgroups are not of version 1")
    with Lab("v1") as lab, container(lab) as uri:
        there = f"lxc+unix:///system?socket={lab.socket_readonly}"
        with running(tmp_path, there, more=OFTEN) as agent:
            agent.wait_for(lambda: state(agent) == {"shutoff"})
            output(["virsh", "--connect", uri, "start", NAME], 60)
            agent.wait_for(lambda: state(agent) == {"running"})
            cpu = "libvirt_domain_info_cpu_time_seconds_total"
            agent.wait_for(lambda: agent.value(cpu, domain=NAME))
            before = agent.value(cpu, domain=NAME) or 0
            agent.wait_for(lambda: (agent.value(cpu, domain=NAME) or 0) > before)
            assert agent.value("libvirt_domain_memory_stats_maximum_bytes", domain=NAME) == 64 << 20
            assert agent.value("libvirt_domain_tunable_cpu_shares", domain=NAME) == 1024
            infos = [dict(of) for family, of in agent.samples() if family == "libvirt_domain_info"]
            assert [(info["domain"], info["type"]) for info in infos] == [(NAME, "lxc")]
            output(["virsh", "--connect", uri, "destroy", NAME], 60)
            agent.wait_for(lambda: state(agent) == {"shutoff"})
            assert len(agent.events("group.refused")) <= 2
            agent.wait_for(lambda: agent.value("libvirt_up") == 1)

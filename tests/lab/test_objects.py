"""Storage pools and networks of a real libvirt, as virsh shows them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen

from lab.support.hypervisor import Lab
from lab.support.machine import LabError, wait_until
from support.agent import Agent, running


OFTEN = "[pools]\ninterval_seconds = 1.0\n[networks]\ninterval_seconds = 1.0\nleases = true\n"
MIB = 1 << 20
INACTIVE, RUNNING = 0, 2


def numbers(agent: Agent, prefix: str, label: str, name: str) -> dict[str, float]:
    """Return the numbers of a pool or a network by metric."""
    return {
        family.removeprefix(prefix): value
        for (family, labels), value in agent.samples().items()
        if family.startswith(prefix) and dict(labels).get(label) == name
    }


def pool(agent: Agent, name: str) -> dict[str, float]:
    """Return the numbers of a pool."""
    return numbers(agent, "libvirt_storage_pool_", "storage_pool", name)


@contextmanager
def a_pool(lab: Lab, name: str, kind: str, *more: str, target: Path) -> Iterator[None]:
    """Define a pool for the length of a block."""
    target.mkdir(exist_ok=True)
    lab.virsh("pool-define-as", name, kind, "--target", str(target), *more)
    try:
        yield
    finally:
        with suppress(LabError):
            lab.virsh("pool-destroy", name)
        lab.virsh("pool-undefine", name)


def virsh_info(lab: Lab, name: str) -> dict[str, float]:
    """Return the sizes that `virsh pool-info` shows."""
    rows = lab.virsh("pool-info", "--bytes", name).splitlines()
    pairs = (row.split(":", 1) for row in rows if ":" in row)
    known = {key.strip().casefold(): value.strip() for key, value in pairs}
    return {f"{key}_bytes": float(known[key]) for key in ("capacity", "allocation", "available")}


def test_a_pool_that_fills(lab: Lab, tmp_path: Path):
    """Space and volumes are libvirt's of the last refresh, which the agent never asks for."""
    target = lab.images / "pool"
    target.mkdir()
    lab.run("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(target))
    with (
        a_pool(lab, "small", "dir", target=target),
        running(tmp_path, lab.uri_readonly, more=OFTEN) as agent,
    ):
        agent.wait_for(lambda: pool(agent, "small").get("state") == INACTIVE)
        assert "capacity_bytes" not in pool(agent, "small")
        lab.virsh("pool-start", "small")
        agent.wait_for(lambda: pool(agent, "small").get("state") == RUNNING)
        assert pool(agent, "small").items() >= virsh_info(lab, "small").items()
        lab.virsh("vol-create-as", "small", "one.raw", "4M", "--allocation", "4M")
        agent.wait_for(lambda: pool(agent, "small").get("volumes") == 1)
        lab.run("dd", "if=/dev/zero", f"of={target}/two.raw", "bs=1M", "count=27")
        before = pool(agent, "small")
        lab.virsh("attach-disk", lab.uuid("guest-1"), f"{target}/one.raw", "sdp")
        try:
            agent.wait_for(lambda: pool(agent, "small").get("volumes_in_use") == 1)
            assert pool(agent, "small")["volumes"] == before["volumes"] == 1
            lab.virsh("pool-refresh", "small")
            agent.wait_for(lambda: pool(agent, "small").get("volumes") == 2)
        finally:
            lab.virsh("detach-disk", lab.uuid("guest-1"), "sdp")
        full = pool(agent, "small")
        assert full.items() >= virsh_info(lab, "small").items()
        assert full["available_bytes"] < 2 * MIB < before["available_bytes"]
        assert (full["autostart"], full["persistent"], full["timed_out"]) == (0, 1, 0)
    lab.run("umount", str(target))


@contextmanager
def hanging_umount(lab: Lab) -> Iterator[Path]:
    """Have libvirt's umount hang for the length of a block, as with an NFS server that is away."""
    script, pid = lab.images / "umount.sh", lab.images / "umount.pid"
    script.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 600\n")
    script.chmod(0o755)
    lab.run("mount", "--bind", str(script), "/usr/bin/umount")
    try:
        yield pid
    finally:
        lab.run("busybox", "umount", "/usr/bin/umount")
        with suppress(OSError, ValueError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_pool_that_hangs_costs_itself_alone(lab: Lab, tmp_path: Path):
    """While libvirt waits for a pool's storage, other pools and all guests keep their numbers."""
    target = lab.images / "hung"
    target.mkdir()
    lab.run("mount", "-t", "tmpfs", "192.0.2.1:/export", str(target))
    source = ("--source-host", "192.0.2.1", "--source-path", "/export")
    short = "deadline_seconds = 1.0"

    def seconds() -> float:
        return agent.value("virtstatd_collector_duration_seconds", collector="pools") or 9.0

    with (
        a_pool(lab, "well", "dir", target=lab.images / "well"),
        a_pool(lab, "hung", "netfs", *source, target=target),
        running(tmp_path, lab.uri_readonly, hypervisor=short, more=OFTEN) as agent,
    ):
        lab.virsh("pool-start", "well")
        lab.virsh("pool-start", "hung")
        agent.wait_for(lambda: pool(agent, "hung").get("state") == RUNNING)
        argv = ["virsh", "--connect", lab.uri, "pool-destroy", "hung"]
        with hanging_umount(lab) as pid, Popen(argv, stdout=DEVNULL, stderr=DEVNULL) as ending:
            try:
                wait_until(pid.exists, "libvirt to unmount")
                agent.wait_for(lambda: pool(agent, "hung") == {"timed_out": 1})
                success = "virtstatd_collector_success"
                agent.wait_for(lambda: agent.value(success, collector="pools") == 0)
                agent.wait_for(lambda: seconds() < 0.9)  # nothing is waited for any more
                assert pool(agent, "well")["state"] == RUNNING
                assert agent.value("virtstatd_calls_abandoned_total") == 0
            finally:
                with suppress(OSError, ValueError):
                    os.kill(int(pid.read_text()), signal.SIGKILL)
                ending.wait(60)
        agent.wait_for(lambda: pool(agent, "hung").get("timed_out") == 0)
        agent.wait_for(lambda: agent.value("virtstatd_collector_success", collector="pools") == 1)
        assert [line["name"] for line in agent.events("object.hung")] == ["hung"]
        assert len(agent.events("object.answered")) == 1


NETWORK = """
<network><name>inner</name><forward mode='open'/><bridge name='lab-inner'/>
<dns enable='no'/><ip address='10.77.0.1' netmask='255.255.255.0'/></network>
"""


def test_networks(lab: Lab, tmp_path: Path):
    """A network is there active or not, with its bridge and the guests that are on it."""

    def network(agent: Agent) -> dict[str, float]:
        return numbers(agent, "libvirt_network_", "network", "inner")

    file = lab.images / "network.xml"
    file.write_text(NETWORK)
    with running(tmp_path, lab.uri_readonly, more=OFTEN) as agent:
        agent.wait_for(lambda: agent.value("libvirt_networks") is not None)
        assert not network(agent)
        lab.virsh("net-define", str(file))
        try:
            off = {"active": 0, "autostart": 0, "persistent": 1, "timed_out": 0, "info": 1}
            agent.wait_for(lambda: network(agent) == off)
            lab.virsh("net-start", "inner")
            agent.wait_for(lambda: network(agent) == off | {"active": 1, "ports": 0, "leases": 0})
            described = "libvirt_network_info"
            info = dict(next(labels for (name, labels) in agent.samples() if name == described))
            assert (info["bridge"], info["forward"]) == ("lab-inner", "open")
        finally:
            with suppress(LabError):
                lab.virsh("net-destroy", "inner")
            lab.virsh("net-undefine", "inner")
        agent.wait_for(lambda: not network(agent))

"""What disks, interfaces and memory of real guests are, and what they may use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.support.guest import Definition
from lab.support.hypervisor import Lab
from lab.support.machine import LabError
from support.agent import Agent, Series, running


DISK = "libvirt_domain_block_stats"
STORAGE = "[storage]\ninterval_seconds = 1\n"


@pytest.fixture
def tuned(lab: Lab) -> Iterator[Definition]:
    """Start a guest with limits on a disk of three layers, and with memory of its own kind."""
    backing = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    definition = lab.definition("tuned", extra=backing)
    lab.create(definition)
    limits = {
        "total-bytes-sec": "1000000",
        "total-bytes-sec-max": "5000000",
        "total-bytes-sec-max-length": "3",
        "read-iops-sec": "50",
        "group-name": "shared",
    }
    given = [word for name, limit in limits.items() for word in (f"--{name}", limit)]
    lab.virsh("blkdeviotune", definition.uuid, "vda", *given)
    for layer in ("b", "c"):
        file = lab.images / f"{definition.uuid}-{layer}.qcow2"
        where = ["--diskspec", f"vda,file={file}", "--diskspec", "vdb,snapshot=no"]
        options = ["--disk-only", "--no-metadata"]
        lab.virsh("snapshot-create-as", definition.uuid, layer, *options, *where)
    yield definition
    lab.destroy(definition.name)


def of(agent: Agent, family: str, domain: str) -> dict[Series, float]:
    """Return the series of a metric that one guest has."""
    return {
        series: value
        for series, value in agent.samples().items()
        if series[0] == family and ("domain", domain) in series[1]
    }


def facts(agent: Agent, family: str, domain: str) -> list[dict[str, str]]:
    """Return the labels of a guest's info series."""
    return [dict(labels) for _, labels in of(agent, family, domain)]


def test_limits_and_layers_of_disks(lab: Lab, tuned: Definition, tmp_path: Path):
    """What virsh set is what is shown, of each layer too, and other disks have no limits."""
    with running(tmp_path, lab.uri_readonly, backing=True) as agent:
        agent.wait_for(lambda: facts(agent, f"{DISK}_info", tuned.name))
        agent.wait_for(lambda: of(agent, f"{DISK}_physical_bytes", tuned.name))
        whole = {
            (series[0].removeprefix(f"{DISK}_limit_"), dict(series[1])["target_device"]): value
            for series, value in agent.samples().items()
            if series[0].startswith(f"{DISK}_limit_")
        }
        disks = facts(agent, f"{DISK}_info", tuned.name)
        (memory,) = facts(agent, "libvirt_domain_memory_backing_info", tuned.name)
        layers = of(agent, f"{DISK}_physical_bytes", tuned.name)
        paths = facts(agent, f"{DISK}_path_info", tuned.name)
    assert whole == {
        ("total_bytes_per_second", "vda"): 1_000_000,
        ("burst_total_bytes_per_second", "vda"): 5_000_000,
        ("burst_length_seconds", "vda"): 3,
        ("read_requests_per_second", "vda"): 50,
    }
    assert [disk.get("limit_group") for disk in disks] == ["shared", None]
    assert memory == {"domain": "tuned", "source_type": "memfd", "access_mode": "shared"}
    assert sorted(dict(labels).get("index", "") for _, labels in layers) == ["", "", "1", "2"]
    assert {path["path"][-5:] for path in paths if path["target_device"] == "vda"} == {
        *("qcow2", "a.raw")
    }


def test_where_guests_run(lab: Lab, tuned: Definition, tmp_path: Path):
    """Start, CPU, affinity and memory by node of a guest are what the kernel and virsh say."""
    lab.virsh("vcpupin", tuned.uuid, "2", "0")
    pid = lab.qemu_pid(tuned.name)
    with running(tmp_path, lab.uri_readonly, local=True) as agent:
        agent.wait_for(lambda: of(agent, "libvirt_domain_vcpu_current_cpu", tuned.name))
        agent.wait_for(lambda: of(agent, "libvirt_domain_cgroup_memory_bytes", tuned.name))
        allowed = {
            fact["vcpu"]: fact["cpus"]
            for fact in facts(agent, "libvirt_domain_vcpu_affinity_info", tuned.name)
        }
        running_on = of(agent, "libvirt_domain_vcpu_current_cpu", tuned.name)
        (started,) = of(agent, "libvirt_domain_start_time_seconds", tuned.name).values()
        memory = sum(of(agent, "libvirt_domain_numa_memory_bytes", tuned.name).values())
        (huge,) = of(agent, "libvirt_domain_huge_pages_bytes", tuned.name).values()
        (charged,) = of(agent, "libvirt_domain_cgroup_memory_bytes", tuned.name).values()
    whole = ",".join(map(str, sorted(os.sched_getaffinity(pid))))
    assert set(allowed) == {"0", "1", "2", "3"}
    assert allowed["2"] == "0"
    assert expanded(allowed["1"]) == whole
    assert len(running_on) == len(allowed)
    assert set(running_on.values()) <= set(range(os.cpu_count() or 1))
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert started == pytest.approx(booted + ticks / os.sysconf("SC_CLK_TCK"), abs=5)
    assert huge == 0
    assert 0 < memory <= charged * 1.5


def expanded(cpus: str) -> str:
    """Return each CPU of a list like `0-3,8`."""
    ranges = [part.partition("-")[::2] for part in cpus.split(",")]
    return ",".join(
        str(cpu) for low, high in ranges for cpu in range(int(low), int(high or low) + 1)
    )


NETWORK = (
    "<network><name>inner</name><forward mode='bridge'/><bridge name='br-inner'/>"
    "<portgroup name='db'/></network>"
)
POOLED = (
    "<disk type='volume' device='disk'><driver name='qemu' type='raw'/>"
    "<source pool='images' volume='a.raw'/><target dev='vda' bus='virtio'/></disk>"
)
NETWORKED = (
    "<interface type='network'><source network='inner' portgroup='db'/><model type='virtio'/>"
    "</interface>"
)


def test_networks_and_pools(lab: Lab, tmp_path: Path):
    """An interface of a network and a disk of a pool say so, as libvirt resolved them."""
    pool, file = lab.images / "pool", lab.images / "inner.xml"
    lab.run("mkdir", str(pool))
    lab.run("sh", "-c", f'printf %s "$0" > {file}', NETWORK)
    lab.run("ip", "link", "add", "br-inner", "type", "bridge")
    devices = f"<devices>{POOLED}{NETWORKED}</devices>"
    guest = lab.definition("networked", disks=0, nics=0, extra=devices)
    try:
        lab.virsh("net-create", str(file))
        lab.virsh("pool-create-as", "images", "dir", "--target", str(pool))
        lab.virsh("vol-create-as", "images", "a.raw", "1M", "--format", "raw")
        lab.create(guest)
        with running(tmp_path, lab.uri_readonly, hypervisor=STORAGE) as agent:
            agent.wait_for(lambda: facts(agent, f"{DISK}_storage_info", "networked"))
            (disk,) = facts(agent, f"{DISK}_storage_info", "networked")
            (nic,) = facts(agent, "libvirt_domain_interface_stats_info", "networked")
    finally:
        for command in (
            ("destroy", guest.uuid),
            ("net-destroy", "inner"),
            ("pool-destroy", "images"),
        ):
            with suppress(LabError):
                lab.virsh(*command)
        lab.definitions.pop("networked", None)
        lab.run("ip", "link", "delete", "br-inner")
        lab.run("rm", "-r", str(pool), str(file))
    assert (disk["storage_type"], disk["storage"]) == ("pool", "images")
    assert (nic["source_network"], nic["source_bridge"]) == ("inner", "br-inner")
    assert (nic["source_portgroup"], nic["interface_type"]) == ("db", "bridge")


def test_storages_and_limits_of_a_guest_that_works(lab: Lab, tmp_path: Path):
    """What its disk does is in the sum of its storage, and in relation to the limit that it has."""
    live = lab.uuid("live")
    used: Series = (
        f"{DISK}_limit_used_ratio",
        (("domain", "live"), ("limit", "total_requests"), ("target_device", "vda")),
    )
    lab.virsh("blkdeviotune", live, "vda", "--total-iops-sec", "1000")
    try:
        with running(tmp_path, lab.uri_readonly, local=True, hypervisor=STORAGE) as agent:
            agent.wait_for(lambda: facts(agent, f"{DISK}_storage_info", "live"))
            (fact, _) = facts(agent, f"{DISK}_storage_info", "live")
            storage = (("storage", fact["storage"]), ("storage_type", fact["storage_type"]))
            written: Series = ("libvirt_storage_write_requests_total", storage)
            agent.wait_for(lambda: agent.samples().get(written, 0) > 0)
            begun, before = time.monotonic(), lab.stats("live")
            first = agent.samples()
            agent.wait_for(lambda: agent.samples()[written] > first[written] + 20)
            agent.wait_for(lambda: agent.samples().get(used, 0) > 0)
            samples, after = agent.samples(), lab.stats("live")
            seconds = time.monotonic() - begun
    finally:
        lab.virsh("blkdeviotune", live, "vda", "--total-iops-sec", "0")
    grown = sum(
        int(after[f"block.0.{way}.reqs"]) - int(before[f"block.0.{way}.reqs"])
        for way in ("rd", "wr")
    )
    assert 0.2 * grown / seconds < samples[used] * 1000 < 5 * grown / seconds
    assert samples["libvirt_storage_write_time_seconds_total", storage] > 0
    assert samples["libvirt_storage_disks", storage] == 2 * len(lab.names())

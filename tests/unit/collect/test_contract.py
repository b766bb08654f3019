"""Every collector of the agent keeps the contract that others are held to."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import structlog

from support.processes import Tree
from virtstatd.catalog import shipped
from virtstatd.collect.bulk.options import PollOptions
from virtstatd.collect.cpu_stats import CpuStatsOptions
from virtstatd.collect.defined.collector import DefinedOptions
from virtstatd.collect.descriptions.metadata import MetadataOptions
from virtstatd.collect.disk_errors import DiskErrorsOptions
from virtstatd.collect.events.collector import EventsOptions
from virtstatd.collect.guest_agent.options import GuestAgentOptions
from virtstatd.collect.jobs.collector import JobsOptions
from virtstatd.collect.kernel.collector import KernelOptions
from virtstatd.collect.objects.networks import NetworksOptions
from virtstatd.collect.objects.pools import PoolsOptions
from virtstatd.collect.own import OwnCollector
from virtstatd.collect.parts import Parts
from virtstatd.collect.storage.collector import StorageOptions
from virtstatd.collector import Collector, Up
from virtstatd.config.kinds import KINDS, OWN_NAMES
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.hypervisor.processes import Processes
from virtstatd.testing import check_collector


UUID = "11111111-1111-4111-8111-111111111111"
XML = f"""
<domain type='kvm'><name>vm</name><uuid>{UUID}</uuid><devices><channel>
  <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
</channel></devices></domain>
"""
OPTIONS = {
    "poll": PollOptions(),
    "metadata": MetadataOptions(),
    "cpu_stats": CpuStatsOptions(enabled=True),
    "defined": DefinedOptions(),
    "disk_errors": DiskErrorsOptions(enabled=True),
    "pools": PoolsOptions(),
    "networks": NetworksOptions(),
    "events": EventsOptions(),
    "jobs": JobsOptions(),
    "local": KernelOptions(interval_seconds=0.5),
    "guest_agent": GuestAgentOptions(enabled=True),
    "storage": StorageOptions(interval_seconds=1),
    "": None,
}


class Libvirt:
    """A libvirt with one guest, its own handle and its own connection at once."""

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "isAlive": True,
            "UUIDString": UUID,
            "name": "vm",
            "ID": 1,
            "XMLDesc": XML,
            "listAllDomains": [self],
            "lookupByUUIDString": self,
            "connect": self,
            "snapshotNum": 2,
            "listAllStoragePools": [],
            "listAllNetworks": [],
            "listAllCheckpoints": [],
            "getLibVersion": 9_000_000,
            "jobStats": {"type": 0},
            "blockJobInfo": {},
            "getCPUMap": (2, [True, True], 2),
            "getCPUStats": [{"cpu_time": 7, "vcpu_time": 5}] * 2,
            "schedulerParametersFlags": {"cpu_shares": 1024},
            "memoryParameters": {},
            "blkioParameters": {},
            "numaParameters": {},
            "domainListGetStats": [(self, {"state.state": 1, "state.reason": 1})],
            "getAllDomainStats": [(self, {"state.state": 1, "state.reason": 1})],
            "domainEventRegisterAny": 1,
            "domainEventDeregisterAny": 0,
            "guestInfo": {"user.count": 0, "hostname": "web"},
            "guestVcpus": {"vcpus": "0", "online": "0", "offlinable": ""},
            "close": 0,
            "controlInfo": (0, 0, 0),
            "diskErrors": {},
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: answers[name]


def hypervisor(tree: Tree) -> Hypervisor:
    """Return a hypervisor with that libvirt, whose guest has a process in the tree."""
    up, inventory, log = Up(up=True), Inventory(), structlog.get_logger()
    session: Any = Libvirt()
    inventory.see(UUID, "vm", 1)
    lanes = Lanes(lambda: Session(session), 1, up)
    connection = Connection(lambda: Session(session), inventory, log, up)
    processes = Processes(tree.pids, tree.proc)
    return Hypervisor(
        up, inventory, lanes, connection, processes, "", 25, 5.0, lambda: Session(session)
    )


@pytest.mark.slow
async def test_all_of_them(tmp_path: Path):
    """Bulk, descriptions, CPU statistics, the kernel's numbers and the agent's own keep it."""
    tree = Tree(tmp_path)
    tree.start(100, UUID, "vm", 1)
    there = hypervisor(tree)
    parts = Parts(
        shipped(), there, structlog.get_logger(), frozenset({"cpu"}), math.inf, asyncio.Event()
    )
    names = []
    try:
        for kind in KINDS:

            def made(kind: Any = kind) -> Collector:
                collector = kind.built(OPTIONS[kind.table], parts)
                assert collector
                return collector  # type: ignore[no-any-return]

            names.append(made().name)
            await check_collector(made)
    finally:
        await there.lanes.close(5.0)
        there.processes.close()  # type: ignore[union-attr]

    def own() -> Collector:
        return OwnCollector(shipped(), [], 0.5, asyncio.Event())

    await check_collector(own)
    assert (*names, own().name) == OWN_NAMES


def test_each_has_success_duration_and_age(tmp_path: Path):
    """After a round, each reports its health under its name."""
    rows = {}

    async def rounds() -> None:
        tree = Tree(tmp_path)
        tree.start(100, UUID, "vm", 1)
        there = hypervisor(tree)
        parts = Parts(
            shipped(), there, structlog.get_logger(), frozenset({"cpu"}), math.inf, asyncio.Event()
        )
        collectors = [kind.built(OPTIONS[kind.table], parts) for kind in KINDS]
        collectors.append(OwnCollector(shipped(), [], 0.5, asyncio.Event()))
        try:
            for each in collectors:
                assert each
                batches: list[object] = []
                outcome = await each.once(batches.append)
                assert outcome.answered, (each.name, outcome)
                assert batches
                rows[each.name] = {
                    key: number
                    for key, labels, number in each.numbers()
                    if labels == {"collector": each.name}
                }
        finally:
            await there.lanes.close(5.0)
            there.processes.close()  # type: ignore[union-attr]

    asyncio.run(rounds())
    health = {"collector_success", "collector_duration", "collector_age"}
    assert {name: set(keys) for name, keys in rows.items()} == dict.fromkeys(OWN_NAMES, health)
    assert all(keys["collector_success"] == 1 for keys in rows.values()), rows

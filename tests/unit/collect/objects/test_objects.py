"""Storage pools and networks of a libvirt that is made up."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import libvirt
import pytest
import structlog
from structlog.testing import capture_logs

from virtstatd.catalog import shipped
from virtstatd.collect.objects.collector import ObjectCollector
from virtstatd.collect.objects.networks import NetworksOptions, networks
from virtstatd.collect.objects.pools import PoolsOptions, pools
from virtstatd.collect.parts import Parts
from virtstatd.collector import Up
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Domain, Reading
from virtstatd.testing import HOSTILE_NAMES


POOL = """<pool type='{kind}'><source><host name='nfs1'/><dir path='/export'/><name>{source}</name>
</source><target><path>{path}</path></target></pool>"""


def refusal(code: int, text: str = "refused") -> libvirt.libvirtError:
    """Return an error of libvirt's with this code."""
    error = libvirt.libvirtError(text)
    error.err = (code, 18, text, 2, None, None, None, -1, -1)
    return error


class Thing:
    """A pool or a network: what its methods return, or raise."""

    def __init__(self, name: str, **answers: Any) -> None:
        self.answers = {
            "name": name,
            "UUIDString": f"uuid-{name}",
            "info": [2, 1000, 600, 400],
            "numOfVolumes": 3,
            "autostart": 1,
            "isPersistent": 1,
            "isActive": 1,
            "XMLDesc": POOL.format(kind="dir", source="", path="/var/pool"),
            "listAllPorts": [1, 2],
            "DHCPLeases": [{}],
        } | answers

    def __getattr__(self, name: str) -> Any:
        answer = self.answers[name]

        def method(*_: object) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer() if callable(answer) else answer

        return method


class Libvirt:
    """A connection with these pools and networks."""

    def __init__(self, *things: Thing) -> None:
        self.things = list(things)
        self.refused: Exception | None = None
        self.calls: list[str] = []

    def listAllStoragePools(self, _: int) -> list[Thing]:  # noqa: N802 - libvirt's
        """List."""
        self.calls.append("list")
        if self.refused:
            raise self.refused
        return self.things

    listAllNetworks = listAllStoragePools  # noqa: N815 - libvirt's

    def storagePoolLookupByUUIDString(self, uuid: str) -> Thing:  # noqa: N802 - libvirt's
        """Look up."""
        for each in self.things:
            if each.answers["UUIDString"] == uuid:
                return each
        raise refusal(libvirt.VIR_ERR_NO_STORAGE_POOL, "gone")

    networkLookupByUUIDString = storagePoolLookupByUUIDString  # noqa: N815 - libvirt's

    def isAlive(self) -> int:  # noqa: N802 - libvirt's
        """Live."""
        return 1

    def close(self) -> None:
        """Close."""


def parts(there: Libvirt, seconds: float = 60.0) -> Parts:
    """Return what collectors are built from, with this libvirt."""
    up, inventory, log = Up(up=True), Inventory(), structlog.get_logger()
    session: Any = there

    def opened() -> Session:
        return Session(session)

    lanes = Lanes(opened, 1, up)
    connection = Connection(opened, inventory, log, up)
    hypervisor = Hypervisor(up, inventory, lanes, connection, None, "", 25, seconds, opened)
    return Parts(shipped(), hypervisor, log, frozenset(), 1.0, asyncio.Event())


def pools_of(there: Libvirt, seconds: float = 60.0) -> ObjectCollector:
    """Return the collector of pools."""
    made = pools(PoolsOptions(), parts(there, seconds))
    assert made
    return made


async def shown(collector: ObjectCollector) -> dict[tuple[str, str], float]:
    """Ask once; return numbers by metric and name."""
    batches: list[Batch] = []
    await collector.once(batches.append)
    found = {}
    for batch in batches:
        for reading in batch.readings:
            for series, value in zip(reading.shape.series, reading.values, strict=True):
                labels = dict(series.labels)
                name = labels.get("storage_pool") or labels.get("network") or ""
                found[series.field.family.removeprefix("libvirt_"), name] = value
    return found


async def test_pools():
    """A pool that is not active has no sizes; a state that nobody knows is a number."""
    there = Libvirt(
        Thing("on"),
        Thing("off", info=[0, 0, 0, 0], numOfVolumes=refusal(55)),
        Thing("odd", info=[9, 0, 0, 0]),
    )
    found = await shown(pools_of(there))
    assert found["storage_pools", ""] == 3
    on = {name: value for (name, of), value in found.items() if of == "on"}
    assert {name.removeprefix("storage_pool_"): value for name, value in on.items()} == {
        "state": 2,
        "capacity_bytes": 1000,
        "allocation_bytes": 600,
        "available_bytes": 400,
        "volumes": 3,
        "volumes_in_use": 0,
        "autostart": 1,
        "persistent": 1,
        "timed_out": 0,
        "info": 1,
    }
    assert found["storage_pool_state", "odd"] == 9
    assert not {name for name, of in found if of == "off" and "bytes" in name}


async def test_one_refused_fact_costs_itself_alone():
    """What a pool's driver does not answer is absent and reported once; a pool that went is not."""
    there = Libvirt(Thing("a", numOfVolumes=refusal(3, "no volumes")), Thing("b"))
    collector = pools_of(there)
    with capture_logs() as logs:
        found = await shown(collector)
        await shown(collector)
    assert ("storage_pool_volumes", "a") not in found
    assert found["storage_pool_capacity_bytes", "a"] == 1000
    assert found["storage_pool_volumes", "b"] == 3
    assert [line["reason"] for line in logs] == ["no volumes"]
    there.things[0].answers["info"] = refusal(libvirt.VIR_ERR_NO_STORAGE_POOL)
    assert {of for _, of in await shown(collector)} == {"", "b"}


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("this function is not supported by the connection driver: virStorage", None),
        ("Failed to connect socket to '/run/libvirt/virtstoraged-sock-ro': No such file", None),
        ("access denied", False),
    ],
)
async def test_no_driver_is_no_error(text: str, answered: bool | None):
    """A host without the driver has no numbers and no failure; both are reported once."""
    there = Libvirt()
    there.refused = refusal(38, text)
    collector = pools_of(there)
    with capture_logs() as logs:
        outcomes = [await collector.once(lambda _: None) for _ in range(3)]
    assert {outcome.answered for outcome in outcomes} == {answered}
    assert [(line["event"], line["reason"]) for line in logs] == [("objects.refused", text)]
    health = {name: value for name, _, value in collector.numbers()}
    assert health.get("collector_success") == (None if answered is None else 0)


async def test_pools_that_hang_beside_a_list_that_hangs():
    """Known pools are asked though the list hangs; what hung is there when it has returned."""
    let, stuck = threading.Event(), Thing("stuck")
    there = Libvirt(Thing("well"), stuck)
    collector = pools_of(there, seconds=0.2)
    await shown(collector)

    def wait() -> list[int]:
        let.wait(60)
        return [2, 1, 1, 0]

    stuck.answers["info"] = wait
    listed: Callable[[int], list[Thing]] = there.listAllStoragePools

    def hang(flags: int) -> list[Thing]:
        let.wait(60)
        return listed(flags)

    setattr(there, "listAllStoragePools", hang)  # noqa: B010 - mypy: a method
    try:
        for _ in range(2):
            found = await shown(collector)
            assert found["storage_pool_capacity_bytes", "well"] == 1000
            of_stuck = {name: value for (name, of), value in found.items() if of == "stuck"}
            assert of_stuck == {"storage_pool_timed_out": 1}
    finally:
        let.set()
    async with asyncio.timeout(60):
        while (await shown(collector)).get(("storage_pool_capacity_bytes", "stuck")) != 1:
            pass


async def test_volumes_that_guests_use():
    """By path, by pool and name, and by the name of an RBD pool; each volume once."""
    there = Libvirt(
        Thing("dir"),
        Thing("ceph", XMLDesc=POOL.format(kind="rbd", source="vms", path="").replace("<dir", "<x")),
        Thing("nfs", XMLDesc=POOL.format(kind="netfs", source="", path="/mnt/nfs/")),
    )
    given = parts(there)
    catalog = given.catalog
    for number, places in enumerate(
        [["/var/pool/a", "dir/b", "/export/x"], ["/var/pool/a", "vms/c", "/mnt/nfs/d"]]
    ):
        domain = given.hypervisor.inventory.see(f"uuid-{number}", f"vm-{number}", number)
        assert isinstance(domain, Domain)
        shape = catalog.shape(
            "domain",
            [
                ("disk", (("target_device", f"vd{at}"), ("source_file", place)))
                for at, place in enumerate(places)
            ],
        )
        given.hypervisor.inventory.describe(domain, (Reading(domain, shape, (1, 1, 1)),))
    collector = pools(PoolsOptions(), given)
    assert collector
    found = await shown(collector)
    used = {of: value for (name, of), value in found.items() if name.endswith("in_use")}
    assert used == {"dir": 2, "ceph": 1, "nfs": 1}


async def test_hostile_names_and_xml():
    """Names are labels as they are, and XML that cannot be read costs its facts alone."""
    bad = ["", "<a/>", "<!DOCTYPE x><pool/>", "<pool>" * 1000]
    things = [Thing(name, XMLDesc=bad[at % 4]) for at, name in enumerate(HOSTILE_NAMES)]
    found = await shown(pools_of(Libvirt(*things)))
    assert {of for name, of in found if name == "storage_pool_info"} == set(HOSTILE_NAMES)


async def test_networks():
    """Ports are counted where a network is active, leases only where they are asked for."""
    xml = "<network><bridge name='br7'/><forward/></network>"
    there = Libvirt(Thing("on", XMLDesc=xml), Thing("off", isActive=0, XMLDesc=xml))
    for leases in False, True:
        made = networks(NetworksOptions(leases=leases), parts(there))
        assert made
        found = await shown(made)
        assert found["network_ports", "on"] == 2
        assert ("network_ports", "off") not in found
        assert found["network_active", "off"] == 0
        assert (("network_leases", "on") in found) is leases
        there.things, things = [], there.things
        assert await shown(made) == {("networks", ""): 0}
        there.things = things


async def test_off_is_not_built():
    """Without the collectors there is nothing that could call."""
    given = parts(Libvirt())
    assert pools(PoolsOptions(enabled=False), given) is None
    assert networks(NetworksOptions(enabled=False), given) is None

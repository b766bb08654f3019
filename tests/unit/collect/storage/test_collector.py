"""The collector of storages: made of the batches of others, and of no call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from virtstatd.catalog import Catalog, load
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.descriptions.xml import Describer, parsed_xml
from virtstatd.collect.storage.collector import StorageCollector
from virtstatd.collect.storage.places import Local, elsewhere
from virtstatd.collector import Up
from virtstatd.model import Batch, Domain


SECOND = 1_000_000_000
VM = Domain("u1", "vm", 1, (("domain", "vm"),))
AGAIN = Domain("u1", "vm", 2, (("domain", "vm"),))
XML = """
<domain type='kvm'><devices>
  <disk type='file' device='disk'><source file='/images/a.img'/><target dev='vda'/>
    <iotune><total_bytes_sec>1000</total_bytes_sec></iotune></disk>
  <disk type='network' device='disk'><source protocol='rbd' name='vms/b'/>
    <target dev='vdb'/></disk>
  <disk type='file' device='cdrom'><target dev='hda'/></disk>
</devices></domain>
"""
FILE = ("libvirt_storage_read_requests", "directory", "/images")
RBD = ("libvirt_storage_read_requests", "rbd", "vms")
USED = ("libvirt_domain_block_stats_limit_used_ratio", "vda", "total_bytes")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Load the package's catalog."""
    return load()


class Scene:
    """A collector that hears what others would emit."""

    def __init__(self, catalog: Catalog) -> None:
        self.decoder = Decoder(catalog, lambda _: None)
        self.describer = Describer(catalog)
        self.sent: list[Batch] = []
        self.came = asyncio.Event()
        self.collector = StorageCollector(catalog, lambda: elsewhere, 0.01)
        self.at = 0

    def emit(self, batch: Batch) -> None:
        """Take a batch, and let the collector hear it as the agent does."""
        self.sent.append(batch)
        self.collector.heard(batch)
        self.came.set()

    def describe(self, domain: Domain = VM) -> None:
        """Emit a description."""
        readings = self.describer.readings(domain, parsed_xml(XML))
        self.collector.heard(Batch("inventory", self.at, readings, frozenset({"domain"})))

    def poll(self, number: int, domain: Domain = VM, seconds: float = 15) -> None:
        """Emit what each disk has done so far, in requests and bytes."""
        self.at += int(seconds * SECOND)
        record: dict[str, int | float | bool | str] = {"block.count": 3}
        for at, (name, path) in enumerate((("vda", "a"), ("vda", "base"), ("vdb", "b"))):
            record |= {f"block.{at}.name": name, f"block.{at}.path": path}
            record |= {
                f"block.{at}.{way}.{what}": number
                for way in ("rd", "wr", "fl")
                for what in ("reqs", "bytes", "times")
                if (way, what) != ("fl", "bytes")
            }
        readings = self.decoder.readings(domain, record)
        self.collector.heard(Batch("bulk", self.at, readings, frozenset({"block"})))

    def gone(self, domain: Domain) -> None:
        """Emit a guest's end."""
        self.collector.heard(Batch("inventory", self.at, (), gone=(domain,)))

    @property
    def values(self) -> dict[tuple[str, ...], int | float]:
        """Return the last number of each series by metric and labels' values."""
        return {
            (series.field.family, *(text for _, text in series.labels)): number
            for batch in self.sent
            for reading in batch.readings
            for series, number in zip(reading.shape.series, reading.values, strict=True)
        }

    def tells_of(self, domain: Domain) -> bool:
        """Return whether something of this run was emitted."""
        return any(r.domain is domain for batch in self.sent for r in batch.readings)

    async def until(self, what: Callable[[dict[tuple[str, ...], int | float]], bool]) -> None:
        """Wait until the numbers are so."""
        while not what(self.values):
            self.came.clear()
            await self.came.wait()


@asynccontextmanager
async def running(catalog: Catalog) -> AsyncIterator[Scene]:
    """Run a collector."""
    scene, stop = Scene(catalog), asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.collector.run(scene.emit, Up(), stop))
        while scene.collector._emit is None:
            await asyncio.sleep(0)
        try:
            yield scene
        finally:
            stop.set()


async def test_disks_are_summed_by_storage(catalog: Catalog):
    """Layers of a chain do not count, empty drives are nowhere, and ends take nothing away."""
    async with running(catalog) as scene:
        scene.poll(100)
        scene.describe()
        scene.poll(107)
        await scene.until(lambda seen: FILE in seen)
        scene.poll(110)
        await scene.until(lambda seen: seen[FILE] == 10)
        assert scene.values[RBD] == 10
        assert scene.values["libvirt_domain_block_stats_storage_info", "vdb", "rbd", "vms"] == 1
        assert not [key for key in scene.values if "hda" in key]
        scene.gone(VM)
        scene.sent.clear()
        await scene.until(lambda seen: FILE in seen)
        assert scene.values[FILE] == 10
        assert scene.values["libvirt_storage_disks", "rbd", "vms"] == 0
        assert not [key for key in scene.values if "storage_info" in key[0]]


async def test_another_run_begins_anew(catalog: Catalog):
    """Its counters begin at zero, also where the end of the last run is heard of later."""
    async with running(catalog) as scene:
        for domain, (first, last), whole in ((VM, (100, 110), 10), (AGAIN, (3, 5), 12)):
            scene.poll(first, domain)
            scene.describe(domain)
            await scene.until(lambda _: scene.tells_of(domain))  # noqa: B023 - called here only
            scene.poll(last, domain)
            await scene.until(lambda seen: seen[FILE] >= whole)  # noqa: B023
            assert scene.values[FILE] == whole
        scene.gone(VM)
        scene.poll(9, AGAIN)
        await scene.until(lambda seen: seen[FILE] == 16)


async def test_shares_of_limits_come_with_each_poll(catalog: Catalog):
    """As soon as two polls have been heard, in a batch of the poll's time."""
    async with running(catalog) as scene:
        scene.describe()
        scene.poll(0)
        assert USED not in scene.values
        scene.poll(7500)  # of reads and as many of writes in 15 s
        assert scene.values[USED] == 1.0
        (batch,) = (each for each in scene.sent if "storage_limit" in each.groups)
        assert batch.taken_at == scene.at
        scene.describe()
        scene.poll(7500)
        assert scene.values[USED] == 0.0, "an equal description changes nothing"


async def test_a_search_that_hangs_holds_up_nothing(catalog: Catalog):
    """Sums and shares go on while a storage is looked for, and what waits is counted later."""
    go, hangs = threading.Event(), threading.Event()

    def search() -> Local:
        hangs.set()
        go.wait(100)
        return elsewhere

    async with running(catalog) as scene:
        scene.collector._here = search
        scene.describe()
        scene.poll(0)
        scene.poll(7500)
        assert scene.values[USED] == 1.0
        while not hangs.is_set():
            await asyncio.sleep(0)
        assert FILE not in scene.values
        go.set()
        await scene.until(lambda seen: FILE in seen)
        scene.poll(7501)
        await scene.until(lambda seen: seen[FILE] == 7501)


async def test_the_storage_of_a_disk_is_sent_when_it_changes(catalog: Catalog):
    """And else once a minute: of many disks that is many series, which hardly ever change."""
    async with running(catalog) as scene:

        def sent(group: str) -> int:
            return sum(group in batch.groups for batch in scene.sent)

        async def sums(count: int) -> None:
            wanted = sent("storage") + count
            await scene.until(lambda _: sent("storage") >= wanted)

        scene.describe()
        await scene.until(lambda _: sent("storage_disk") == 1)
        await sums(5)
        assert sent("storage_disk") == 1
        scene.describe(AGAIN)
        await scene.until(lambda _: sent("storage_disk") == 2)
        await sums(5)
        assert sent("storage_disk") == 2

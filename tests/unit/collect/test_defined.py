"""Domains that do not run."""

import asyncio

import structlog

from virtstatd.catalog import shipped
from virtstatd.collect.defined import DefinedCollector
from virtstatd.collector import Up
from virtstatd.errors import Refused
from virtstatd.hypervisor.connection import Connection, version_text
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes
from virtstatd.model import Batch
from virtstatd.testing import FakeClock


UUID = "11111111-1111-4111-8111-111111111111"


class Asked(Lanes):
    """Lanes on which libvirt answers as it is said to."""

    def __init__(self, up: Up, answers: list[tuple[int, int] | Exception]) -> None:
        super().__init__(lambda: None, 1, up)  # type: ignore[arg-type, return-value]
        self.answers = answers
        self.came = asyncio.Event()

    async def run(self, *_: object, **__: object) -> tuple[int, int]:  # type: ignore[override]
        """Answer."""
        self.came.set()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def collector(answers: list[tuple[int, int] | Exception]) -> tuple[DefinedCollector, Hypervisor]:
    """Return a collector with a libvirt that gives these answers."""
    up, inventory, log = Up(up=True), Inventory(), structlog.get_logger()
    lanes = Asked(up, answers)
    connection = Connection(lambda: None, inventory, log, up)  # type: ignore[arg-type, return-value]
    there = Hypervisor(up, inventory, lanes, connection, None, "", 25, 5.0)
    return DefinedCollector(shipped(), there, FakeClock()), there


async def test_the_number_and_the_version():
    """Both are one reading of the host; a driver that refuses has none."""
    it, _ = collector([(3, 9_001_002), Refused("no such function")])
    batches: list[Batch] = []
    assert (await it.once(batches.append)).answered
    (reading,) = batches[0].readings
    assert reading.domain is None
    assert reading.values == (3, 1)
    assert reading.shape.series[1].labels == (("version", "9.1.2"),)
    outcome = await it.once(batches.append)
    assert (outcome.answered, outcome.reason) == (None, "no such function")
    assert len(batches) == 1


async def test_it_asks_again_when_a_domain_has_started():
    """A change of the number of running domains is followed by a question, without waiting."""
    it, there = collector([(3, 1), (2, 1)])
    batches: list[Batch] = []
    lanes = there.lanes
    assert isinstance(lanes, Asked)
    stop = asyncio.Event()
    task = asyncio.create_task(it.run(batches.append, there.up, stop))
    try:
        async with asyncio.timeout(30):
            await lanes.came.wait()
            lanes.came.clear()
            there.inventory.see(UUID, "vm", 1)
            await lanes.came.wait()
        assert [batch.readings[0].values[0] for batch in batches] == [3, 2]
    finally:
        stop.set()
        await task


def test_versions_as_people_write_them():
    """Libvirt's number of a version has three digits for each part."""
    assert version_text(9_000_000) == "9.0.0"
    assert version_text(11_010_002) == "11.10.2"

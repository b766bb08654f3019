"""The kernel collector: a look at every tick, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from virtstatd.catalog import Catalog, load
from virtstatd.collect.kernel.blind import Bars
from virtstatd.collect.kernel.collector import KernelCollector
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.survey import Second
from virtstatd.collector import Up
from virtstatd.model import Batch, Domain, Reading
from virtstatd.pipeline.one_source import OneSource


VM = Domain("u1", "vm", 1, (("domain", "vm"),))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Load the package's catalog."""
    return load()


class Log:
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, object]] = []
        self.devices: list[object] = []

    def warning(self, event: str, **values: object) -> None:
        """Take note."""
        assert values.get("fix") or "field" in values, "whoever reads it wants to know what to do"
        self.warnings.append((event, values.get("what") or values.get("field")))
        if "device" in values:
            self.devices.append(values["device"])


class Scene:
    """A collector whose looks are made by the test."""

    def __init__(self, catalog: Catalog, look: Callable[[], Second]) -> None:
        self.sent: list[Batch] = []
        self.looked = asyncio.Event()
        self.running = [(VM, ())]
        self.closed = threading.Event()
        self.log = Log()
        self.wholes: list[bool] = []
        self.looking = look
        self.bars = Bars()
        shapes = Shapes(catalog)
        self.shape = shapes.times((("vcpu", 0), ("emulator", 0)))
        survey: Any = self
        log: Any = self.log
        self.emit = OneSource([self.take], log)
        self.lane = KernelCollector(survey, lambda: self.running, log, 0.01, 500)

    def run(self, stop: asyncio.Event) -> Coroutine[None, None, None]:
        """Run the collector."""
        return self.lane.run(self.emit, Up(), stop)

    def look(self, *, whole: bool) -> Second:
        """Look as the test says."""
        self.wholes.append(whole)
        return self.looking()

    def close(self) -> None:
        """Be closed as a survey is, on the lane's thread."""
        self.closed.set()

    def take(self, batch: Batch) -> None:
        """Take a batch as sinks do."""
        self.sent.append(batch)
        self.looked.set()

    async def looks(self, count: int) -> None:
        """Wait until so many looks have been passed on."""
        while sum(batch.source == "local" for batch in self.sent) < count:
            self.looked.clear()
            await self.looked.wait()

    def domains(self) -> list[str]:
        """Return whose readings were in the last batch."""
        return [r.domain.name for r in self.sent[-1].readings if r.domain]


async def test_a_look_that_hangs_holds_up_nothing_but_looks(catalog: Catalog):
    """While the kernel does not answer, ticks are skipped and counted, and the loop goes on."""
    go, hangs = threading.Event(), threading.Event()

    def look() -> Second:
        hangs.set()
        go.wait(10)
        return Second(1)

    scene, stop = Scene(catalog, look), asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.run(stop))
        while scene.lane.ticker.skipped < 5:
            await asyncio.sleep(0)
        assert hangs.is_set()
        assert not scene.sent
        go.set()
        await scene.looks(2)
        stop.set()
    assert scene.closed.wait(100)


async def test_a_domain_that_ended_meanwhile_is_not_sent(catalog: Catalog):
    """What was read of a domain does not bring it back when libvirt has told of its end."""
    scene = Scene(catalog, lambda: Second(1, [Reading(VM, scene.shape, (1,) * 8)]))
    stop = asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.run(stop))
        await scene.looks(2)
        assert scene.domains() == ["vm"]
        scene.running = []
        await scene.looks(len(scene.sent) + 1)
        assert scene.domains() == []
        stop.set()


async def test_a_look_at_a_stretched_interval_reads_all_that_would_expire(catalog: Catalog):
    """The first look after the interval grew reads every cgroup; lifetimes are those in force."""
    _, shape = Shapes(catalog).facts((("cpu", "time", ()),), "local_cgroup")
    scene = Scene(catalog, lambda: Second(1, cgroups=[Reading(VM, shape, (1,))]))
    stop = asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.run(stop))
        await scene.looks(3)
        before = len(scene.wholes)
        assert not any(scene.wholes)
        scene.lane.ticker.stretch(2, scene.lane.ticker.due)
        scene.sent.clear()
        await scene.looks(3)
        stop.set()

    assert scene.wholes[before:].count(True) == 1
    lifetimes = {batch.source: batch.lifetime_seconds for batch in scene.sent}
    assert lifetimes == {"local": 5.0, "local cgroup": 3 * 500 * 0.02}


async def test_cgroups_are_current_for_longer(catalog: Catalog):
    """What is read in turn is a batch of its own, which stays current until the next turn."""
    order, shape = Shapes(catalog).facts((("cpu", "time", ()),), "local_cgroup")
    readings = [Reading(VM, shape, (1,))]
    scene = Scene(catalog, lambda: Second(1, cgroups=readings))
    stop = asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.run(stop))
        await scene.looks(3)
        stop.set()
    assert order == (0,)
    first, second = [batch for batch in scene.sent if batch.source == "local cgroup"][:2]
    assert first.readings == (), "the first reading is held back"
    assert (second.readings, second.groups) == (tuple(readings), frozenset({"local_cgroup"}))
    lifetimes = {batch.source: batch.lifetime_seconds for batch in scene.sent}
    assert lifetimes == {"local": 5.0, "local cgroup": 15.0}


async def test_what_is_not_seen_is_said_once(catalog: Catalog):
    """A lack is one line in the log, however many seconds it lasts."""
    scene = Scene(catalog, lambda: Second(1, blind={"interfaces": "gone", "processes": "hidden"}))
    stop = asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.run(stop))
        await scene.looks(3)
        stop.set()
    said = [("local.blind", "interfaces"), ("local.blind", "processes")]
    assert sorted(scene.log.warnings) == said


async def test_each_device_is_told_of_once_while_its_guest_runs(catalog: Catalog):
    """A second trouble of the same kind is said too, and nothing is kept of guests that ended."""
    seconds = [{"tap0"}, {"tap0"}, {"tap0", "tap1"}, {"tap1"}]

    def look() -> Second:
        devices = seconds.pop(0) if seconds else set[str]()
        return Second(1, lost={(VM, device): f"no {device}" for device in devices})

    scene, stop = Scene(catalog, look), asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.run(stop))
        await scene.looks(5)
        assert scene.log.devices == ["tap0", "tap1"]
        assert len(scene.lane._lost) == 2
        scene.running = []
        await scene.looks(7)
        assert not scene.lane._lost
        stop.set()


async def test_a_process_that_hangs_is_told_of_once(catalog: Catalog):
    """For as long as it hangs; the next one is told of too."""
    seconds = [{7: "vm.pid"}, {7: "vm.pid"}, {7: "vm.pid", 8: "other.pid"}, {}]

    def look() -> Second:
        return Second(1, hanging=seconds.pop(0) if seconds else {})

    scene, stop = Scene(catalog, look), asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.run(stop))
        await scene.looks(6)
        stop.set()
    assert scene.log.warnings == [("local.blind", "a process that hangs")] * 2
    assert not scene.lane._hanging


async def test_a_fault_of_ours_ends_the_agent(catalog: Catalog):
    """What no kernel can cause is not hidden."""

    def look() -> Second:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
            tasks.create_task(Scene(catalog, look).run(asyncio.Event()))
    assert caught.group_contains(ZeroDivisionError)

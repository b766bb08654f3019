"""Twenty thousand guests that live for a moment leave nothing behind in what is kept of guests."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import structlog

from support.processes import Tree
from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.collect.descriptions.limits import Tunables
from virtstatd.collect.descriptions.reader import DescriptionReader
from virtstatd.collect.descriptions.xml import Describer
from virtstatd.collect.kernel.shapes import Shapes
from virtstatd.collect.kernel.survey import Survey
from virtstatd.hypervisor.inventory import ENDED_KEPT, Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.hypervisor.processes import Processes
from virtstatd.model import Batch, Domain
from virtstatd.pipeline.one_source import OneSource
from virtstatd.runtime.kernel_files import Descriptors
from virtstatd.testing import FakeClock


LIVES = 20_000
TOGETHER = 100
SEEN_EVERY = 20
"""Of so many guests one is there when the kernel is looked at: files are dear to a test."""

RECORD = {"state.state": 1, "state.reason": 1, "balloon.current": 1024, "vcpu.current": 1}
XML = "<domain type='kvm'><resource><partition>/prod</partition></resource></domain>"


class World:
    """A host on which guests come and go, with all that keeps something of each."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.tree = Tree(folder)
        self.inventory = Inventory(self.clock)
        self.decoder = Decoder(shipped(), lambda _: None)
        self.one_source = OneSource([self._take], structlog.get_logger(), self.clock)
        self.inventory.on_gone(lambda domain: self.decoder.forget(domain.uuid))
        self.inventory.on_gone(self._gone)
        self.reader = DescriptionReader(
            self.inventory,
            self,  # type: ignore[arg-type]
            Describer(shipped()),
            Tunables(shipped()),
            structlog.get_logger(),
            5.0,
            math.inf,
            self.clock,
        )
        self.processes = Processes(self.tree.pids, self.tree.proc)
        self.survey = Survey(
            self.processes,
            self.inventory.domains,
            Shapes(shipped()),
            Descriptors(1000),
            60.0,
            proc=self.tree.proc,
            cgroups=folder / "cgroup",
            devices=folder / "sys",
            clock=lambda: int(self.clock.now * 1e9),
            begun=self.inventory.begun,
        )
        self.batches = 0

    @property
    def kept(self) -> dict[str, int]:
        """How many entries there are in everything that has any for a guest."""
        survey, processes, partitions = self.survey, self.processes, self.survey._partitions
        return {
            "inventory": len(self.inventory),
            "stale": len(self.inventory._stale),
            "descriptions": len(self.reader._guests),
            "decoder": len(self.decoder._plans),
            **{
                f"one source {name}": len(e._covered) for name, e in self.one_source._layers.items()
            },
            "survey": len(survey._guests) + len(survey._seen) + len(survey._known),
            "partitions": len(partitions._before),
            "processes": len(processes.found) + len(processes._of) + len(processes._pids),
            "reads": len(processes._reads) + len(processes.hanging),
        }

    @property
    def stuck(self) -> int:
        """No call hangs."""
        return 0

    async def run(self, function: Callable[[Session], object], *_: object, **__: bool) -> object:
        """Call at once, as a lane."""
        return function(Session(self))

    def lookupByUUIDString(self, _: str) -> World:  # noqa: N802 - libvirt's name
        """Return a handle."""
        return self

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Be there."""
        return True

    def XMLDesc(self, _: int) -> str:  # noqa: N802 - libvirt's name
        """Describe any guest."""
        return XML

    def _take(self, _: Batch) -> None:
        self.batches += 1

    def _gone(self, domain: Domain) -> None:
        self.one_source(Batch("inventory", 1, (), gone=(domain,)))

    async def live(self, numbers: range) -> None:
        """Let guests start, be polled, described and looked at, and end."""
        names = {number: f"{number:08x}-1111-4111-8111-111111111111" for number in numbers}
        seen = [number for number in numbers if number % SEEN_EVERY == 0]
        for number, uuid in names.items():
            self.inventory.started(uuid, f"vm{number}", number)
            domain = self.inventory.see(uuid, f"vm{number}", number)
            assert domain
            readings = self.decoder.readings(domain, RECORD)
            self.one_source(Batch("bulk", 1, readings, frozenset({"state"})))
        for number in seen:
            self.tree.start(number, names[number], f"vm{number}", number, vcpus=1)
        await self.reader.read_all(asyncio.Event())
        self.look()
        self.look()
        assert {key for key, number in self.kept.items() if not number} == {"stale", "reads"}
        for number in seen:
            self.tree.end(number, f"vm{number}")
        for uuid in names.values():
            self.inventory.end(uuid)
        self.look()
        self.reader._look_again()

    def look(self) -> None:
        """Look at the kernel, a summary later."""
        self.clock.now += 5
        second = self.survey.look(whole=True)
        for source, readings in (("local", second.readings), ("local cgroup", second.readings)):
            self.one_source(Batch(source, second.taken_at, tuple(readings), lifetime_seconds=5.0))


async def test_short_lives_leave_nothing(tmp_path: Path):
    """What is kept of guests is as it was before; the one list of those that ended is bounded."""
    world = World(tmp_path)
    before = world.kept
    for first in range(1, LIVES, TOGETHER):
        await world.live(range(first, first + TOGETHER))
        assert world.kept == before
    world.survey.close()
    world.processes.close()
    assert world.batches > LIVES
    assert len(world.inventory._ended) == ENDED_KEPT, "late answers bring nobody back"

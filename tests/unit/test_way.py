"""One batch on its way from the call of libvirt to a sink."""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

import virtstatd
from support.outlets import draining
from virtstatd.catalog import shipped
from virtstatd.collect.bulk.answer import Answer
from virtstatd.collect.bulk.options import PollOptions
from virtstatd.collect.bulk.poller import poller
from virtstatd.collect.parts import Parts
from virtstatd.collector import Up
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Reading
from virtstatd.pipeline.buffer import Buffer
from virtstatd.pipeline.delivery import Piece, Underway
from virtstatd.pipeline.outlet import Outlet
from virtstatd.sink import Opening
from virtstatd.sinks.null import Null


MOST = 10
"""Files on the way, `runtime/` and the nouns of `model.py` left out."""

HOME = Path(virtstatd.__file__).parent
RECORD = {"state.state": 1, "state.reason": 1, "balloon.current": 1024, "balloon.rss": 7}
GROUPS = {"state", "balloon"}


class Handle:
    """A guest's handle."""

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        """Return its UUID."""
        return "11111111-1111-4111-8111-111111111111"

    def name(self) -> str:
        """Return its name."""
        return "vm"

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        """Return the number of its run."""
        return 1


class Libvirt:
    """A libvirt with one guest, whose record is the one that is followed."""

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Be there."""
        return True

    def listAllDomains(self, _: int) -> list[Handle]:  # noqa: N802 - libvirt's name
        """List the guest."""
        return [Handle()]

    def getAllDomainStats(self, _: int, __: int) -> list[tuple[Handle, dict[str, Any]]]:  # noqa: N802
        """Return the record."""
        return [(Handle(), dict(RECORD))]

    def close(self) -> None:
        """Close nothing."""


class Way:
    """The files whose functions were handed the record, its readings, or a batch of them."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.noting = False

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Follow this thread and all that are started meanwhile."""
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _look(self, frame: FrameType, event: str, arg: object) -> None:
        path = Path(frame.f_code.co_filename)
        if not self.noting or HOME not in path.parents:
            return
        if event == "call":
            names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            carried = [frame.f_locals.get(name) for name in names]
        elif event == "return":
            carried = [arg]
        else:
            return
        if any(map(_carries, carried)):
            name = str(path.relative_to(HOME))
            if name not in self.files:
                self.files.append(name)


def _carries(value: object, depth: int = 3) -> bool:
    """Return whether a value is the record, or holds it, or what was made of it."""
    match value:
        case Batch(source="bulk") | Answer():
            return any(map(_carries, value.readings))
        case dict():
            return value.keys() == RECORD.keys()
        case Reading():
            return value.shape.group in GROUPS
        case Piece() | Underway():
            parts = [*getattr(value, "shares", ()), *getattr(value, "parcels", ())]
            return any(_carries(each.batch) for each in parts)
        case list() | tuple() if depth:
            return any(_carries(each, depth - 1) for each in value[:4])
    return False


@contextlib.asynccontextmanager
async def hypervisor() -> AsyncIterator[Hypervisor]:
    """Make a hypervisor whose lanes reach the libvirt above."""
    up, inventory, log = Up(up=True), Inventory(), structlog.get_logger()
    session: Any = Libvirt()
    opened = partial(Session, session)
    lanes = Lanes(opened, 1, up)
    connection = Connection(opened, inventory, log, up)
    yield Hypervisor(up, inventory, lanes, connection, None, "elsewhere", 25, 5.0, opened)
    await lanes.close(5.0)


async def test_a_record_passes_ten_files_at_most():
    """From libvirt's answer to the sink a record and its batch pass through ten files at most."""
    way, log = Way(), structlog.get_logger()
    async with hypervisor() as there, contextlib.AsyncExitStack() as stack:
        parts = Parts(shipped(), there, log, frozenset(), 1.0, asyncio.Event())
        collector = poller(PollOptions(), parts)
        send = await stack.enter_async_context(Null().open(Opening("null", log)))
        outlet = Outlet(
            "null",
            send,
            log,
            time.monotonic,
            Buffer(1 << 20),
            attempt_seconds=5.0,
            max_age_seconds=60.0,
        )
        async with draining([outlet], 5.0) as emit:
            with way.followed():
                for way.noting in (False, True):  # the first time compiles what is compiled once
                    await collector.poll(collector.tiers[:2], emit)
                    while outlet.waiting.batches:
                        await asyncio.sleep(0)
    files = [f for f in way.files if not f.startswith("runtime/") and f != "model.py"]
    print(f"a record's way: {' → '.join(files)}")
    assert files[0] == "collect/bulk/call.py"
    assert files[-1].startswith("sinks/")
    assert len(files) <= MOST

"""The contract of a collector finds each way to break it."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from virtstatd.collector import (
    Batch,
    Collector,
    Emit,
    Field,
    Health,
    Kind,
    Outcome,
    Reading,
    Row,
    Series,
    Shape,
    Up,
)
from virtstatd.testing import BrokenContract, check_collector


SHAPE = Shape("fine", (Series(Field("fine", "number", Kind.GAUGE, "", "A number.")),))


class Fine:
    """A collector that keeps every promise."""

    name = "fine"

    def __init__(self) -> None:
        self.health = Health()

    def batch(self) -> Any:
        """Return a batch."""
        return Batch("fine", time.time_ns(), (Reading(None, SHAPE, (1,)),))

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Emit now and then, until the stop."""
        while not stop.is_set():
            with self.health.round():
                emit(self.batch())
            try:
                async with asyncio.timeout(0.01):
                    await stop.wait()
            except TimeoutError:
                continue

    async def once(self, emit: Emit) -> Outcome:
        """Emit once."""
        emit(self.batch())
        return Outcome()

    def numbers(self) -> Iterable[Row]:
        """Return its health."""
        return self.health.rows(self.name)


class Raises(Fine):
    """Raises in its run."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Raise."""
        raise ZeroDivisionError


class Ends(Fine):
    """Ends by itself."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Emit once and end."""
        emit(self.batch())


class Deaf(Fine):
    """Does not heed the stop."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Emit without end."""
        await super().run(emit, libvirt, asyncio.Event())


class Stubborn(Fine):
    """Does not heed that it is cancelled."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Go on when cancelled, until the stop or for some seconds."""
        stopped, until = asyncio.ensure_future(stop.wait()), time.monotonic() + 3
        while not stopped.done() and time.monotonic() < until:
            emit(self.batch())
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({stopped}, timeout=0.05)
        stopped.cancel()


class Silent(Fine):
    """Emits nothing."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Wait."""
        await stop.wait()


class Rubbish(Fine):
    """Emits what is no batch."""

    def batch(self) -> Any:
        """Return something else."""
        return {"number": 1}


class Short(Fine):
    """Emits fewer numbers than its shape has series."""

    def batch(self) -> Any:
        """Return a reading without numbers."""
        return Batch("fine", time.time_ns(), (Reading(None, SHAPE, ()),))


class NotANumber(Fine):
    """Emits NaN."""

    def batch(self) -> Any:
        """Return a reading of it."""
        return Batch("fine", time.time_ns(), (Reading(None, SHAPE, (float("nan"),)),))


class NoOutcome(Fine):
    """Returns nothing."""

    async def once(self, emit: Emit) -> Any:
        """Return nothing."""


class NoReason(Fine):
    """Fails without a reason."""

    async def once(self, emit: Emit) -> Outcome:
        """Say nothing."""
        return Outcome(answered=False)


class Borrowed(Fine):
    """Reports health under another one's name."""

    def numbers(self) -> Iterable[Row]:
        """Return it."""
        return [("collector_success", {"collector": "bulk"}, 1)]


class LeaksDescriptors(Fine):
    """Leaves a descriptor open after each run."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Open one."""
        OPENED.append(os.open(os.devnull, os.O_RDONLY))
        await super().run(emit, libvirt, stop)


class LeaksTasks(Fine):
    """Leaves a task after each run."""

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Start one."""
        TASKS.append(asyncio.ensure_future(asyncio.Event().wait()))
        await super().run(emit, libvirt, stop)


OPENED: list[int] = []
TASKS: list[asyncio.Future[Any]] = []


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterable[None]:
    monkeypatch.setattr("virtstatd.testing.collecting.PATIENCE_SECONDS", 0.5)
    yield
    while OPENED:
        os.close(OPENED.pop())
    while TASKS:
        TASKS.pop().cancel()


async def test_a_collector_that_keeps_its_promises(monkeypatch: pytest.MonkeyPatch):
    """It passes."""
    monkeypatch.setattr("virtstatd.testing.collecting.PATIENCE_SECONDS", 60.0)
    await check_collector(Fine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (Raises, "run does not raise"),
        (Ends, "run goes on until the stop"),
        (Deaf, "run ends when stop is set"),
        (Stubborn, "run ends when it is cancelled"),
        (Silent, "run emits while libvirt is there"),
        (Rubbish, "sound batch: it emitted a dict and no Batch"),
        (Short, "one number for each series"),
        (NotANumber, "must be a finite number, is nan"),
        (NoOutcome, "once returns an Outcome"),
        (NoReason, "without an answer has a reason"),
        (Borrowed, "labelled with the name"),
        (LeaksDescriptors, "descriptors"),
        (LeaksTasks, "tasks"),
    ],
)
async def test_each_broken_promise_is_named(make: Callable[[], Collector], promise: str):
    """Every way to break the contract is found, and the message names the promise."""
    with pytest.raises(BrokenContract, match=promise):
        await check_collector(make)

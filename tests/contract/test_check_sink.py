"""The contract notices every sink that breaks it."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import pytest
from msgspec import Meta

from virtstatd.sink import Batch, Delivery, Opening, Rejected, Send, Sink, TryLater
from virtstatd.sinks.null import Null
from virtstatd.testing import BrokenContract, check_sink
from virtstatd.testing.contract import Moods


class Destination:
    """What good and bad sinks send to."""

    def __init__(self) -> None:
        self.mood = "ok"
        self.batches = 0

    @asynccontextmanager
    async def is_now(self, mood: str) -> AsyncIterator[None]:
        """Be in a mood for a while."""
        self.mood = mood
        try:
            yield
        finally:
            self.mood = "ok"

    async def take(self) -> None:
        """Take a batch, as the mood has it."""
        await asyncio.sleep(0)
        match self.mood:
            case "later":
                raise ConnectionRefusedError("later")
            case "never":
                raise ValueError("never")
            case "stuck":
                await asyncio.Event().wait()
        self.batches += 1


HERE = Destination()
KEPT: list[object] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """Do all that a sink has to."""

    size: Annotated[int, Meta(description="Size of it.")] = 1

    delivery: ClassVar[Delivery] = "memory"

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Yield a send that translates."""
        yield self.send

    async def send(self, batch: Batch) -> None:
        """Send."""
        try:
            await HERE.take()
        except ConnectionRefusedError as error:
            raise TryLater(str(batch.source)) from error
        except ValueError as error:
            raise Rejected from error


class Vague(Good):
    """Has a promise that there is not."""

    delivery: ClassVar[Delivery] = cast("Delivery", "surely")


@dataclass(kw_only=True)
class Changeable:
    """Can be changed."""

    size: Annotated[int, Meta(description="Size of it.")] = 1
    delivery: ClassVar[Delivery] = "memory"
    open = Good.open
    send = Good.send


@dataclass(frozen=True, kw_only=True)
class Undocumented(Good):
    """Has an option without a word."""

    size: int = 1


class Raw(Good):
    """Lets its destination's exceptions through."""

    async def send(self, _: Batch) -> None:
        """Send."""
        await HERE.take()


class Keeper(Good):
    """Keeps what it was given."""

    async def send(self, batch: Batch) -> None:
        """Send."""
        KEPT.append(batch)
        await Good.send(self, batch)


class Early(Good):
    """Returns before it has delivered."""

    async def send(self, batch: Batch) -> None:
        """Send."""
        KEPT.append(asyncio.ensure_future(Good.send(self, batch)))


class Stubborn(Good):
    """Cannot be cancelled."""

    async def send(self, batch: Batch) -> None:
        """Send."""
        sending = asyncio.ensure_future(Good.send(self, batch))
        while not sending.done():
            try:
                await asyncio.shield(sending)
            except asyncio.CancelledError:
                if HERE.mood == "ok":
                    raise


class Once(Good):
    """Can be opened once."""

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Open, or fail the second time."""
        if self in KEPT:
            raise RuntimeError("closed")
        KEPT.append(self)
        yield self.send


class Timid(Good):
    """Fails at names that it does not like."""

    async def send(self, batch: Batch) -> None:
        """Send."""
        for reading in batch.readings:
            if reading.domain:
                reading.domain.name.encode()
        await Good.send(self, batch)


class Littering(Good):
    """Leaves a descriptor open."""

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Open something, and never close it."""
        KEPT.append(os.open("/dev/null", os.O_RDONLY))
        yield self.send


class Haunted(Good):
    """Leaves a thread running."""

    @asynccontextmanager
    async def open(self, _: Opening) -> AsyncIterator[Send]:
        """Start a thread, and never end it."""
        end = threading.Event()
        KEPT.append(end)
        threading.Thread(target=end.wait, daemon=True).start()
        yield self.send


class Unhealing(Good):
    """Never recovers."""

    async def send(self, batch: Batch) -> None:
        """Send, unless it has failed once."""
        if "broken" in KEPT:
            raise TryLater
        try:
            await Good.send(self, batch)
        except TryLater:
            KEPT.append("broken")
            raise


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    HERE.mood, HERE.batches = "ok", 0
    KEPT.clear()
    yield
    for each in KEPT:
        match each:
            case int():
                os.close(each)
            case threading.Event():
                each.set()
    while any(each.name.endswith("(wait)") for each in threading.enumerate()):
        time.sleep(0.001)


async def check(make: Callable[[], Sink]) -> None:
    """Check a sink of this file's destination."""

    async def received() -> int:
        return HERE.batches

    moods: Moods = {
        "later": lambda: HERE.is_now("later"),
        "never": lambda: HERE.is_now("never"),
        "random": lambda: HERE.is_now("later"),
        "stuck": lambda: HERE.is_now("stuck"),
    }
    await check_sink(make, moods=moods, received=received)


async def test_a_good_sink_passes():
    """A sink that does what it has to passes."""
    await check(Good)
    assert HERE.batches > 30
    await check_sink(Null)


@pytest.mark.parametrize(
    ("sink", "promise"),
    [
        (Vague, "delivery names one of the promises"),
        (Changeable, "options cannot be changed"),
        (Undocumented, "size is described by one sentence"),
        (Raw, "send raises none but its two: ConnectionRefusedError"),
        (Keeper, "nothing of a batch is kept after send"),
        (Early, "send returns after delivery"),
        (Stubborn, "send ends when it is cancelled"),
        (Littering, "leaves nothing behind: 0 tasks, 3 descriptors"),
        (Haunted, "leaves nothing behind: 0 tasks, 0 descriptors, 3 threads"),
        (Unhealing, "send succeeds again"),
    ],
)
async def test_a_broken_promise_is_named(
    sink: Callable[[], Sink], promise: str, monkeypatch: pytest.MonkeyPatch
):
    """Each way to break the contract is told by the promise that was broken."""
    monkeypatch.setattr("virtstatd.testing.contract.PATIENCE_SECONDS", 0.2)
    with pytest.raises(BrokenContract, match=promise):
        await check(sink)


@pytest.mark.parametrize(("sink", "fault"), [(Once, RuntimeError), (Timid, UnicodeEncodeError)])
async def test_a_sink_that_crashes_shows_its_own_fault(
    sink: Callable[[], Sink], fault: type[Exception]
):
    """A sink's own exception comes through with its traceback."""
    with pytest.raises((fault, BrokenContract)):
        await check(sink)

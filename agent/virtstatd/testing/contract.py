"""
The contract of every sink.

```python
async def test_my_sink():
    await check_sink(lambda: MySink(url=server.url), moods={"later": server.away})
```
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Literal, get_args

import structlog
from structlog.typing import FilteringBoundLogger

from virtstatd.config.options import options
from virtstatd.errors import Rejected, TryLater
from virtstatd.model import Batch, Shape
from virtstatd.sink import Delivery, Opening, Send, Sink, Trains
from virtstatd.testing.batches import hostile_batch, make_batch, make_shapes
from virtstatd.testing.clock import settle


Mood = Literal["later", "never", "random", "stuck"]
"""States of a destination: unavailable, refusing, one of both at random, silent."""

MakeSink = Callable[[], Sink]
Enter = Callable[[], AbstractAsyncContextManager[None]]
Moods = Mapping[Mood, Enter]
Received = Callable[[], Awaitable[object]]

PATIENCE_SECONDS = 10.0
ENDING_LOOKS = 9
ENDING_SECONDS = 0.01
"""Threads and transports end on their own time: looks at pauses that double, 5 s in all."""

ATTEMPTS = 20
CUTS = 12


class BrokenContract(AssertionError):  # noqa: N818 - what happened, for pytest to show
    """The sink breaks the promise in the message."""


async def check_sink(
    make_sink: MakeSink, *, moods: Moods | None = None, received: Received | None = None
) -> None:
    """
    Raise BrokenContract when a sink breaks one of the promises that outlets rely on.

    `make_sink` returns a sink whose destination is available. `moods` make the destination
    unavailable ("later"), refusing ("never"), changing ("random") or silent ("stuck") while they
    are entered; states that a sink's destination cannot have are left out. `received` returns a
    value that changes with everything that the destination receives, such as a count of bytes.
    """
    await _check_class(make_sink)
    await _check_never_sent(make_sink)
    await _check_twice(make_sink, received)
    await _check_trains(make_sink, received)
    await _check_odd_batches(make_sink)
    await _check_nothing_kept(make_sink)
    await _check_cancelled(make_sink)
    for mood, enter in (moods or {}).items():
        await _MOODS[mood](make_sink, enter)
        await _check_nothing_left(make_sink)
    await _check_nothing_left(make_sink)


def _require(condition: object, promise: str) -> None:
    if not condition:
        raise BrokenContract(promise)


def opening(name: str = "checked", log: FilteringBoundLogger | None = None) -> Opening:
    """Return an Opening for a sink, by default with a log that is discarded."""
    silent = structlog.wrap_logger(structlog.testing.CapturingLogger())
    return Opening(name, log if log is not None else silent)


async def _sent(send: Send, batch: Batch) -> None:
    """Send within a time limit."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await send(batch)
    except TimeoutError as error:
        raise BrokenContract("send returns while the destination is there") from error


async def _check_class(make_sink: MakeSink) -> None:
    sink = make_sink()
    cls = type(sink)
    _require(cls.delivery in get_args(Delivery), "delivery names one of the promises")
    for option in options(cls):
        _require(option.description.endswith("."), f"{option.name} is described by one sentence")
        try:
            setattr(sink, option.name, getattr(sink, option.name))
        except (AttributeError, FrozenInstanceError):
            continue
        raise BrokenContract("options cannot be changed after the sink was made")


async def _check_never_sent(make_sink: MakeSink) -> None:
    """Open and close without a batch."""
    async with make_sink().open(opening()):
        pass


async def _check_twice(make_sink: MakeSink, received: Received | None) -> None:
    """Open the same sink again after it was closed; it delivers again."""
    sink = make_sink()
    for _ in range(2):
        async with sink.open(opening()) as send:
            for base in (1000, 2000):
                before = await received() if received else None
                await _sent(send, make_batch(3, base=base))
                if received:
                    _require(await received() != before, "send returns after delivery")


async def _check_trains(make_sink: MakeSink, received: Received | None) -> None:
    """Take several batches in one call, where the sink has `trains`."""
    sink = make_sink()
    if not isinstance(getattr(sink, "trains", None), Trains):
        return
    async with sink.open(opening()) as send:
        before = await received() if received else None
        batches = [make_batch(3, base=base) for base in (3000, 4000)]
        await _sent(functools.partial(send, *batches[:-1]), batches[-1])
        if received:
            _require(await received() != before, "send returns after delivery of a train")


async def _check_odd_batches(make_sink: MakeSink) -> None:
    """Send unusual names, numbers and empty batches; no batch is changed."""
    empty = Batch("bulk", 0, ())
    gone = make_batch(0, gone=tuple(each.domain for each in make_batch(1).readings if each.domain))
    async with make_sink().open(opening()) as send:
        for batch in (empty, gone, hostile_batch(), make_batch(200)):
            before = repr(batch)
            await _sent(send, batch)
            _require(repr(batch) == before, "send leaves the batch as it was")


async def _check_nothing_kept(make_sink: MakeSink) -> None:
    """Check that nothing of a batch is kept after send, except by a sink of class `latest`."""
    sink = make_sink()
    if sink.delivery == "latest":
        return
    gc.freeze()  # only what comes from now on is searched
    try:
        await _require_nothing_kept(sink)
    finally:
        gc.unfreeze()


async def _require_nothing_kept(sink: Sink) -> None:
    async with sink.open(opening()) as send:
        shapes = await _send_own(send)
        await _sent(send, make_batch(1))
        await settle()
        gc.collect()
        _require(not any(shape() for shape in shapes), "nothing of a batch is kept after send")


async def _send_own(send: Send) -> list[weakref.ref[Shape]]:
    shapes = make_shapes()
    await _sent(send, make_batch(2, shapes=shapes))
    return [weakref.ref(shape) for shape in shapes]


async def _check_cancelled(make_sink: MakeSink) -> None:
    """Cancel at every await; send ends at once, and the next one succeeds."""
    async with make_sink().open(opening()) as send:
        for turns in range(CUTS):
            sending = asyncio.ensure_future(send(make_batch(20)))
            await settle(turns)
            await _cancelled(sending)
            await _sent(send, make_batch(1))


async def _cancelled(sending: asyncio.Future[None]) -> None:
    sending.cancel()
    done, _ = await asyncio.wait([sending], timeout=PATIENCE_SECONDS)
    _require(done, "send ends when it is cancelled")
    if not sending.cancelled() and (error := sending.exception()):
        _require(isinstance(error, TryLater | Rejected), f"send raises none but its two: {error!r}")


async def _check_later(make_sink: MakeSink, enter: Enter) -> None:
    """While the destination is away send raises TryLater; then the same batch is delivered."""
    batch = make_batch(3)
    async with make_sink().open(opening()) as send:
        async with enter():
            for _ in range(3):
                _require(await _outcome(send, batch) is TryLater, "away raises TryLater")
        await _recovered(send, batch)
    async with enter(), make_sink().open(opening()) as send:
        _require(await _outcome(send, batch) is TryLater, "away from the start raises TryLater")


async def _check_never(make_sink: MakeSink, enter: Enter) -> None:
    """Let the destination refuse permanently; send raises Rejected."""
    async with make_sink().open(opening()) as send:
        async with enter():
            _require(await _outcome(send, make_batch(3)) is Rejected, "refused raises Rejected")
        await _recovered(send, make_batch(3))


async def _check_random(make_sink: MakeSink, enter: Enter) -> None:
    """With a random destination send returns or raises one of its two exceptions, and recovers."""
    chance = random.Random(1)  # noqa: S311 - the same choices in every run
    async with make_sink().open(opening()) as send:
        async with enter():
            for _ in range(ATTEMPTS):
                await _outcome(send, make_batch(chance.randrange(5)))
        await _recovered(send, make_batch(3))


async def _check_stuck(make_sink: MakeSink, enter: Enter) -> None:
    """While the destination is silent send can be cancelled, the sink closed, then used again."""
    async with enter():
        try:
            async with asyncio.timeout(None) as limit, make_sink().open(opening()) as send:
                for _ in range(3):
                    sending = asyncio.ensure_future(send(make_batch(300)))
                    await settle(50)
                    await _cancelled(sending)
                limit.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
        except TimeoutError as error:
            raise BrokenContract("a sink closes while its destination is silent") from error
    async with make_sink().open(opening()) as send:
        await _recovered(send, make_batch(3))


_MOODS: dict[Mood, Callable[[MakeSink, Enter], Awaitable[None]]] = {
    "later": _check_later,
    "never": _check_never,
    "random": _check_random,
    "stuck": _check_stuck,
}


async def _outcome(send: Send, batch: Batch) -> type[Exception] | None:
    """Send once, and return which of its two exceptions came, None for success."""
    try:
        await _sent(send, batch)
    except (TryLater, Rejected) as error:
        return type(error)
    except BrokenContract:
        raise
    except Exception as error:
        raise BrokenContract(f"send raises none but its two: {error!r}") from error
    return None


async def _recovered(send: Send, batch: Batch) -> None:
    """Require success within a few attempts: the first may use a dead connection."""
    for _ in range(ATTEMPTS):
        if await _outcome(send, batch) is None:
            return
        await settle()
    raise BrokenContract("send succeeds again when the destination is back")


async def _check_nothing_left(make_sink: MakeSink) -> None:
    """Count tasks, descriptors and threads before a sink opens and after it was closed."""
    async with leaving_nothing("a closed sink"):
        sink = make_sink()
        for _ in range(3):
            async with sink.open(opening()) as send:
                with suppress(TryLater, Rejected):
                    await _sent(send, make_batch(3))


@asynccontextmanager
async def leaving_nothing(what: str) -> AsyncIterator[None]:
    """Require that a block leaves no task, descriptor or thread; they may take seconds to end."""
    before = await _census()
    gc.freeze()  # later collections search only newer objects
    try:
        yield
        for turn in range(ENDING_LOOKS):
            now = await _census()
            if all(each <= then for each, then in zip(now, before, strict=True)):
                return
            await asyncio.sleep(ENDING_SECONDS * 2**turn)
        gc.unfreeze()  # older objects may hold what a thread of theirs opened meanwhile
        tasks, descriptors, threads = (a - b for a, b in zip(await _census(), before, strict=True))
        if max(tasks, descriptors, threads) <= 0:
            return
        raise BrokenContract(
            f"{what} leaves nothing behind: {tasks} tasks, {descriptors} descriptors,"
            f" {threads} threads"
        )
    finally:
        gc.unfreeze()


async def _census() -> tuple[int, int, int]:
    """Count the tasks, the descriptors and the threads of this process."""
    await settle()
    gc.collect()
    # the loop's own thread pool grows by itself and is shared
    threads = [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]
    return len(asyncio.all_tasks()), _descriptors(), len(threads)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

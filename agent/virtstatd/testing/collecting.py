"""
The contract of every collector.

```python
async def test_my_collector():
    await check_collector(lambda: MyCollector(interval_seconds=0.1).open(given("mine")))
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog

from virtstatd.collector import Collector, Given, Outcome, Up
from virtstatd.errors import Disconnected
from virtstatd.model import Batch, Domain
from virtstatd.pipeline.checked import Nonsense, checked_form
from virtstatd.testing.clock import settle
from virtstatd.testing.contract import BrokenContract, leaving_nothing


MakeCollector = Callable[[], Collector]

PATIENCE_SECONDS = 10.0
CUTS = 12
HEALTH = frozenset({"collector_success", "collector_duration", "collector_age"})


def given(
    name: str = "checked",
    *,
    connection: object = None,
    domains: Sequence[Domain] = (),
) -> Given:
    """
    Return the argument to open a collector with: a silent log, these guests, and a libvirt.

    `connection` stands for a `libvirt.virConnect`; without one libvirt is unavailable.
    """

    async def ask(function: Callable[[Any], Any], _: float) -> Any:
        await asyncio.sleep(0)
        if connection is None:
            raise Disconnected("libvirt is away")
        return function(connection)

    log = structlog.wrap_logger(structlog.testing.CapturingLogger())
    return Given(name, log, ask, lambda: domains)


async def check_collector(make_collector: MakeCollector) -> None:
    """
    Raise BrokenContract when a collector breaks one of the promises that the service relies on.

    `make_collector` returns one whose interval is short, so that it emits within seconds.
    """
    await _check_once(make_collector)
    await _check_run(make_collector, up=True)
    await _check_run(make_collector, up=False)
    await _check_cancelled(make_collector)
    await _check_nothing_left(make_collector)


class _Taken:
    """Collects the batches that a collector emits, and checks their form."""

    def __init__(self) -> None:
        self.batches = 0
        self.fault = ""
        self.came = asyncio.Event()

    def __call__(self, batch: Batch) -> None:
        self.batches += 1
        try:
            checked_form(batch)
        except Nonsense as error:
            self.fault = self.fault or str(error)
        self.came.set()


def _require(condition: object, promise: str) -> None:
    if not condition:
        raise BrokenContract(promise)


async def _within(waited: Awaitable[Any], promise: str) -> Any:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await waited
    except TimeoutError as error:
        raise BrokenContract(promise) from error


async def _check_once(make_collector: MakeCollector) -> None:
    collector, taken = make_collector(), _Taken()
    _require(isinstance(collector.name, str) and collector.name, "name is a string, not empty")
    outcome = await _within(collector.once(taken), "once returns")
    _require(isinstance(outcome, Outcome), "once returns an Outcome")
    _require(outcome.answered or outcome.reason, "an Outcome without an answer has a reason")
    _require(not taken.fault, f"what it emits is a sound batch: {taken.fault}")
    _require_numbers(collector)


async def _check_run(make_collector: MakeCollector, *, up: bool) -> None:
    """Run until the stop, with libvirt available or unavailable, and while that changes."""
    collector, taken, stop, libvirt = make_collector(), _Taken(), asyncio.Event(), Up(up=up)
    running = asyncio.ensure_future(collector.run(taken, libvirt, stop))
    try:
        for _ in range(3):
            await settle(50)
            _require(not running.done() or running.exception() is None, "run does not raise")
            _require(not running.done(), "run goes on until the stop")
            _require_numbers(collector)
            libvirt.turn(up=not libvirt)
        if up and not taken.batches:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    libvirt.turn(up=True)
                    await taken.came.wait()
        _require(not up or taken.batches, "run emits while libvirt is there")
    finally:
        stop.set()
        done, _ = await asyncio.wait({running}, timeout=PATIENCE_SECONDS)
        running.cancel()
    _require(done, "run ends when stop is set")
    _require(running.exception() is None, "run does not raise at the stop")
    _require(not taken.fault, f"what it emits is a sound batch: {taken.fault}")


async def _check_cancelled(make_collector: MakeCollector) -> None:
    """Cancel at every await; run ends at once."""
    for turns in range(CUTS):
        collector = make_collector()
        run = collector.run(_Taken(), Up(up=True), asyncio.Event())
        running = asyncio.ensure_future(run)
        await settle(turns)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=PATIENCE_SECONDS)
        _require(done, "run ends when it is cancelled")


async def _check_nothing_left(make_collector: MakeCollector) -> None:
    """Count tasks, descriptors and threads before and after."""
    async with leaving_nothing("a collector that ended"):
        for _ in range(3):
            collector, stop = make_collector(), asyncio.Event()
            running = asyncio.ensure_future(collector.run(_Taken(), Up(up=True), stop))
            await settle(50)
            stop.set()
            await asyncio.wait({running}, timeout=PATIENCE_SECONDS)
            await collector.once(_Taken())
            del collector, running


def _require_numbers(collector: Collector) -> None:
    for key, labels, number in collector.numbers():
        _require(isinstance(key, str), "a row begins with its key")
        if key in HEALTH:
            of = dict(labels)
            _require(of == {"collector": collector.name}, "health is labelled with the name")
            _require(isinstance(number, int | float), "health is a number")

"""
A collector of another package, on a thread and an event loop of its own.

If it raises, hangs, blocks, leaks tasks or emits invalid batches, no other part is affected: the
fault is logged and counted, and the collector is started again after a pause. Its batches are
validated on its own thread; valid ones are passed to the agent's loop, a bounded number at a time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.collector import Collector, CollectorPlugin, Emit, Given, Outcome, Row, Up
from virtstatd.errors import Disconnected, Overdue, StartError
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lane, Open, Session
from virtstatd.model import Batch
from virtstatd.pipeline.checked import Nonsense, checked
from virtstatd.runtime.waiting import first_of


STOP_SECONDS: Final = 1.0
"""Time for it to end; after that its thread is left to end with the process."""

ONCE_SECONDS: Final = 30.0
"""Time limit of `once`."""

PAUSE_SECONDS: Final = (1.0, 300.0)
"""First and longest pause before one that failed is started again."""

LOOK_SECONDS: Final = 5.0
"""How often its numbers and its tasks are checked."""

SILENT_SECONDS: Final = 10.0
"""Time without a turn of its event loop after which it is reported to block."""

TASKS_MAX: Final = 1000
PENDING_MAX: Final = 64
"""Limits of its tasks, and of batches that wait for the agent's loop."""

SAMPLES_PER_SECOND: Final = 20_000
"""Limit of what it may emit over a minute: a flood would push other batches out of the buffers."""

HEALTH: Final = frozenset({"collector_success", "collector_duration", "collector_age"})


class _Asking:
    """The thread on which it calls libvirt: one call at a time, and none while one hangs."""

    def __init__(
        self, name: str, open_session: Open, loop: asyncio.AbstractEventLoop, up: Up
    ) -> None:
        self._name = name
        self._up = up
        self._open = open_session
        self._loop = loop
        self._lane: Lane | None = None
        self._turn = asyncio.Lock()
        self._hung: asyncio.Future[Any] | None = None

    async def from_its_loop(self, function: Callable[[Any], Any], seconds: float) -> Any:
        """Call libvirt as `Given.ask` does, from another loop than the agent's."""
        asked = asyncio.run_coroutine_threadsafe(self._ask(function, seconds), self._loop)
        return await asyncio.wrap_future(asked)

    def close(self) -> None:
        """End the thread once its call returns."""
        if self._lane is not None:
            self._lane.close()

    async def _ask(self, function: Callable[[Any], Any], seconds: float) -> Any:
        def question(session: Session) -> Any:
            return function(session.connection)

        async with self._turn:
            if not self._up:
                raise Disconnected("libvirt is away")
            if self._hung is not None:
                if not self._hung.done():
                    raise Overdue("the call before hangs still")
                self._hung = None
            if self._lane is None:
                self._lane = Lane(self._name, self._open)
            call = self._lane.call(question)
            await asyncio.wait({call}, timeout=seconds)
            if not call.done():
                call.add_done_callback(_heard)
                self._hung = call
                raise Overdue(f"no answer within {seconds:g} s")
            return call.result()


class IsolatedCollector:
    """Represent a collector of another package in the agent's list of collectors."""

    def __init__(
        self,
        name: str,
        plugin: CollectorPlugin,
        open_session: Open,
        inventory: Inventory,
        catalog: Catalog,
        log: FilteringBoundLogger,
        up: Up,
        *,
        silent_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raise `StartError` if the plug-in reports that it cannot work here."""
        self.name = name
        self.rejected = 0
        self._log = log.bind(collector=name)
        self._clock = clock
        self._catalog = catalog
        self._loop = asyncio.get_running_loop()
        self._asking = _Asking(f"collector {name}", open_session, self._loop, up)
        self._rows: list[Row] = []
        self._rows_at = 0.0
        self._failing = ""
        self._rubbish = ""
        self._silent_seconds = silent_seconds
        self._heard_at = 0.0
        self._pending = 0
        self._room = 60.0 * SAMPLES_PER_SECOND
        self._room_at = clock()
        given = Given(
            name,
            self._log,
            self._asking.from_its_loop,
            lambda: [domain for domain, _ in inventory.domains()],
        )
        self._running = inventory.get
        self._collector = _opened(name, plugin, given)

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Run it until `stop`; start it again, after a pause, each time that it ends earlier."""
        pause = PAUSE_SECONDS[0]
        try:
            while not stop.is_set():
                begun = self._clock()
                reason = await self._run_once(emit, libvirt, stop)
                if stop.is_set():
                    break
                self._fail(reason)
                if self._clock() - begun > PAUSE_SECONDS[1]:
                    pause = PAUSE_SECONDS[0]
                await first_of(stop, seconds=pause)
                pause = min(2 * pause, PAUSE_SECONDS[1])
        finally:
            self._asking.close()

    async def once(self, emit: Emit) -> Outcome:
        """Run its `once`, within a time limit."""
        life = _Life(self.name, self._collector.once(self._guarded(emit)))
        try:
            async with asyncio.timeout(ONCE_SECONDS):
                outcome = await life.ended
        except TimeoutError:
            return Outcome(answered=False, reason=f"no answer within {ONCE_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001 - not our code
            return Outcome(answered=False, reason=_said(error))
        finally:
            life.end()
            self._asking.close()
        if not isinstance(outcome, Outcome):
            return Outcome(answered=False, reason="it returned no Outcome")
        if self._rubbish:
            return Outcome(answered=False, reason=self._rubbish)
        return outcome

    def numbers(self) -> Iterator[Row]:
        """Yield its health, as it last reported it, and the number of its rejected batches."""
        passed = self._clock() - self._rows_at
        bad = bool(self._failing or self._rubbish)
        said = False
        for key, labels, number in self._rows:
            if key == "collector_success":
                said = True
                yield key, labels, 0 if bad else number
            elif key == "collector_age" and isinstance(number, int | float):
                yield key, labels, number + passed
            else:
                yield key, labels, number
        if bad and not said:
            yield "collector_success", {"collector": self.name}, 0
        yield "collector_rejected_batches", {"collector": self.name}, self.rejected

    async def _run_once(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> str:
        """Run it until it ends; return why it did."""
        up, ending = Up(up=bool(libvirt)), asyncio.Event()
        guarded = self._guarded(emit)
        self._heard_at = self._clock()
        life = _Life(self.name, self._watched(self._collector.run(guarded, up, ending)))
        turning, coming = libvirt.turning(), libvirt.coming()
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not life.ended.done() and not stop.is_set():
                waits = [asyncio.ensure_future(event.wait()) for event in (turning, coming)]
                try:
                    await asyncio.wait(
                        {life.ended, stopping, *waits},
                        timeout=LOOK_SECONDS,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    for wait in waits:
                        wait.cancel()
                if turning.is_set() or coming.is_set():
                    turning.clear()
                    coming.clear()
                    life.call(up.turn, up=bool(libvirt))
                now = self._clock()
                if life.silent(now):
                    self._fail(f"it blocks its event loop for more than {SILENT_SECONDS:g} s")
                elif 0 < self._silent_seconds < now - self._heard_at:
                    self._fail(f"it has emitted nothing for {self._silent_seconds:g} s")
            life.call(ending.set)
            await asyncio.wait({life.ended}, timeout=STOP_SECONDS)
        finally:
            stopping.cancel()
            life.end()
            libvirt.forget(turning, coming)
        if not life.ended.done():
            return "it does not end"
        error = life.ended.exception()
        return _said(error) if error else "it ended by itself"

    async def _watched(self, running: Coroutine[Any, Any, None]) -> None:
        """Run it on its own loop, and check its numbers and its tasks periodically."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(running)
        while True:
            await asyncio.wait({task}, timeout=LOOK_SECONDS)
            if task.done():
                return task.result()
            self._read_health()
            if len(asyncio.all_tasks(loop)) > TASKS_MAX:
                raise StartError(f"it leaks tasks: more than {TASKS_MAX}")

    def _read_health(self) -> None:
        """Store its own numbers, but only those of its health and under its name."""
        labels = {"collector": self.name}
        rows: list[Row] = []
        try:
            for key, _, number in self._collector.numbers():
                if key in HEALTH and type(number) in (int, float):
                    rows.append((key, labels, number))
        except Exception as error:  # noqa: BLE001 - not our code
            self._loop.call_soon_threadsafe(self._reject, f"its numbers: {_said(error)}")
        self._rows, self._rows_at = rows, self._clock()

    def _guarded(self, emit: Emit) -> Emit:
        """Return its `emit`: validates a batch on its thread and passes on valid ones."""

        def guarded(batch: Batch) -> None:
            try:
                sound = checked(batch, self.name, self._catalog, self._running)
                self._spend(sound.samples)
            except Exception as error:  # noqa: BLE001 - what it emits may be anything
                reason = str(error) if isinstance(error, Nonsense) else _said(error)
                self._loop.call_soon_threadsafe(self._reject, reason)
                return
            self._pending += 1
            self._loop.call_soon_threadsafe(hand_on, sound)

        def hand_on(batch: Batch) -> None:
            self._pending -= 1
            self._heard_at = self._clock()
            if self._failing or self._rubbish:
                self._log.info("collector.recovered")
                self._failing = self._rubbish = ""
            emit(batch)

        return guarded

    def _spend(self, samples: int) -> None:
        """Enforce the limit of what it may emit; raises `Nonsense` beyond that."""
        now = self._clock()
        most = 60.0 * SAMPLES_PER_SECOND
        self._room = min(most, self._room + (now - self._room_at) * SAMPLES_PER_SECOND)
        self._room_at = now
        if samples > self._room or self._pending >= PENDING_MAX:
            raise Nonsense(f"it emits more than {SAMPLES_PER_SECOND} samples a second")
        self._room -= samples

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        if not self._rubbish:
            self._log.warning("collector.rejected", reason=reason)
        self._rubbish = reason

    def _fail(self, reason: str) -> None:
        if self._failing != reason:
            self._log.error("collector.failed", reason=reason)
        self._failing = reason


class _Life:
    """One run of a coroutine on a thread of its own; `ended` is a future of the agent's loop."""

    def __init__(self, name: str, running: Coroutine[Any, Any, Any]) -> None:
        self._agent = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._turned_at = time.monotonic()
        self._running = running
        self.ended: asyncio.Future[Any] = self._agent.create_future()
        self.ended.add_done_callback(_heard)
        threading.Thread(target=self._live, name=f"collector {name}", daemon=True).start()

    def call(self, function: Callable[..., object], **values: Any) -> None:
        """Call a function on its loop."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(lambda: function(**values))

    def silent(self, now: float) -> bool:
        """Return whether its loop has not run for long, and schedule a turn of it."""
        self.call(self._turn)
        return now - self._turned_at > SILENT_SECONDS

    def end(self) -> None:
        """Cancel what still runs; a thread that blocks is left to end with the process."""
        self.call(self._cancel)

    def _turn(self) -> None:
        self._turned_at = time.monotonic()

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _live(self) -> None:
        result, fault = None, None
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.get_loop().set_exception_handler(lambda *_: None)  # reported by `ended`
                result = runner.run(self._running)
        except BaseException as error:  # noqa: BLE001 - anything that it raises, exits included
            fault = error if isinstance(error, Exception) else _Exit(_said(error))
        with suppress(RuntimeError):  # the agent's loop has ended
            self._agent.call_soon_threadsafe(_settle, self.ended, result, fault)


def _opened(name: str, plugin: CollectorPlugin, given: Given) -> Collector:
    try:
        return plugin.open(given)
    except StartError as error:
        raise StartError(f"collector {name}: {error}") from error
    except Exception as error:
        raise StartError(f"collector {name}: cannot open: {_said(error)}") from error


def _settle(future: asyncio.Future[Any], result: object, fault: Exception | None) -> None:
    if future.done():
        return
    if fault is None:
        future.set_result(result)
    else:
        future.set_exception(fault)


def _heard(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an outcome that no caller awaits any more."""
    if not future.cancelled():
        future.exception()


class _Exit(Exception):  # noqa: N818 - stands for SystemExit and its like
    """An exception that would have ended the process; the message has its text."""


def _said(error: BaseException) -> str:
    if isinstance(error, _Exit):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

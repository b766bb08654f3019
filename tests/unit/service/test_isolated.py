"""A collector of another package costs nobody but itself, and is named."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from virtstatd.catalog import shipped
from virtstatd.collector import (
    Batch,
    Domain,
    Emit,
    Field,
    Given,
    Health,
    Kind,
    Outcome,
    Reading,
    Row,
    Series,
    Shape,
    StartError,
    Up,
)
from virtstatd.errors import Disconnected, Overdue
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.service import isolated
from virtstatd.service.isolated import IsolatedCollector


SHAPE = Shape("fine", (Series(Field("fine", "number", Kind.GAUGE, "", "A number.")),))
HARD_END_SECONDS = 60.0

Body = Callable[[Emit, Up, asyncio.Event], Any]


def fine(value: Any = 1, **differently: Any) -> Any:
    """Return a sound batch, or one that differs."""
    values: dict[str, Any] = {
        "source": "fine",
        "taken_at": time.time_ns(),
        "readings": (sample(value),),
    }
    return Batch(**(values | differently))


def sample(value: Any = 1, shape: Shape = SHAPE, domain: Domain | None = None) -> Reading:
    """Return a reading."""
    return Reading(domain, shape, (value,))


class Other:
    """A plug-in whose collector does what the test says."""

    def __init__(self, body: Body, once: Callable[[Emit], Any] | None = None) -> None:
        self.name = "other"
        self.health = Health()
        self._body = body
        self._once = once

    def open(self, given: Given) -> "Other":
        """Return itself."""
        self.given = given
        return self

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Do what the test says."""
        await self._body(emit, libvirt, stop)

    async def once(self, emit: Emit) -> Outcome:
        """Do what the test says, once."""
        assert self._once
        return await self._once(emit)  # type: ignore[no-any-return]

    def numbers(self) -> Iterable[Row]:
        """Return its health, and a row that is not its to say."""
        yield "up", {}, 0
        yield from self.health.rows(self.name)


class Scene:
    """One other collector, run as the service runs it."""

    def __init__(
        self, body: Body, once: Callable[[Emit], Any] | None = None, silent_seconds: float = 0.0
    ) -> None:
        self.inventory = Inventory()
        self.batches: list[Batch] = []
        self.stop = asyncio.Event()
        self.libvirt = Up(up=True)
        self.plugin = Other(body, once)
        self.answer: Callable[[], Any] = lambda: "connection"
        self.collector = IsolatedCollector(
            "other",
            self.plugin,
            lambda: Session(self.answer()),
            self.inventory,
            shipped(),
            structlog.get_logger(),
            self.libvirt,
            silent_seconds=silent_seconds,
        )

    async def until(self, condition: Callable[[], object]) -> None:
        """Run it until something is so."""
        running = asyncio.create_task(
            self.collector.run(self.batches.append, self.libvirt, self.stop)
        )
        try:
            async with asyncio.timeout(HARD_END_SECONDS):
                while not condition():
                    await asyncio.sleep(0.01)
                self.stop.set()
                await running
        finally:
            running.cancel()

    def numbers(self) -> dict[str, Any]:
        """Return its numbers by key."""
        return {key: number for key, _, number in self.collector.numbers()}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "PAUSE_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(isolated, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(isolated, "SILENT_SECONDS", HARD_END_SECONDS)


async def test_what_it_emits_is_passed_on_under_its_name():
    """A sound batch is handed to the sinks with the collector's name as its source."""

    async def body(emit: Emit, _: Up, stop: asyncio.Event) -> None:
        emit(fine(source="bulk"))
        await stop.wait()

    scene = Scene(body)
    await scene.until(lambda: scene.batches)
    assert [batch.source for batch in scene.batches] == ["other"]
    assert "up" not in scene.numbers()


async def test_one_that_raises_is_named_and_started_again():
    """Whatever it raises ends its run alone; it is named once, started again, and recovers."""
    lives = []

    async def body(emit: Emit, _: Up, stop: asyncio.Event) -> None:
        lives.append(1)
        if len(lives) < 4:
            raise (ZeroDivisionError, SystemExit, KeyboardInterrupt)[len(lives) - 1]("boom")
        emit(fine())
        await stop.wait()

    with capture_logs() as logs:
        scene = Scene(body)
        await scene.until(lambda: scene.batches)
    said = [(each["event"], each["collector"], each.get("reason")) for each in logs]
    assert said == [
        ("collector.failed", "other", "ZeroDivisionError: boom"),
        ("collector.failed", "other", "SystemExit: boom"),
        ("collector.failed", "other", "KeyboardInterrupt: boom"),
        ("collector.recovered", "other", None),
    ]


async def test_one_that_ends_is_named():
    """A run that ends before the stop is a failure."""

    async def body(*_: object) -> None:
        return

    with capture_logs() as logs:
        scene = Scene(body)
        await scene.until(lambda: len(logs) > 0)
    assert logs[0]["reason"] == "it ended by itself"
    assert scene.numbers()["collector_success"] == 0


async def test_one_that_hangs_is_named():
    """One that waits for something that never comes is named, for it emits nothing."""

    async def body(_: Emit, __: Up, ___: asyncio.Event) -> None:
        await asyncio.Event().wait()

    with capture_logs() as logs:
        scene = Scene(body, silent_seconds=0.1)
        await scene.until(lambda: len(logs) > 0)
    assert logs[0]["reason"] == "it has emitted nothing for 0.1 s"


async def test_numbers_that_raise_are_refused():
    """What raises when it is asked for its health is named, and goes on."""

    async def body(_: Emit, __: Up, stop: asyncio.Event) -> None:
        await stop.wait()

    def numbers() -> Any:
        raise ZeroDivisionError("boom")

    with capture_logs() as logs:
        scene = Scene(body)
        scene.plugin.numbers = numbers  # type: ignore[method-assign]
        await scene.until(lambda: len(logs) > 0)
    assert logs[0]["reason"] == "its numbers: ZeroDivisionError: boom"


async def test_one_that_blocks_holds_up_nobody(monkeypatch: pytest.MonkeyPatch):
    """A call that blocks its thread is named; the agent's loop goes on, and so does the stop."""
    monkeypatch.setattr(isolated, "SILENT_SECONDS", 0.3)
    release = threading.Event()
    turns = []

    async def body(*_: object) -> None:
        release.wait(HARD_END_SECONDS)

    def named() -> bool:
        turns.append(1)
        return any("blocks" in each.get("reason", "") for each in logs)

    try:
        with capture_logs() as logs:
            scene = Scene(body)
            await scene.until(named)
    finally:
        release.set()
    assert len(turns) > 5


async def test_one_that_hangs_at_the_stop_is_left_behind():
    """A collector that heeds neither the stop nor that it is cancelled keeps nobody waiting."""
    release = threading.Event()

    async def body(emit: Emit, _: Up, __: asyncio.Event) -> None:
        emit(fine())
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    scene = Scene(body)
    try:
        await scene.until(lambda: scene.batches)
    finally:
        release.set()


async def test_one_that_leaks_tasks_is_named(monkeypatch: pytest.MonkeyPatch):
    """Tasks without end stop it, and end with it."""
    monkeypatch.setattr(isolated, "TASKS_MAX", 20)
    before = threading.active_count()

    async def body(_: Emit, __: Up, stop: asyncio.Event) -> None:
        kept = []
        while not stop.is_set():
            kept.append(asyncio.ensure_future(asyncio.Event().wait()))
            await asyncio.sleep(0.001)

    with capture_logs() as logs:
        scene = Scene(body)
        await scene.until(lambda: any("leaks tasks" in each.get("reason", "") for each in logs))
    async with asyncio.timeout(HARD_END_SECONDS):
        while threading.active_count() > before:
            await asyncio.sleep(0.01)


GUEST = Domain("u", "vm", 1, (("domain", "vm"),))
AGENTS = Series(Field("libvirt", "up", Kind.GAUGE, "", "Not theirs."))
TWICE = Shape("twice", (*SHAPE.series, *SHAPE.series))
ODD_NAME = Shape("odd", (Series(Field("9", "x y", Kind.GAUGE, "", "Help.")),))
ODD_LABEL = Shape("odd", (Series(SHAPE.series[0].field, (("a-b", "c"),)),))
ODD_VALUE: Any = Shape("odd", (Series(SHAPE.series[0].field, (("a", 7),)),))  # type: ignore[arg-type]
GUESTS_LABEL = Shape("odd", (Series(SHAPE.series[0].field, (("domain", "mine"),)),))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: None, "a NoneType and no Batch"),
        (lambda: {"a": 1}, "a dict and no Batch"),
        (lambda: fine(float("nan")), "must be a finite number, is nan"),
        (lambda: fine(float("-inf")), "must be a finite number"),
        (lambda: fine("7"), "must be a finite number"),
        (lambda: fine(readings=[sample()]), "readings: must be a tuple"),
        (lambda: fine(readings=(Reading(None, SHAPE, ()),)), "one number for each series"),
        (lambda: fine(readings=(sample(shape=TWICE),)), "one number for each series|there twice"),
        (lambda: fine(readings=(sample(shape=ODD_NAME),)), "is no name of a metric"),
        (lambda: fine(readings=(sample(shape=ODD_LABEL),)), "is no name of a label"),
        (lambda: fine(readings=(sample(shape=ODD_VALUE),)), "the label a must be a string"),
        (lambda: fine(readings=(sample(shape=Shape("block", SHAPE.series)),)), "the agent's own"),
        (lambda: fine(readings=(sample(shape=Shape("x", (AGENTS,))),)), "the agent's own"),
        (lambda: fine(readings=(sample(1, GUESTS_LABEL, GUEST),)), "is the guest's own"),
        (lambda: fine(groups=frozenset({"vcpu"})), "the agent's own"),
        (lambda: fine(taken_at=0), "within an hour of now"),
        (lambda: fine(taken_at=time.time()), "whole number of nanoseconds"),
        (lambda: fine(lifetime_seconds=float("nan")), "lifetime_seconds"),
        (lambda: fine(lifetime_seconds=-1), "lifetime_seconds"),
    ],
)
async def test_rubbish_is_refused_and_named(make: Callable[[], Any], reason: str):
    """What is no sound batch is counted, named once, and reaches no sink; a sound one does."""
    go = threading.Event()

    async def body(emit: Emit, _: Up, stop: asyncio.Event) -> None:
        for _turn in range(3):
            emit(make())
        while not go.is_set():
            await asyncio.sleep(0.001)
        emit(fine())
        await stop.wait()

    with capture_logs() as logs:
        scene = Scene(body)
        running = asyncio.create_task(scene.until(lambda: scene.batches))
        async with asyncio.timeout(HARD_END_SECONDS):
            while scene.collector.rejected < 3:
                await asyncio.sleep(0.01)
        assert scene.numbers()["collector_success"] == 0
        go.set()
        await running
    assert len(scene.batches) == 1
    assert scene.numbers()["collector_rejected_batches"] == 3
    first, last = [each for each in logs if each["event"].startswith("collector.")]
    assert first["event"] == "collector.rejected"
    assert any(part in first["reason"] for part in reason.split("|"))
    assert last["event"] == "collector.recovered"


async def test_it_ends_no_guest_and_speaks_of_none_that_ended():
    """Marks of an end are left out, and so is what is of a guest that does not run."""
    scene: Scene

    async def body(emit: Emit, _: Up, stop: asyncio.Event) -> None:
        (running,) = scene.plugin.given.domains()
        emit(fine(readings=(sample(domain=running), sample(domain=GUEST)), gone=(running,)))
        await stop.wait()

    scene = Scene(body)
    known = scene.inventory.see("u", "vm", 2)
    await scene.until(lambda: scene.batches)
    (batch,) = scene.batches
    assert batch.gone == ()
    assert [reading.domain for reading in batch.readings] == [known]


async def test_a_flood_is_cut(monkeypatch: pytest.MonkeyPatch):
    """More samples than it may emit are refused: others' batches keep their room."""
    monkeypatch.setattr(isolated, "SAMPLES_PER_SECOND", 1)

    async def body(emit: Emit, _: Up, stop: asyncio.Event) -> None:
        for _turn in range(200):
            emit(fine())
        await stop.wait()

    scene = Scene(body)
    await scene.until(lambda: scene.collector.rejected and scene.batches)
    assert len(scene.batches) <= 65


async def test_it_hears_of_libvirt():
    """That libvirt comes and goes reaches it on its own loop."""
    heard: list[bool] = []

    async def body(_: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        turning = libvirt.turning()
        while not stop.is_set():
            heard.append(bool(libvirt))
            turning.clear()
            waits = {asyncio.ensure_future(each.wait()) for each in (turning, stop)}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    scene = Scene(body)

    def turned() -> bool:
        if len(heard) == 1:
            scene.libvirt.turn(up=False)
        return len(heard) > 1

    await scene.until(turned)
    assert heard[:2] == [True, False]


async def test_a_call_that_hangs_is_the_only_one():
    """It asks libvirt on a thread of its own: while a call hangs there is no second one."""
    release, asked = threading.Event(), list[int]()
    errors: list[str] = []

    def hang(_: object) -> str:
        asked.append(1)
        release.wait(HARD_END_SECONDS)
        return "late"

    async def body(emit: Emit, _: Up, stop: asyncio.Event) -> None:
        for _turn in range(3):
            try:
                await scene.plugin.given.ask(hang, 0.05)
            except Overdue as error:
                errors.append(str(error))
        emit(fine())
        await stop.wait()

    scene = Scene(body)
    scene.answer = Connection
    try:
        await scene.until(lambda: scene.batches)
    finally:
        release.set()
    assert len(asked) == 1
    assert errors == ["no answer within 0.05 s", *["the call before hangs still"] * 2]


async def test_libvirt_that_is_away_is_not_asked():
    """While libvirt is away a question is refused, without an attempt to connect."""
    errors: list[str] = []

    async def body(emit: Emit, _: Up, stop: asyncio.Event) -> None:
        try:
            await scene.plugin.given.ask(lambda _: None, 5.0)
        except Disconnected as error:
            errors.append(str(error))
        emit(fine())
        await stop.wait()

    def connect() -> Any:
        raise AssertionError

    scene = Scene(body)
    scene.libvirt.turn(up=False)
    scene.answer = connect
    await scene.until(lambda: scene.batches)
    assert errors == ["libvirt is away"]


class Connection:
    """A connection that is there."""

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        """Be there."""
        return True

    def close(self) -> None:
        """Close nothing."""


async def test_once(monkeypatch: pytest.MonkeyPatch):
    """Asked once, an outcome is passed on, and whatever else it does is a failure with a reason."""
    monkeypatch.setattr(isolated, "ONCE_SECONDS", 0.2)

    async def answers(emit: Emit) -> Outcome:
        emit(fine())
        return Outcome()

    async def absent(_: Emit) -> Outcome:
        return Outcome(answered=None, reason="no such host")

    async def raises(_: Emit) -> Outcome:
        raise ZeroDivisionError("boom")

    async def nothing(_: Emit) -> Any:
        return None

    async def rubbish(emit: Emit) -> Outcome:
        emit(fine(float("nan")))
        return Outcome()

    async def hangs(_: Emit) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    outcomes = []
    for once in (answers, absent, raises, nothing, rubbish, hangs):
        scene = Scene(cast("Body", answers), once)
        outcome = await scene.collector.once(scene.batches.append)
        outcomes.append((outcome.answered, outcome.reason))
    assert outcomes == [
        (True, ""),
        (None, "no such host"),
        (False, "ZeroDivisionError: boom"),
        (False, "it returned no Outcome"),
        (False, "fine_number: must be a finite number, is nan"),
        (False, "no answer within 0.2 s"),
    ]


async def test_one_that_cannot_open_refuses_the_start():
    """A plug-in that raises when it is opened ends the start with one sentence that names it."""

    class Refusing:
        def __init__(self, error: Exception) -> None:
            self._error = error

        def open(self, given: Given) -> Any:
            raise self._error

    for error, sentence in (
        (StartError("install the driver"), "collector other: install the driver"),
        (KeyError("x"), "collector other: cannot open: KeyError: 'x'"),
    ):
        with pytest.raises(StartError, match=sentence):
            IsolatedCollector(
                "other",
                Refusing(error),
                lambda: Session(None),
                Inventory(),
                shipped(),
                structlog.get_logger(),
                Up(),
            )

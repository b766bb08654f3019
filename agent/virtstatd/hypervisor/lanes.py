"""
Lanes: threads of our own on which libvirt is called, one connection and one call at a time each.

The threads are daemons and belong to no executor: a call that never returns must not keep the
interpreter from ending. A thread inside libvirt cannot be cancelled, so a call past its deadline
is abandoned together with its lane, and another lane takes its place while the bound on all
outstanding calls allows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import libvirt

from virtstatd.collector import Row, Up
from virtstatd.errors import Crowded, Disconnected, Overdue
from virtstatd.hypervisor.faults import translated, unreachable


T = TypeVar("T")

OUTSTANDING_MAX = 4
"""Calls in flight at any moment, abandoned ones included; all clients share 20 workers."""

STUCK_MAX = 3
"""Calls that query guests' monitors, and may hang; one more is reserved for calls that cannot."""

UNPROVEN_STUCK_MAX = 2
"""Such calls with guests not known good; the last is reserved for guests known good."""

IDLE_SECONDS = 60.0
"""A lane unused for so long is closed: keepalives of its connection cost both sides."""


@dataclass(slots=True)
class Session:
    """An open connection and the domain handles that belong to it."""

    connection: libvirt.virConnect
    domains: dict[str, libvirt.virDomain] = field(default_factory=dict)
    on_close: list[Callable[[], object]] = field(default_factory=list)

    def domain(self, uuid: str) -> libvirt.virDomain:
        """Return the handle of a domain, looked up where none is known."""
        return self.domains.get(uuid) or self.connection.lookupByUUIDString(uuid)

    def close(self) -> None:
        """
        Run the callbacks in `on_close`, release the handles, and close.

        A domain handle or a registered callback keeps its connection, and with it the socket, open.
        """
        for undo in reversed(self.on_close):
            with contextlib.suppress(libvirt.libvirtError):
                undo()
        self.on_close.clear()
        self.domains.clear()
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.close()


Open = Callable[[], Session]


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[Session], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A waiting call: a lower `rank` goes first, which is patience and then a number."""

    come: asyncio.Future[Lane | None]
    most: int
    rank: tuple[bool, int]


class Lane:
    """One thread with one connection, opened by its first call and again after a loss."""

    def __init__(self, name: str, open_session: Open) -> None:
        self._open = open_session
        self._session: Session | None = None
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self.idle_since = 0.0
        self.ended: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def call(self, function: Callable[[Session], T]) -> asyncio.Future[T]:
        """
        Run `function` on the lane's thread; the future holds its result.

        The future raises what `faults.translated` makes of a libvirt error. If it is cancelled, the
        call continues in the thread, and its result is discarded.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(_Call(function, future))
        return future

    def close(self) -> None:
        """Close the connection and end the thread once its current call returns."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            result, error = None, None
            try:
                result = self._answer(call.function)
            except Exception as raised:  # noqa: BLE001 - passed to the caller
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop closed while the call was in libvirt
                self._loop.call_soon_threadsafe(_settle, call.future, result, error)
            del call, result, error  # do not keep a poll's records until the next one
        self._drop()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle, self.ended, None, None)

    def _answer(self, function: Callable[[Session], T]) -> T:
        if self._session is not None and not self._alive(self._session):
            self._drop()
        if self._session is None:
            try:
                self._session = self._open()
            except libvirt.libvirtError as error:
                raise unreachable(error) from None
        try:
            return function(self._session)
        except libvirt.libvirtError as error:
            alive = self._alive(self._session)
            if not alive:
                self._drop()
            raise translated(error, alive=alive) from None

    @staticmethod
    def _alive(session: Session) -> bool:
        try:
            return bool(session.connection.isAlive())
        except libvirt.libvirtError:
            return False

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _settle(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Lanes:
    """
    The lanes that share the polling: `width` calls side by side, `OUTSTANDING_MAX` in all.

    Calls that query guests' monitors, and the others, may each be `width`. While abandoned calls
    hang in libvirt, fewer lanes are left; each becomes available again when an abandoned call
    returns. Calls that query guests' monitors never use more than `STUCK_MAX`, those among them
    that query guests not known good no more than `UNPROVEN_STUCK_MAX`, and a call that queries no
    monitor never waits for one that does.
    """

    def __init__(self, open_session: Open, width: int, up: Up | None = None) -> None:
        self.open_session = open_session
        """Opens a connection, for calls beside these lanes as well."""

        self._width = width
        self._up = Up(up=True) if up is None else up
        self._made = 0
        self._busy = 0
        self._asking = 0
        self._idle: list[Lane] = []
        # calls with the same conditions share one queue, so that checking its head is enough
        self._waiting: dict[tuple[bool, int], deque[_Turn]] = {}
        self._turns = 0
        self._closed = False
        self.abandoned = 0
        """Abandoned calls that still hang in libvirt."""
        self.stuck = 0
        """Those among them that query guests' monitors."""
        self.abandoned_total = 0
        self._return_to: list[Callable[[], object]] = []

    def on_return(self, call: Callable[[], object]) -> None:
        """Register `call`, which is called on the loop when an abandoned call has returned."""
        self._return_to.append(call)

    @property
    def outstanding(self) -> int:
        """Calls in flight now, abandoned ones included."""
        return self._busy + self.abandoned

    def numbers(self) -> Iterator[Row]:
        """Yield the number of lanes, of calls in flight, and of abandoned calls."""
        yield "lanes", {}, len(self)
        yield "calls_outstanding", {}, self.outstanding
        yield "calls_abandoned", {}, self.abandoned_total

    def __len__(self) -> int:
        """Return the number of lanes that are idle, busy, or abandoned in libvirt."""
        return len(self._idle) + self.outstanding

    async def run(
        self,
        function: Callable[[Session], T],
        seconds: float,
        *,
        monitor: bool = False,
        patient: bool = False,
        proven: bool = False,
    ) -> T:
        """
        Run `function` on the next free lane, at most `seconds` from the moment it starts.

        `monitor` says that it queries guests' monitors and may hang for as long as one of them
        does, `proven` that these guests are known good, `patient` that every other waiting call
        goes first. Raises `Crowded` if the maximum number of calls that query monitors hangs,
        immediately or while it waits for its turn, and `Overdue` past the deadline: the call is
        abandoned, its late result discarded. Raises `Disconnected` while libvirt is unavailable:
        only the event connection checks whether it is back.
        """
        if not self._up:
            raise Disconnected("libvirt is away")
        most = (STUCK_MAX if proven else UNPROVEN_STUCK_MAX) if monitor else 0
        lane = await self._take(most, patient=patient)
        future = lane.call(function)
        try:
            await self._wait(future, seconds, monitor=monitor)
            if not future.done():
                raise Overdue(f"no answer within {seconds:g} s")
            return future.result()
        finally:
            self._end(most)
            if future.done():
                self._give(lane)
            else:
                self._abandon(lane, future, monitor=monitor)
            self._wake()

    async def close(self, seconds: float) -> None:
        """End all lanes, waiting at most `seconds`; one inside libvirt ends with the process."""
        self._closed = True
        ended = [lane.ended for lane in self._idle]
        for lane in self._idle:
            lane.close()
        self._idle.clear()
        if ended:
            await asyncio.wait(ended, timeout=seconds)

    async def _wait(
        self,
        future: asyncio.Future[Any],
        seconds: float,
        *,
        monitor: bool,  # noqa: ARG002 - tests override this with a rule that does not depend on time
    ) -> None:
        """Wait for an answer until the deadline."""
        await asyncio.wait({future}, timeout=seconds)

    async def _take(self, most: int, *, patient: bool) -> Lane:
        """Wait for a turn; `most` is how many calls to monitors may hang, 0 for other calls."""
        if self._room(most):
            return self._begin(most)
        self._turns += 1
        rank = (patient, self._turns)
        turn = _Turn(asyncio.get_running_loop().create_future(), most, rank)
        self._waiting.setdefault((patient, most), deque()).append(turn)
        self._wake()
        try:
            lane = await turn.come
        except asyncio.CancelledError:
            if not turn.come.cancelled() and (lane := turn.come.result()):  # ours already
                self._end(most)
                self._give(lane)
            self._wake()
            raise
        if lane is None:
            raise Crowded(f"{self.stuck} calls hang in libvirt")
        return lane

    def _begin(self, most: int) -> Lane:
        """Count a call and return its lane, the most recently used one if any is idle."""
        self._busy += 1
        self._asking += bool(most)
        if self._idle:
            return self._idle.pop()
        self._made += 1
        return Lane(f"lane {self._made}", self.open_session)

    def _end(self, most: int) -> None:
        self._busy -= 1
        self._asking -= bool(most)

    def _room(self, most: int) -> bool:
        if self.outstanding >= OUTSTANDING_MAX:
            return False
        if most:
            return self._asking < self._width and self.stuck + self._asking < most
        return self._busy - self._asking < self._width

    def _wake(self) -> None:
        """Grant turns in order, each together with its lane, so that no later call takes either."""
        while lines := [line for line in self._waiting.values() if line and self._ends(line[0])]:
            turn = min(lines, key=lambda line: line[0].rank).popleft()
            if not turn.come.done():  # `Crowded` implies that there is no free turn
                given = self._room(turn.most)
                turn.come.set_result(self._begin(turn.most) if given else None)

    def _ends(self, turn: _Turn) -> bool:
        """Return whether a wait ends now: with a lane, as `Crowded`, or as cancelled."""
        return turn.come.done() or 0 < turn.most <= self.stuck or self._room(turn.most)

    def _give(self, lane: Lane) -> None:
        if self._closed:
            lane.close()
            return
        lane.idle_since = now = asyncio.get_running_loop().time()
        self._idle.append(lane)  # costs less than opening it again
        while now - self._idle[0].idle_since > IDLE_SECONDS:
            self._idle.pop(0).close()

    def _abandon(self, lane: Lane, future: asyncio.Future[Any], *, monitor: bool) -> None:
        self.abandoned += 1
        self.stuck += monitor
        self.abandoned_total += 1

        def returned(late: asyncio.Future[Any]) -> None:
            if not late.cancelled():
                late.exception()  # retrieved, so that asyncio does not log it
            self.abandoned -= 1
            self.stuck -= monitor
            self._give(lane)
            self._wake()
            for call in self._return_to:
                call()

        future.add_done_callback(returned)

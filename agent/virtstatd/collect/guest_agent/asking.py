"""
The thread on which guests' agents are queried, beside the lanes that poll statistics.

Libvirt waits for an agent without a limit of its own, and such a call holds one of the daemon's
workers until the agent answers, its guest ends or pauses for good. So the number of calls that hang
is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import libvirt

from virtstatd.errors import Crowded, Overdue
from virtstatd.hypervisor.lanes import Lane, Open, Session


T = TypeVar("T")

Came = Callable[[str], object]
"""Is called with the UUID of a guest whose agent has opened its channel."""

AGENT_LIFECYCLE: Final = 18
CONNECTED_STATE: Final = 1


class AgentThread:
    """
    Makes one call at a time; one that hangs is left behind with its thread, up to `hanging_max`.

    The connection is opened by the first call. `came` is called on the loop while it is open.
    """

    def __init__(self, open_session: Open, hanging_max: int, came: Came = lambda _: None) -> None:
        self._open = open_session
        self._came = came
        self._most = hanging_max
        self._lane: Lane | None = None
        self.hanging = 0
        """Calls past their limit that libvirt has not answered yet."""

        self.left: asyncio.Future[Any] | None = None
        """The last call that was left behind, which is done when libvirt has answered it."""

    @property
    def full(self) -> bool:
        """Whether so many calls hang that no other may be made."""
        return self.hanging >= self._most

    async def ask(self, function: Callable[[Session], T], seconds: float) -> T:
        """
        Return what a function of a session returns within so many seconds.

        Raises `Crowded` without a call while too many hang, `Overdue` past the limit, and what
        `Lane.call` raises.
        """
        if self.full:
            raise Crowded(f"{self.hanging} calls to guest agents hang in libvirt")
        if self._lane is None:
            loop = asyncio.get_running_loop()
            self._lane = Lane("guest agent", lambda: self._opened(loop))
        lane = self._lane
        call = lane.call(function)
        try:
            await self._wait(call, seconds)
        finally:
            if not call.done():
                self._leave(lane, call)
        if not call.done():
            raise Overdue(f"no answer within {seconds:g} s")
        return call.result()

    async def change(
        self, uuid: str, function: Callable[[libvirt.virDomain], object], seconds: float
    ) -> str:
        """Change a guest's current run; return why not if libvirt refuses or does not answer."""
        try:
            return await self.ask(partial(_changed, uuid, function), seconds)
        except Overdue as error:
            return str(error)

    async def close(self, seconds: float) -> None:
        """End the thread, waiting for it at most so long; one that hangs ends with the process."""
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.close()
            await asyncio.wait({lane.ended}, timeout=seconds)

    def _opened(self, loop: asyncio.AbstractEventLoop) -> Session:
        """Open a connection that reports when an agent opens its channel; runs on the thread."""
        session = self._open()

        def happened(_: object, domain: libvirt.virDomain, state: int, *__: object) -> None:
            if state == CONNECTED_STATE:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._came, domain.UUIDString())

        connection = session.connection
        with contextlib.suppress(libvirt.libvirtError):  # a driver without events
            handle = connection.domainEventRegisterAny(None, AGENT_LIFECYCLE, happened, None)
            session.on_close.append(partial(connection.domainEventDeregisterAny, handle))
        return session

    async def _wait(self, call: asyncio.Future[Any], seconds: float) -> None:
        """Wait for an answer until the limit; tests override this with a rule without time."""
        await asyncio.wait({call}, timeout=seconds)

    def _leave(self, lane: Lane, call: asyncio.Future[Any]) -> None:
        self._lane, self.left = None, call
        self.hanging += 1

        def returned(late: asyncio.Future[Any]) -> None:
            if not late.cancelled():
                late.exception()  # retrieved, so that asyncio does not log it
            self.hanging -= 1

        call.add_done_callback(returned)
        lane.close()


def _changed(uuid: str, function: Callable[[libvirt.virDomain], object], session: Session) -> str:
    """Change a guest, and return why not if libvirt refuses; runs on the thread."""
    try:
        function(session.domain(uuid))
    except libvirt.libvirtError as error:
        if not session.connection.isAlive():
            raise
        return error.get_error_message() or "the cause is unknown"
    return ""

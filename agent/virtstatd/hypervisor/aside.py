"""
Calls beside the statistics: about pools and networks, whose storage or whose daemon may hang.

They have threads and connections of their own, so that none of them takes a lane from the polls. A
call past its deadline is abandoned with its thread; while it hangs, its object is not queried
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from virtstatd.collector import Up
from virtstatd.errors import Crowded, Disconnected, Overdue
from virtstatd.hypervisor.lanes import Lane, Open, Session


T = TypeVar("T")

HANGING_MAX: Final = 3
"""Calls that may hang at once: each keeps one of the 20 workers of libvirt's daemon."""


class Aside:
    """One call at a time on a thread of its own; after a call that hangs, on another one."""

    def __init__(self, name: str, open_session: Open, up: Up) -> None:
        self._name = name
        self._open = open_session
        self._up = up
        self._lane: Lane | None = None
        self._hanging: dict[str, asyncio.Future[Any]] = {}

    def hangs(self, key: str) -> bool:
        """Return whether a call about this object still hangs."""
        return key in self._hanging

    async def ask(self, key: str, function: Callable[[Session], T], seconds: float) -> T:
        """
        Run `function`, which asks about the object `key`, at most so many seconds.

        Raises `Overdue` then, and at once while an earlier call about the object hangs; `Crowded`
        if too many calls hang, `Disconnected` while libvirt is unavailable, and `Refused`.
        """
        if not self._up:
            raise Disconnected("libvirt is away")
        if key in self._hanging:
            raise Overdue("an earlier call still hangs")
        if len(self._hanging) >= HANGING_MAX:
            raise Crowded(f"{len(self._hanging)} calls hang in libvirt")
        lane, self._lane = self._lane or Lane(self._name, self._open), None
        call = lane.call(function)
        try:
            await asyncio.wait({call}, timeout=seconds)
        finally:
            if call.done():
                self._lane = lane
            else:
                lane.close()  # it ends when the call returns
                self._hanging[key] = call
                call.add_done_callback(lambda late: self._returned(key, late))
        if not call.done():
            raise Overdue(f"no answer within {seconds:g} s")
        return call.result()

    def release(self) -> None:
        """Close the connection until the next call: an idle one costs both sides keepalives."""
        if self._lane is not None:
            self._lane.close()
            self._lane = None

    def _returned(self, key: str, late: asyncio.Future[Any]) -> None:
        if not late.cancelled():
            late.exception()  # retrieved, so that asyncio does not log it
        del self._hanging[key]

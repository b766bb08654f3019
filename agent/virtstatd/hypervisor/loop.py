"""
Libvirt's events on an asyncio loop, from any thread that libvirt uses.

Libvirt calls the registered event functions from the thread that makes an RPC: twice per call it
turns the socket's watch off and on again. The original libvirtaio changes the loop on that thread,
which corrupts uvloop's memory within seconds. Here a watch or timer gets its number at once and
every loop operation is queued for the loop's own thread, in order.

Nothing here may wait for the loop: the caller holds libvirt's client lock, which the loop may be
waiting for.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import libvirt
import libvirtaio


SWITCH_SECONDS = 0.0005
"""
How long a decoding lane may keep the interpreter's lock from the loop; with CPython's default of 5
ms, times the lanes and the turns that an event takes, events were delayed by 150 ms when all lanes
were busy.
"""


class Events(libvirtaio.virEventAsyncIOImpl):  # type: ignore[misc]
    """
    Libvirtaio's implementation with every loop operation moved to the loop's thread.

    Libvirt accepts one implementation per process, permanently; `adopt` moves it to another loop,
    which only makes sense while no connection is open.
    """

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve `loop` from now on."""
        self.loop = loop

    def _soon(self, function: Callable[..., None], *args: object) -> None:
        # waking the loop from its own thread would cost one more turn: each keepalive does so
        ours = asyncio._get_running_loop() is self.loop  # noqa: SLF001 - documented, None elsewhere
        try:
            (self.loop.call_soon if ours else self.loop.call_soon_threadsafe)(function, *args)
        except RuntimeError:  # the loop is closed: the process is about to end
            self.log.debug("event loop closed, %r not called", function)

    # handles -------------------------------------------------------------------------------

    def _add_handle(self, fd: int, event: int, cb: Any, opaque: Any) -> int:
        watch = _Watch(self, cb, opaque, descriptor=None, event=event)
        self.callbacks[watch.iden] = watch
        self._soon(self._attach, watch, fd)
        return int(watch.iden)

    def _attach(self, watch: _Watch, fd: int) -> None:
        self._pending_inc()
        watch.descriptor = self.descriptors[fd]
        watch.descriptor.add_handle(watch)
        watch.applied = watch.event

    def _update_handle(self, watch: int, event: int) -> None:
        callback = self.callbacks[watch]
        # the new mask takes effect at once: Descriptor._handle checks it before it calls libvirt
        callback.event = event
        if not callback.queued:
            callback.queued = True
            self._soon(self._refresh, callback)

    def _refresh(self, watch: _Watch) -> None:
        watch.queued = False  # before the mask is read: a change from now on queues again
        if watch.event != watch.applied and watch.iden in watch.descriptor.callbacks:
            watch.applied = watch.event
            watch.descriptor.update()

    def _remove_handle(self, watch: int) -> int:
        callback = self.callbacks.pop(watch, None)
        if callback is None:
            return -1
        callback.event = 0
        self._soon(self._detach, callback)
        return 0

    def _detach(self, watch: _Watch) -> None:
        descriptor = watch.descriptor
        descriptor.remove_handle(watch.iden)
        if not descriptor.callbacks:
            del self.descriptors[descriptor.fd]
        # the free callback makes libvirt close the descriptor: only after the loop removed it
        watch.close()

    # timers --------------------------------------------------------------------------------

    def _add_timeout(self, timeout: int, cb: Any, opaque: Any) -> int:
        timer = _Timer(self, cb, opaque)
        timer.timeout = timeout
        self.callbacks[timer.iden] = timer
        self._soon(self._start, timer)
        return int(timer.iden)

    def _start(self, timer: _Timer) -> None:
        self._pending_inc()
        timer.arm()

    def _update_timeout(self, timer: int, timeout: int) -> None:
        callback = self.callbacks[timer]
        callback.timeout = timeout
        self._soon(callback.arm)

    def _remove_timeout(self, timer: int) -> int:
        callback = self.callbacks.pop(timer, None)
        if callback is None:
            return -1
        callback.timeout = -1
        self._soon(callback.close)
        return 0


class _Watch(libvirtaio.FDCallback):  # type: ignore[misc]
    """
    A watch whose changes are combined: off and on again within one turn needs no operation.

    `applied` is the mask that the loop has, `queued` whether an update of it is queued.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.applied = 0
        self.queued = False


class _Timer(libvirtaio.TimeoutCallback):  # type: ignore[misc]
    """A timer on `call_later`: unlike libvirtaio's it can be shortened while it runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handle: asyncio.TimerHandle | None = None

    def update(self, timeout: int) -> None:
        """Set the period in milliseconds; below zero stops it."""
        self.timeout = timeout
        self.arm()

    def arm(self) -> None:
        """Start, restart or stop, as the period says."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self.timeout >= 0:
            self._handle = self.impl.loop.call_later(self.timeout / 1000, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self.timeout < 0:
            return
        self.cb(self.iden, self.opaque)
        if self._handle is None:
            self.arm()


_events: Events | None = None  # libvirt itself keeps one per process, and cannot unregister it


def events_on(loop: asyncio.AbstractEventLoop) -> Events:
    """
    Register libvirt's events on `loop`; call it before the first connection is opened.

    Also stops libvirt from printing every error to stderr, and shortens the interpreter's switch
    interval.
    """
    global _events  # noqa: PLW0603 - see above
    if _events is None:
        sys.setswitchinterval(SWITCH_SECONDS)
        libvirt.registerErrorHandler(lambda *_: None, None)
        _events = Events(loop)
        _events.register()
    _events.adopt(loop)
    return _events

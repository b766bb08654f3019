"""A thread for calls that may block, so that neither the loop nor the exit waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue


Call = Callable[[], None]


class Worker:
    """
    One daemon thread that makes one call at a time.

    Unlike an executor's, the thread is not joined when the interpreter exits: a write to a pipe
    without a reader can block without end.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[tuple[Call, asyncio.Future[None]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Call) -> asyncio.Future[None]:
        """Queue a call and return its future, which may be cancelled without stopping the call."""
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(_seen)
        self._calls.put((call, future))
        return future

    def close(self) -> None:
        """End the thread after the queued calls."""
        self._calls.put(None)

    def _work(self) -> None:
        while (entry := self._calls.get()) is not None:
            call, future = entry
            fault: BaseException | None = None
            try:
                call()
            except Exception as error:  # noqa: BLE001 - passed to the caller
                fault = error
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(_settle, future, fault)
            del entry, call, future, fault  # a batch must not stay until the next one comes


def _settle(future: asyncio.Future[None], fault: BaseException | None) -> None:
    if future.done():
        return
    if fault is None:
        future.set_result(None)
    else:
        future.set_exception(fault)


def _seen(future: asyncio.Future[None]) -> None:
    """Keep asyncio from warning about an exception that is not retrieved."""
    if not future.cancelled():
        future.exception()

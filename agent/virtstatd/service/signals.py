"""
Signals of the running agent: blocked from its first statement on, and read by one thread.

SIGTERM, SIGINT and SIGHUP are blocked in every thread, always. A blocked signal stays pending, also
while the process executes itself again, so no signal is ever lost or has its default action, death.
No other module of the agent is imported here: `hold` runs before that.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final


WAKE: Final = signal.SIGUSR2
"""Wakes the thread that reads signals; it has no meaning if another process sends it."""

HELD: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, WAKE})

MEANINGLESS: Final = frozenset(
    {
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF),
        *(signal.SIGPIPE, signal.SIGPOLL, signal.SIGPWR, signal.SIGSTKFLT),
        *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
    }
)
"""Signals that end a process by default, and have no meaning for this one."""


def hold() -> None:
    """Block the signals that have a meaning and ignore those that have none; threads inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD | MEANINGLESS)  # all at once
    for number in MEANINGLESS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MEANINGLESS - HELD)


class Signals:
    """
    Reads the blocked signals on a thread of its own, and remembers them for later listeners.

    SIGTERM and SIGINT set `ending`, and the second one ends the process immediately, even if the
    event loop is blocked. SIGHUP sets `reload`, which is cleared before the file is read; with
    `hangup_ends` it ends like SIGTERM.
    """

    def __init__(
        self, *, hangup_ends: bool = False, end: Callable[[int], object] = os._exit
    ) -> None:
        hold()
        self.ending = False
        self.reload = False
        self._hangup_ends = hangup_ends
        self._end = end
        self._closing = False
        self._changed: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._read, name="signals", daemon=True)
        self._thread.start()

    def listen(self, changed: Callable[[], object]) -> None:
        """Call a function, on the thread, after each signal; earlier signals are remembered."""
        self._changed = changed

    def close(self) -> None:
        """
        End the thread: later signals stay pending for the program that is executed next.

        A requested reload that is not done yet is requested of that program again.
        """
        self._closing = True
        os.kill(os.getpid(), WAKE)
        self._thread.join()
        if self.reload:
            os.kill(os.getpid(), signal.SIGHUP)

    def _read(self) -> None:
        while True:
            number = signal.sigwait(HELD)
            if number == WAKE:
                if self._closing:
                    return
                continue
            if number == signal.SIGHUP and not self._hangup_ends:
                self.reload = True
            elif self.ending:
                self._end(1)
            else:
                self.ending = True
            with suppress(RuntimeError):  # the loop that listened is closed
                self._changed()

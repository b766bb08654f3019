"""Calls to libvirt for polls: deadlines, a second try, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.tier import OUTCOME, Poll
from virtstatd.errors import Disconnected, Overdue, Refused, VirtstatdError
from virtstatd.hypervisor.faults import Oversize
from virtstatd.hypervisor.lanes import Lanes, Session


DEADLINE_LEAST_SECONDS = 1.0
"""However short the interval, libvirt gets this long to answer."""

T = TypeVar("T")


class Calls:
    """
    Ask on the lanes, and remember whether libvirt answers.

    `up` says whether the last call succeeded; `on_change` is called when that turns.
    """

    def __init__(
        self,
        lanes: Lanes,
        on_change: Callable[[], None],
        log: FilteringBoundLogger,
        deadline_seconds: float,
    ) -> None:
        self.up = False
        self._lanes = lanes
        self._on_change = on_change
        self._log = log
        self._deadline = deadline_seconds
        self._failing = False

    @property
    def stuck(self) -> int:
        """How many calls hang that ask guests' monitors."""
        return self._lanes.stuck

    def lost(self) -> None:
        """Take note that libvirt is away."""
        self._set(up=False)

    async def ask(self, poll: Poll, question: Callable[[Session], T], *, proven: bool = False) -> T:
        """
        Ask on a lane, and a second time when the first is refused.

        In mid-call a domain may have ended (libvirt 9 then fails the call for all), and the lane's
        connection may have died in its sleep.
        """

        def timed(session: Session) -> tuple[T, float]:
            started = time.monotonic()
            return question(session), time.monotonic() - started

        tier = poll.tiers[-1]  # a shared call counts for the tier that asks the most of libvirt
        # half an interval at most: what is asked again must still be of this cycle
        deadline = max(DEADLINE_LEAST_SECONDS, min(self._deadline, poll.seconds / 2))
        for last in (False, True):
            try:
                result, seconds = await self._lanes.run(
                    timed, deadline, monitor=poll.monitor, proven=proven
                )
            except (Overdue, Refused, Disconnected) as error:
                tier.outcomes[OUTCOME[type(error)]] += 1
                if last or isinstance(error, Oversize | Overdue):
                    self._report(error)
                    raise
            else:
                tier.outcomes["ok"] += 1
                tier.observe(seconds)
                self._report(None)
                return result
        raise AssertionError  # the loop returns or raises

    def _report(self, error: VirtstatdError | None) -> None:
        """Remember whether the last bulk call succeeded; log the transitions."""
        self._set(up=error is None)
        if isinstance(error, Disconnected):
            return  # its own connection tells
        failing = error is not None
        if failing and not self._failing:
            self._log.warning("poll.failing", reason=str(error))
        elif self._failing and not failing:
            self._log.info("poll.recovered")
        self._failing = failing

    def _set(self, *, up: bool) -> None:
        if self.up != up:
            self.up = up
            self._on_change()

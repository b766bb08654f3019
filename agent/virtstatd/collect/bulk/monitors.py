"""
Monitors of guests: which ones answer, and which to query while calls hang.

A guest that hangs is found only by asking it, and each one found holds a call. The last call that
may hang is therefore kept for guests that are known good: they have answered since the poll in
which the first of those calls was made. The others are left out until a call returns, or until a
pause is over; then they are tried, and pauses grow with each trial that hangs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.bulk.control import STOPPED, STORAGE, Control, Verdicts, occupied
from virtstatd.hypervisor.lanes import STUCK_MAX, UNPROVEN_STUCK_MAX
from virtstatd.model import Domain, Reading


SMALL_LIST: Final = 10
"""Domains asked for in one call when it is the last that may hang."""

LITTLE: Final = 0.02
"""With a smaller share of the domains known good there is little to lose by trying the others."""

TRIAL_SECONDS: Final = (300.0, 3600.0)
"""First and longest pause before guests that are not known good are tried on the last call."""

ACTIONS: Final = {
    STOPPED: "unless it was stopped on purpose (a debugger, a snapshot): kill -CONT {pid}",
    STORAGE: "look at the storage of its disks: virsh domblklist {uuid}; cat /proc/{pid}/stack",
}
"""What to do, by reason."""

ACTION: Final = "look at its QEMU and its storage: virsh domcontrol {uuid}; cat /proc/{pid}/stack"

Part = tuple[list[str], bool]
"""Domains to ask for in one call, and whether it may be the last one that hangs."""


@dataclass(frozen=True, slots=True)
class Unresponsive:
    """
    A domain whose monitor does not answer.

    `since` is in seconds since the epoch: when the monitor was entered, as libvirt says, or else
    when the domain last answered. `pid` is its process where that can be seen.
    """

    domain: Domain
    reason: str
    since: float
    pid: int | None

    def values(self) -> dict[str, object]:
        """Return what the log says of it."""
        action = ACTIONS.get(self.reason, ACTION)
        return {
            "domain": self.domain.name,
            "uuid": self.domain.uuid,
            "pid": self.pid,
            "reason": self.reason,
            "since": datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds"),
            "fix": action.format(pid=self.pid or "PID", uuid=self.domain.uuid),
        }


class Monitors:
    """
    Remember when each guest answered, name those that do not, and plan polls while calls hang.

    `pid_of` finds the process of a domain, None where it cannot be seen.
    """

    def __init__(
        self,
        verdicts: Verdicts,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        *,
        pid_of: Callable[[Domain], int | None] = lambda _: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.unresponsive: dict[str, Unresponsive] = {}
        """Who does not answer."""
        self._pid_of = pid_of
        self._wall = wall
        self._verdicts = verdicts
        self._log = log
        self._clock = clock
        self._suspects: set[str] = set()
        self._answered: dict[str, float] = {}
        self._running = 0
        self._since = math.inf
        self._pause = TRIAL_SECONDS[0]
        self._trial_at = math.inf

    def keep(self, uuids: Iterable[str]) -> None:
        """Forget all others: these are the domains that run."""
        running = set(uuids)
        for known in (self.unresponsive, self._answered):
            for uuid in known.keys() - running:
                del known[uuid]
        self._suspects &= running
        self._running = len(running)

    def in_order(self, uuids: Iterable[str]) -> list[str]:
        """Return who answered last first: who may hang a call stands behind those who do not."""
        return sorted(uuids, key=lambda uuid: (-self._answered.get(uuid, -math.inf), uuid))

    def hung(self, uuids: Iterable[str], stuck: int, begun: float) -> None:
        """Take note of a call that hangs, the latest of `stuck`, made in a poll that began then."""
        self._suspects.update(uuids)
        if stuck <= 1 or self._since == math.inf:
            self._since = begun
            self._pause = TRIAL_SECONDS[0]
        elif stuck == STUCK_MAX:
            self._pause = min(2 * self._pause, TRIAL_SECONDS[1])
        self._trial_at = self._clock() + self._pause

    def suspects(self, uuids: Iterable[str]) -> list[str]:
        """Return who of these may be what a call hangs for."""
        return [uuid for uuid in uuids if uuid in self._suspects or uuid in self.unresponsive]

    def plan(
        self, uuids: Sequence[str], stuck: int, slice_domains: int
    ) -> tuple[list[Part], list[str]]:
        """
        Return the lists of guests to poll while `stuck` calls hang, and those to try.

        Those known good come first: they are to lose nothing by what happens to the others.
        """
        good: list[str] = []
        others: list[str] = []
        for uuid in uuids:
            proven = self._answered.get(uuid, -math.inf) >= self._since
            (good if proven else others).append(uuid)
        if stuck >= UNPROVEN_STUCK_MAX:
            return [(part, True) for part in parts(good, SMALL_LIST)], others
        return [
            *((part, True) for part in parts(good, slice_domains)),
            *((part, False) for part in parts(others, slice_domains)),
        ], []

    def may_try(self) -> bool:
        """Return whether those not known good may now have the last call that may hang."""
        good = sum(at >= self._since for at in self._answered.values())
        return good <= LITTLE * self._running or self._clock() >= self._trial_at

    def judge(
        self,
        domains: Mapping[str, Domain],
        begun: float,
        seen: Collection[str],
        partial: Mapping[str, Control | None],
        stalled: Mapping[str, str],
    ) -> list[Reading]:
        """Say of each domain in an answer whether its monitor answers; log the transitions."""
        self._suspects.difference_update(seen)
        # one that was stepped over is held by the call that hangs: it cannot hold another
        self._answered.update(dict.fromkeys(seen, begun))
        verdicts = []
        for uuid, domain in domains.items():
            reason, seconds = stalled.get(uuid, ""), self._silent(uuid)
            control = partial.get(uuid)
            if control and occupied(control):
                seconds = control[2] / 1000
                reason = f"its monitor has not answered for {seconds:.0f} s"
            if reason and uuid not in self.unresponsive:
                since = self._wall() - seconds
                found = Unresponsive(domain, reason, since, self._pid_of(domain))
                self._log.warning("domain.unresponsive", **found.values())
                self.unresponsive[uuid] = found
            elif not reason and uuid not in partial and uuid in self.unresponsive:
                since = self.unresponsive.pop(uuid).since
                self._log.info(
                    "domain.responsive",
                    domain=domain.name,
                    uuid=uuid,
                    seconds=round(max(0.0, self._wall() - since), 1),
                )
            responsive = uuid not in self.unresponsive
            verdicts.append(self._verdicts.reading(domain, control, responsive=responsive))
        return verdicts

    def _silent(self, uuid: str) -> float:
        """Return how many seconds ago a domain last answered; 0 where it never did."""
        now = self._clock()
        return now - self._answered.get(uuid, now)


def parts(uuids: Sequence[str], size: int) -> list[list[str]]:
    """Cut a list into parts of a size."""
    return [list(uuids[at : at + size]) for at in range(0, len(uuids), max(1, size))]

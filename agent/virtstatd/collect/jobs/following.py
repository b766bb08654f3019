"""The guests with a job, or about to have one: when to query each, and how their jobs ended."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from virtstatd.collect.jobs.asking import JobAnswer, JobQuestion
from virtstatd.collect.jobs.fields import JobFields
from virtstatd.collect.jobs.results import JobResults
from virtstatd.collect.jobs.words import (
    BLOCK_ENDS,
    UNKNOWN,
    block_operation,
    ended_how,
    operation_of,
)
from virtstatd.hypervisor.arrivals import Arrival
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.model import Domain, Reading


AGAIN_SECONDS: Final = 1.0
"""A guest is not queried more often, whatever its events; and so long an event may be late."""

BACKUP: Final = 5
"""Of virDomainBlockJobType: part of a job of the guest, which is counted instead."""

SUSPENDED: Final = 3
"""Of virDomainEventType."""

READY: Final = 3
"""Of virDomainConnectBlockJobStatus."""


PASSES: Final = 3
"""A migration has stalled where so many passes through the memory were no smaller than before."""

SMALLER: Final = 0.9
"""A pass that begins with less than this share of the smallest one before is progress."""


@dataclass(slots=True)
class Convergence:
    """
    How well a migration converges.

    Each pass through the memory sends what the guest changed during the one before. Where the
    passes do not become smaller, the migration does not end by itself.
    """

    iteration: int = 0
    smallest: float = math.inf
    better_at: float = 0.0
    better: int = 0

    def take(self, job: Mapping[str, Any], now: float) -> float:
        """Take libvirt's answer at a time in seconds; return for how long nothing was gained."""
        iteration, remaining = job.get("memory_iteration"), job.get("memory_remaining")
        if not isinstance(iteration, int) or not isinstance(remaining, int):
            return 0.0
        if iteration < self.iteration:  # another migration
            self.smallest = math.inf
        if iteration != self.iteration:
            self.iteration = iteration
            if iteration <= 1 or remaining < SMALLER * self.smallest:
                self.smallest = math.inf if iteration <= 1 else remaining
                self.better_at, self.better = now, iteration
        return now - self.better_at if iteration - self.better >= PASSES else 0.0


@dataclass(slots=True)
class Followed:
    """
    One run of a domain that has a job, or is about to have one.

    `disks` are those with jobs. `ran` says that a job of its own was seen, `operation` which one,
    `told` that libvirt has reported its end, `ending` that its end was seen without such a report
    so far, and `shown` that a reading of it was sent.
    """

    domain: Domain
    ask_at: float
    disks: set[str] = field(default_factory=set)
    progress: Convergence = field(default_factory=Convergence)
    ran: bool = False
    operation: str = ""
    told: bool = False
    ending: bool = False
    shown: bool = False


class Following:
    """
    Keep the guests that have jobs; `wake` is set when one must be queried or has ended its job.

    `ended` are the guests whose job has ended since the last call.
    """

    def __init__(
        self,
        inventory: Inventory,
        fields: JobFields,
        results: JobResults,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.wake = asyncio.Event()
        self.ended: dict[str, Domain] = {}
        self._inventory = inventory
        self._fields = fields
        self._results = results
        self._seconds = seconds
        self._clock = clock
        self._of: dict[str, Followed] = {}
        self._asked: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, uuid: str) -> bool:
        return uuid in self._of

    def tidy(self) -> None:
        """Forget runs that are over."""
        for uuid in [u for u, f in self._of.items() if self._inventory.get(u) is not f.domain]:
            del self._of[uuid]
        now = self._clock()
        self._asked = {u: at for u, at in self._asked.items() if at + AGAIN_SECONDS > now}

    def due(self, now: float) -> list[str]:
        """Return the guests that are due."""
        return [uuid for uuid, each in self._of.items() if each.ask_at <= now]

    def next(self) -> float:
        """Return when the first one is due."""
        return min((each.ask_at for each in self._of.values()), default=math.inf)

    def take(self, arrival: Arrival, domain: Domain) -> None:
        """Take note of an event of a job; equal ones have come together."""
        match arrival.name, arrival.values:
            case "job_completed", (dict() as job,):
                self._over(domain, operation_of(job), job, arrival.at)
                if domain.uuid in self._of:
                    self._of[domain.uuid].told = True
            case "block_job", (_, kind, int() as status) if status in BLOCK_ENDS:
                if kind != BACKUP:
                    job = {"type": BLOCK_ENDS[status]}
                    self._over(domain, block_operation(kind), job, arrival.at)
            case "block_job", (disk, _, status) if status == READY:
                self._follow(domain, str(disk))
            case "migration_iteration", _:
                self._follow(domain)
            case "lifecycle", (event, *_) if event == SUSPENDED:
                self._follow(domain)
            case _:
                pass

    def postpone(self, uuids: Iterable[str]) -> None:
        """Ask these guests an interval later: they have not answered."""
        now = self._clock()
        for uuid in uuids:
            if known := self._of.get(uuid):
                known.ask_at = now + self._seconds

    def questions(
        self, uuids: Iterable[str], disks: Mapping[str, Iterable[str]]
    ) -> Iterator[JobQuestion]:
        """Yield what to ask of these guests; `disks` are queried besides those with jobs."""
        for uuid in uuids:
            known = self._of.get(uuid)
            several = {*disks.get(uuid, ()), *(known.disks if known else ())}
            yield JobQuestion(uuid, sorted(several), ended=bool(known and known.ending))

    def answered(self, domain: Domain, answer: JobAnswer, at: int) -> Iterator[Reading]:
        """Yield what runs of a guest now, and note what does not any more."""
        known = self._of.get(domain.uuid)
        self._asked[domain.uuid] = now = self._clock()
        if known is None or known.domain is not domain:
            if not (answer.runs or answer.blocks):
                return
            known = self._of[domain.uuid] = Followed(domain, now)
        known.ask_at = now + self._seconds
        known.disks = set(answer.blocks)
        job = answer.job if answer.runs else {}
        if job or answer.blocks:
            known.shown = True
            stalled = round(known.progress.take(job, now) * 1000)
            yield from self._fields.readings(domain, job, answer.blocks, stalled)
        if job:
            operation = operation_of(job)
            if known.ran and not known.told and operation != known.operation:
                self._over(domain, known.operation, {"type": UNKNOWN}, at)
            known.operation = operation
            known.ran, known.told, known.ending = True, False, False
        else:
            self._without_job(known, answer, at)

    def _without_job(self, known: Followed, answer: JobAnswer, at: int) -> None:
        """Note the end of a guest's job; if libvirt does not report it, how it ended is queried."""
        if known.ran and not known.told:
            if not known.ending:
                known.ending = True
                known.ask_at = self._clock() + AGAIN_SECONDS  # its event may be on its way
                return
            if answer.ended.get("type"):
                ended = answer.ended
                self._over(known.domain, operation_of(ended), ended, at)
        known.ran = known.told = known.ending = False
        if not answer.blocks:
            if known.shown:
                self.ended[known.domain.uuid] = known.domain
            self._of.pop(known.domain.uuid, None)

    def _over(self, domain: Domain, operation: str, job: Mapping[str, Any], at: int) -> None:
        self._results.add(domain, operation, ended_how(job), job, at)
        self.ended[domain.uuid] = domain
        self._follow(domain)
        self.wake.set()

    def _follow(self, domain: Domain, disk: str = "") -> None:
        """Ask a guest soon; a run that is over is not queried."""
        if self._inventory.get(domain.uuid) is not domain:
            return
        known = self._of.get(domain.uuid)
        now = self._clock()
        if known is None or known.domain is not domain:
            known = self._of[domain.uuid] = Followed(domain, math.inf)
        known.disks |= {disk} - {""}
        again = self._asked.get(domain.uuid, -math.inf) + AGAIN_SECONDS
        known.ask_at = min(known.ask_at, max(now, again))
        self.wake.set()

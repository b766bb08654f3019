"""
Jobs of domains, asked while they run; how they ended comes with libvirt's events.

Libvirt reports the end of most jobs, and the beginning of none. So every guest is queried once a
minute for a job, and one that has every 15 s, or at once after an event of its job. Jobs of disks
are looked for when a guest is first seen, every fifth minute, and after their events.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct
from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.collect.jobs.asking import JobQuestion, JobTurn, ask_jobs
from virtstatd.collect.jobs.fields import GROUP, JobFields
from virtstatd.collect.jobs.following import Following
from virtstatd.collect.jobs.results import LAST, JobResults
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collect.tier import OUTCOME, Tier
from virtstatd.collector import LIFETIME_INTERVALS, Emit, Health, Outcome, Row, Up
from virtstatd.errors import Crowded, Disconnected, Overdue, Refused
from virtstatd.hypervisor.hypervisor import Hypervisor
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Batch, Domain, Reading
from virtstatd.runtime.ticker import Ticker
from virtstatd.runtime.waiting import first_of


NAME: Final = "jobs"
RESULTS_SECONDS: Final = 60.0
"""How often the results are sent, changed or not."""

DISKS_EVERY: Final = 5
"""So many looks for jobs of guests come to one look for jobs of their disks."""


class JobsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jobs of guests: migrations, backups, saves, dumps, snapshots, and jobs of their disks."""

    enabled: Annotated[
        bool, Meta(description="Follow jobs while they run, and count how they end.")
    ] = True
    interval_seconds: Annotated[
        float,
        Meta(description="Seconds from one query to the next while a job runs.", ge=1, le=3600),
    ] = 15.0
    discovery_seconds: Annotated[
        float,
        Meta(
            description="Seconds from one search for jobs to the next: a call for each guest,"
            " and every fifth time one for each disk.",
            ge=5,
            le=86400,
        ),
    ] = 60.0


class JobsCollector:
    """Look for jobs on an interval that the budget may stretch, and follow those that run."""

    name = NAME

    def __init__(
        self,
        options: JobsOptions,
        catalog: Catalog,
        hypervisor: Hypervisor,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calls = 0
        self.tier = Tier(
            NAME, 0, frozenset({GROUP}), Ticker(NAME, options.discovery_seconds, clock())
        )
        self.tiers = (self.tier,)
        self._interval = options.interval_seconds
        self._hypervisor = hypervisor
        self._log = log
        self._clock = clock
        self._health = Health(clock)
        fields = JobFields(catalog)
        self._results = JobResults(fields)
        self._following = Following(
            hypervisor.inventory, fields, self._results, self._interval, clock
        )
        self._looked: dict[str, tuple[Domain, int]] = {}
        self._rounds = 0
        self._refused: dict[str, str] = {}
        self._hung: set[str] = set()
        self._sent_at = -math.inf
        self._error = ""
        hypervisor.connection.on_event(self._following.take)

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Look and follow until `stop`."""
        wake, ticker = libvirt.coming(self._following.wake), self.tier.ticker
        turns = libvirt.turns
        while not stop.is_set():
            wake.clear()
            now = self._clock()
            if turns != libvirt.turns:
                turns = libvirt.turns
                self._reconnected()
                ticker.due = min(ticker.due, now)
            if libvirt and now >= ticker.due:
                ticker.advance(now)
                await self._look(emit)
            elif libvirt:
                await self._ask(self._following.due(now), {}, emit)
            self._send(emit)
            due = min(self._sent_at + RESULTS_SECONDS, *self._dues(up=bool(libvirt)))
            await first_of(stop, wake, seconds=max(0.0, due - self._clock()))

    async def once(self, emit: Emit) -> Outcome:
        """Look for jobs once."""
        self._error = ""
        answered = await self._look(emit)
        self._send(emit)
        if "jobStats" in self._refused:
            return Outcome(answered=None, reason=self._refused["jobStats"])
        if self._error and not answered:
            return Outcome(answered=False, reason=self._error)
        return Outcome()

    def numbers(self) -> Iterator[Row]:
        """Yield the calls, the guests with jobs, and how the rounds went."""
        yield "job_calls", {}, self.calls
        yield "jobs_followed", {}, len(self._following)
        yield from self.tier.rows()
        yield from self._health.rows(self.name)

    def _dues(self, *, up: bool) -> Iterator[float]:
        """Yield when something is due; nothing while libvirt is away."""
        yield math.inf
        if up:
            yield self._following.next()
            yield self.tier.ticker.due

    def _reconnected(self) -> None:
        """Look everywhere again: events were missed, and it may be another libvirt."""
        self._refused.clear()
        self._looked.clear()
        self._hung.clear()

    async def _look(self, emit: Emit) -> int:
        """Ask every guest; return how many have answered."""
        begun, self.tier.busy = self._clock(), True
        self._rounds += 1
        uuids = self._hypervisor.inventory.uuids()
        failed = sum(self.tier.outcomes.values()) - self.tier.outcomes["ok"]
        try:
            answered = await self._ask(uuids, self._disks(), emit)
        finally:
            self.tier.busy = False
            self.tier.asked += 1
        good = sum(self.tier.outcomes.values()) - self.tier.outcomes["ok"] == failed
        if good:
            self.tier.good_at = begun
        self.tier.missing = self._hung.intersection(uuids)
        self._health.ended(begun, good=good)
        return answered

    def _disks(self) -> dict[str, set[str]]:
        """Return the disks of the guests for which it is time to look at all of them."""
        found: dict[str, set[str]] = {}
        looked: dict[str, tuple[Domain, int]] = {}
        for domain, described in self._hypervisor.inventory.domains():
            uuid = domain.uuid
            known = self._looked.get(uuid)
            if known and known[0] is domain and self._rounds < known[1] + DISKS_EVERY:
                looked[uuid] = known
            elif disks := disks_of(described):  # else its description comes later
                found[uuid] = disks
                looked[uuid] = domain, self._rounds
        self._looked = looked
        return found

    async def _ask(self, uuids: Sequence[str], disks: Mapping[str, set[str]], emit: Emit) -> int:
        """Ask these guests in turns of a lane, a batch for each; return how many have answered."""
        if not self._hypervisor.lanes.stuck:
            self._hung.clear()
        pending = [each for each in uuids if each not in self._hung]
        answered: set[str] = set()
        while pending and "jobStats" not in self._refused:
            some = pending[: self._hypervisor.slice_domains]
            turn = await self._turn([*self._following.questions(some, disks)])
            if not turn.asked:
                break
            pending = pending[len(turn.asked) :]
            answered |= turn.answers.keys()
            self._taken(turn, emit)
        self._following.postpone(each for each in uuids if each not in answered)
        return len(answered)

    async def _turn(self, questions: Sequence[JobQuestion]) -> JobTurn:
        """Ask on a lane; if a call fails, the answers before it are kept."""
        lanes, turn = self._hypervisor.lanes, JobTurn(refused=dict(self._refused))
        careful = lanes.stuck > 0

        def asking(session: Session) -> float:
            begun = time.monotonic()
            ask_jobs(session, questions, turn, careful=careful)
            return time.monotonic() - begun

        try:
            seconds = await lanes.run(
                asking, self._hypervisor.deadline_seconds, monitor=True, patient=True
            )
        except (Crowded, Disconnected, Overdue, Refused) as error:
            self.tier.outcomes[OUTCOME.get(type(error), "withheld")] += 1
            self._error = str(error)
            if isinstance(error, Overdue):
                self._hung.update(turn.asked[-1:])
            return turn.kept()
        self.tier.outcomes["ok"] += 1
        self.tier.observe(seconds)
        return turn

    def _taken(self, turn: JobTurn, emit: Emit) -> None:
        """Take over the answers of a turn, and send what runs."""
        self.calls += turn.calls
        for name in turn.refused.keys() - self._refused.keys():
            self._refused[name] = turn.refused[name]
            self._log.info("jobs.refused", call=name, reason=turn.refused[name])
        readings: list[Reading] = []
        for uuid, answer in turn.answers.items():
            if domain := self._hypervisor.inventory.get(uuid):
                readings += self._following.answered(domain, answer, turn.taken_at)
        if readings:
            lifetime = LIFETIME_INTERVALS * self._interval
            emit(Batch(NAME, turn.taken_at, tuple(readings), frozenset({GROUP}), lifetime))

    def _send(self, emit: Emit) -> None:
        """Send the results: of guests whose job has ended, and each minute all of them."""
        inventory, following = self._hypervisor.inventory, self._following
        following.tidy()
        now = self._clock()
        whole = now >= self._sent_at + RESULTS_SECONDS
        if not whole and not following.ended:
            return
        if whole:
            self._sent_at = now
            self._results.tidy(inventory.get)
        ended = set(following.ended)
        following.ended.clear()
        over, others = [], [self._results.host()]
        for uuid, reading in self._results.of():
            if inventory.get(uuid) is reading.domain:
                if uuid in ended and uuid not in following:
                    over.append(reading)
                elif whole or uuid in ended:
                    others.append(reading)
        taken_at, lifetime = time.time_ns(), LIFETIME_INTERVALS * RESULTS_SECONDS
        # what ran is among the groups and not among the readings, and so ends
        for groups, readings in ({GROUP, LAST}, over), ({LAST, NAME}, others):
            if readings:
                emit(Batch(NAME, taken_at, tuple(readings), frozenset(groups), lifetime))


def disks_of(described: Iterable[Reading]) -> set[str]:
    """Return the targets of a guest's disks, from the facts of its description."""
    return {
        value
        for reading in described
        for series in reading.shape.series
        if series.field.family == "libvirt_domain_block_stats_info"
        for name, value in series.labels
        if name == "target_device"
    }


def jobs_followed(options: JobsOptions, parts: Parts) -> JobsCollector | None:
    """Build the collector, None if it is off."""
    if not options.enabled:
        return None
    return JobsCollector(options, parts.catalog, parts.hypervisor, parts.log)


KIND: Final = CollectorKind(NAME, jobs_followed, NAME, JobsOptions)

"""
The bulk collector: polls the tiers that are due, those that are due together in one call.

    ticker ──▶ poller ──▶ sweep ──▶ asking ──▶ lane ──▶ call ──▶ decoder ──▶ batches
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from virtstatd.catalog.decode import Decoder
from virtstatd.collect.bulk.answer import MONITOR, POLLED
from virtstatd.collect.bulk.call import BulkCall
from virtstatd.collect.bulk.control import Stalls, Verdicts
from virtstatd.collect.bulk.exceptions import Exceptions
from virtstatd.collect.bulk.monitors import Monitors
from virtstatd.collect.bulk.options import TIERS, PollOptions, note
from virtstatd.collect.bulk.pace import Pace
from virtstatd.collect.bulk.structures import structures
from virtstatd.collect.bulk.sweep import Sweep
from virtstatd.collect.parts import CollectorKind, Parts
from virtstatd.collect.tier import Poll, Tier
from virtstatd.collector import Emit, Health, Outcome, Row, Up
from virtstatd.errors import Disconnected, VirtstatdError
from virtstatd.model import Domain
from virtstatd.runtime.ticker import Ticker, ticks
from virtstatd.runtime.waiting import STOP_SECONDS, first_of


TURN_SECONDS: Final = 15.0
"""From one turn to the next where a poll is spread over its interval."""

LATE_SECONDS: Final = 25.0
"""How much later than planned a turn may be: a call before it, of any tier, takes its time."""


class Poller:
    """
    Poll each tier at its interval; a tier whose poll is still under way skips its tick.

    Tiers that are due together travel in one call, except that what asks no guest's monitor never
    waits for what does. A poll is spread over an interval that was stretched: guests are polled by
    turns, so that the host never spends the CPU for all at once. The first poll after an interval
    grew is not, since readings that are shown would expire before their turn.
    """

    name = "bulk"

    def __init__(
        self,
        tiers: Sequence[Tier],
        sweep: Sweep,
        unknown: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tiers = tiers
        self._sweep = sweep
        self._unknown = unknown
        self._clock = clock
        self._health = Health(clock)
        self._ticked_at = clock()
        self._stop = asyncio.Event()
        self._libvirt = Up(up=True)
        self._turn = asyncio.Lock()

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Poll until `stop`; ticks while libvirt is away or a tier is still busy are skipped."""
        self._stop, self._libvirt = stop, libvirt
        nudge, turning = libvirt.coming(), libvirt.turning()
        nudge.clear()
        turns = libvirt.turns
        by_ticker = {id(tier.ticker): tier for tier in self.tiers}
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as polls:
            losing = polls.create_task(self._losing(libvirt, turning), name="poll losing")
            async for due in ticks([t.ticker for t in self.tiers], stop, nudge, self._clock):
                if turns != libvirt.turns:  # what was read before is no longer current
                    turns = libvirt.turns
                    self._sweep.pace.reset()
                free = []
                for tier in (by_ticker[id(ticker)] for ticker in due):
                    if tier.busy or not libvirt:
                        tier.ticker.skip()
                    else:
                        tier.busy = True
                        free.append(tier)
                for together in self._together(free):
                    names = "+".join(tier.name for tier in together)
                    task = polls.create_task(self.poll(together, emit), name=f"poll {names}")
                    running.add(task)
                    task.add_done_callback(running.discard)
                self._ticked_at = self._clock()
            losing.cancel()
            if running:
                _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
                for task in late:
                    task.cancel()

    async def once(self, emit: Emit) -> Outcome:
        """
        Poll everything once.

        No answer is where libvirt is away, every call failed, or the driver has no statistics.
        """
        poll = Poll(self.tiers, self._clock(), False, emit)
        try:
            await self._sweep.asking.running(poll)
        except Disconnected as error:
            return Outcome(answered=False, reason=f"libvirt cannot be reached: {error}")
        except VirtstatdError as error:
            return Outcome(answered=False, reason=str(error))
        listed = self.tiers[-1].outcomes["ok"]
        for together in self._together(self.tiers):
            await self.poll(together, emit)
        had = any(self._sweep.exceptions.asked(tier.bits) for tier in self.tiers)
        if had and sum(tier.outcomes["ok"] for tier in self.tiers) > listed:
            return Outcome()
        return Outcome(answered=False, reason="libvirt answered no bulk call")

    def numbers(self) -> Iterator[Row]:
        """Yield what became of the polls."""
        yield "up", {}, int(bool(self._libvirt) and self._sweep.asking.up)
        yield "unknown_fields", {}, len(self._unknown)
        yield "undecodable_records", {}, self._sweep.asking.undecodable.records
        yield "refused_domains", {}, self._sweep.exceptions.guests
        for group in self._sweep.exceptions.groups():
            yield "refused_group", {"group": group}, 1
        for group, guests in self.spared().items():
            yield "slow_domains", {"group": group}, guests
        for tier in self.tiers:
            yield from tier.rows()
        yield from self._health.rows(self.name)

    def spared(self) -> dict[str, int]:
        """Return of how many guests each group is polled slowly."""
        return self._sweep.pace.counts()

    def unresponsive(self) -> list[str]:
        """Return the domains whose monitors do not answer, the longest silent first."""
        return self._sweep.unresponsive()

    def ticking(self, now: float) -> bool:
        """Return whether deadlines are still being served."""
        shortest = min((t.ticker.seconds for t in self.tiers), default=math.inf)
        return now - self._ticked_at < 3 * shortest + 1

    async def poll(self, tiers: Sequence[Tier], emit: Emit) -> None:
        """Poll some tiers together, now."""
        begun, complete = self._clock(), False
        for tier in tiers:
            tier.begin()
        try:
            poll = Poll(tiers, begun, any(tier.monitor for tier in tiers), emit)
            if self._spread(poll):
                complete = await self._by_turns(poll)
            else:
                complete = await self._sweep.at_once(poll)
                for tier in tiers:
                    tier.asked += 1
            if complete:
                for tier in tiers:
                    tier.good_at = begun
            self._sweep.asking.end(poll)
        finally:
            self._health.ended(begun, good=complete)
            for tier in tiers:
                tier.end(begun)

    @staticmethod
    def _spread(poll: Poll) -> bool:
        """Return whether a poll is spread over its interval: no reading may expire meanwhile."""
        stretched = any(tier.ticker.stretched for tier in poll.tiers)
        long = poll.seconds >= 2 * TURN_SECONDS
        kept = all(poll.begun + poll.seconds <= tier.shown_until for tier in poll.tiers)
        return poll.monitor and stretched and long and kept

    async def _by_turns(self, poll: Poll) -> bool:
        """
        Ask for some domains at a time, evenly over the interval in force, until the stop.

        Where the interval grows meanwhile, that is for the next poll; where it shrinks, for this.
        Guests that start meanwhile are polled too, and those missed while libvirt was away are
        polled when it is back. Returns whether all were answered.
        """
        with contextlib.suppress(VirtstatdError):  # it may answer at the next turn
            await self._sweep.asking.running(poll)
        asked: set[str] = set()
        complete, seconds = True, poll.seconds
        shown_until = min(tier.shown_until for tier in poll.tiers)
        while not self._stop.is_set():
            async with self._turn:  # polls of other tiers may be spread over the same time
                now, uuids = self._clock(), self._sweep.in_order()
                pending = [uuid for uuid in uuids if uuid not in asked]
                seconds = min(seconds, poll.seconds)
                left = max(1, int((poll.begun + seconds - now) / TURN_SECONDS))
                if now + TURN_SECONDS + LATE_SECONDS > shown_until:
                    left = 1  # what is shown of the others might expire before their turn
                part = pending[: -(-len(pending) // left)]
                if part and self._libvirt:
                    lost = poll.tiers[-1].outcomes["disconnected"]
                    answered = await self._sweep.listed(poll, part)
                    if answered or poll.tiers[-1].outcomes["disconnected"] == lost:
                        asked.update(part)
                        complete &= answered
                    for tier in poll.tiers:
                        tier.asked += len(part) / len(uuids)
            if left == 1:
                return complete and asked.issuperset(pending)
            for tier in poll.tiers:
                tier.pausing = True
            await first_of(self._stop, seconds=now + TURN_SECONDS - self._clock())
            for tier in poll.tiers:
                tier.pausing = False
        return False

    async def _losing(self, libvirt: Up, turning: asyncio.Event) -> None:
        """Take note each time that libvirt has gone."""
        while True:
            await turning.wait()
            turning.clear()
            if not libvirt:
                self._sweep.lost()

    @staticmethod
    def _together(tiers: Sequence[Tier]) -> list[list[Tier]]:
        """Return which tiers travel in one call: what may hang never holds up what cannot."""
        safe = [tier for tier in tiers if not tier.monitor]
        asking = [tier for tier in tiers if tier.monitor]
        return [each for each in (safe, asking) if each]


def poller(options: PollOptions, parts: Parts) -> Poller:
    """Build the collector of the bulk statistics."""
    hypervisor = parts.hypervisor
    inventory = hypervisor.inventory
    unknown: set[str] = set()

    def noticed(key: str) -> None:
        if key not in unknown:
            unknown.add(key)
            parts.log.info("field.unknown", key=key)

    decoder = Decoder(parts.catalog, noticed)
    inventory.on_gone(lambda domain: decoder.forget(domain.uuid))
    processes = hypervisor.processes
    stalls = Stalls(processes) if processes else None

    def pid_of(domain: Domain) -> int | None:
        process = processes.of(domain) if processes else None
        return process.pid if process else None

    monitors = Monitors(Verdicts(parts.catalog), parts.log, time.monotonic, pid_of=pid_of)
    origin = time.monotonic()
    tiers = []
    for name in TIERS:
        tier = getattr(options, name)
        groups = frozenset(POLLED[group].name for group in tier.groups)
        if groups:
            ticker = Ticker(name, tier.interval_seconds, origin)
            monitor = bool(tier.bits & MONITOR)
            tiers.append(Tier(name, tier.bits, groups, ticker, monitor))
    tickers = {tier.name: tier.ticker for tier in tiers}
    slowest = tickers.get(TIERS[-1], Ticker("slow", options.extra.interval_seconds, origin))
    named = [name for name in TIERS if getattr(options, name).named]
    pace = Pace(parts.left, lambda: slowest.seconds, time.monotonic, named)

    hypervisor.connection.on_event(pace.changed)
    sweep = Sweep(
        hypervisor.lanes,
        BulkCall(
            inventory,
            decoder,
            stalls,
            backing_chains=options.monitor.backing_chains,
            structures=structures(),
        ),
        monitors,
        Exceptions(parts.log, time.monotonic),
        parts.log,
        slice_domains=hypervisor.slice_domains,
        deadline_seconds=hypervisor.deadline_seconds,
        pace=pace,
        on_turn=parts.news.set,
    )
    return Poller(tiers, sweep, unknown)


KIND: Final = CollectorKind(Poller.name, poller, "poll", PollOptions, note)

"""Who polls: tiers of groups on their intervals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from virtstatd.collect.bulk.sweep import TURN_SECONDS, Sweep
from virtstatd.collect.bulk.tier import Poll, Tier
from virtstatd.runtime.ticker import ticks
from virtstatd.runtime.waiting import STOP_SECONDS


class Poller:
    """
    Have libvirt asked at every tick.

    Tiers that are due together travel in one call, but for those that ask no guest's monitor: they
    cannot hang, and go by themselves. An interval that was stretched is used all of it: guests are
    asked by turns, so that the host never pays for all at once.
    """

    def __init__(self, tiers: Sequence[Tier], sweep: Sweep, clock: Callable[[], float]) -> None:
        self.tiers = tiers
        self.nudge = asyncio.Event()
        self._sweep = sweep
        self._clock = clock
        self._ticked_at = clock()
        self._stop = asyncio.Event()
        self._connected: Callable[[], bool] = lambda: True

    async def run(self, stop: asyncio.Event, connected: Callable[[], bool]) -> None:
        """Poll until `stop`; ticks while libvirt is away or a tier is still busy are skipped."""
        self._stop, self._connected = stop, connected
        by_ticker = {id(tier.ticker): tier for tier in self.tiers}
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as polls:
            async for due in ticks([t.ticker for t in self.tiers], stop, self.nudge, self._clock):
                free = []
                for tier in (by_ticker[id(ticker)] for ticker in due):
                    if tier.busy or not connected():
                        tier.ticker.skip()
                    else:
                        tier.busy = True
                        free.append(tier)
                for together in self._together(free):
                    names = "+".join(tier.name for tier in together)
                    task = polls.create_task(self._poll(together), name=f"poll {names}")
                    running.add(task)
                    task.add_done_callback(running.discard)
                self._ticked_at = self._clock()
            if running:
                _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
                for task in late:
                    task.cancel()

    async def once(self) -> None:
        """Poll everything once; raises `Disconnected` where libvirt cannot be reached."""
        await self._sweep.connect(Poll(self.tiers, self._clock(), False))
        for together in self._together(self.tiers):
            await self._poll(together)

    def ticking(self, now: float) -> bool:
        """Tell whether deadlines are still being served."""
        shortest = min((t.ticker.seconds for t in self.tiers), default=math.inf)
        return now - self._ticked_at < 3 * shortest + 1

    @property
    def up(self) -> bool:
        """Whether the last bulk call succeeded."""
        return self._sweep.up

    @property
    def undecodable(self) -> int:
        """How many records could not be decoded."""
        return self._sweep.undecodable

    @staticmethod
    def _together(tiers: Sequence[Tier]) -> list[list[Tier]]:
        """Tell which tiers travel in one call: what may hang never holds up what cannot."""
        safe = [tier for tier in tiers if not tier.monitor]
        asking = [tier for tier in tiers if tier.monitor]
        return [each for each in (safe, asking) if each]

    async def _poll(self, tiers: Sequence[Tier]) -> None:
        try:
            poll = Poll(tiers, self._clock(), any(tier.monitor for tier in tiers))
            stretched = any(tier.ticker.stretched for tier in tiers)
            if poll.monitor and stretched and poll.seconds >= 2 * TURN_SECONDS:
                complete = await self._sweep.by_turns(poll, self._stop, self._connected)
            else:
                complete = await self._sweep.at_once(poll)
                for tier in tiers:
                    tier.asked += 1
            if complete:
                for tier in tiers:
                    tier.good_at = poll.begun
        finally:
            for tier in tiers:
                tier.end()

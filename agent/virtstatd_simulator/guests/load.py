"""
How busy a guest is: counters as closed formulas of its running time.

Every statistic that moves is `base + rate * driver`, where a driver is the integral of some load
over time. Because the integral has a closed form, a value depends only on the time of the query:
two polls never disagree, and no task has to tick for 10,000 guests.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import IntEnum


UNIT_BITS = 16
UNIT = 1 << UNIT_BITS  # drivers count in 1/65536 of a second at full load

STORMY_SHARE = 0.3


class Driver(IntEnum):
    """Lists what a number can follow, by its index in the result of `Load.drivers`."""

    CPU = 0
    NET = 1
    DISK = 2
    STEAL = 3
    WAVE = 4  # no integral: between 0 and UNIT, for gauges
    STATE = 5
    REASON = 6
    EPOCH = 7  # Unix time


@dataclass(frozen=True, slots=True)
class Pattern:
    """
    Describes a periodic load: `low` always, `high` on top of it for a part of every period.

    The upper part is a square when `square`, half a sine wave when not. Loads are fractions of
    the guest's capacity.
    """

    low: float
    high: float
    period_seconds: float
    busy_seconds: float
    offset_seconds: float = 0.0
    square: bool = True

    def integral(self, seconds: float) -> float:
        """Return the seconds of full load in `seconds` of running; never falls."""
        rounds, rest = divmod(seconds + self.offset_seconds, self.period_seconds)
        return self.low * seconds + self.high * (
            rounds * self._bump(self.busy_seconds)
            + self._bump(min(rest, self.busy_seconds))
            - self._bump(min(self.offset_seconds, self.busy_seconds))
        )

    def _bump(self, seconds: float) -> float:
        """Integrate the upper part from the start of a period."""
        if self.square:
            return seconds
        half = self.busy_seconds / math.pi
        return half * (1.0 - math.cos(seconds / half))


@dataclass(frozen=True, slots=True)
class Load:
    """Holds the patterns of one guest."""

    cpu: Pattern
    net: Pattern
    disk: Pattern
    steal: Pattern

    def drivers(self, uptime: float, state: int, reason: int, epoch: int) -> tuple[int, ...]:
        """Return the value of every `Driver` after `uptime` seconds."""
        cpu = self.cpu.integral(uptime)
        wave = 0.5 + 0.5 * math.sin(uptime * (2 * math.pi / self.cpu.period_seconds))
        return (
            int(cpu * UNIT),
            int(self.net.integral(uptime) * UNIT),
            int(self.disk.integral(uptime) * UNIT),
            int(self.steal.integral(uptime) * UNIT),
            int(wave * UNIT),
            state,
            reason,
            epoch,
        )


def random_load(rng: random.Random) -> Load:
    """Draw a load: quiet, busy in waves, bursting or flat out; some have storms of steal."""
    style = rng.choices(("quiet", "wave", "burst", "flat"), (4, 4, 2, 1))[0]
    low, high = {
        "quiet": (0.01, 0.04),
        "wave": (0.05, 0.50),
        "burst": (0.02, 0.60),
        "flat": (0.70, 0.10),
    }[style]
    period = rng.uniform(60, 600)

    def pattern(scale: float) -> Pattern:
        return Pattern(
            low=low * scale,
            high=high * scale,
            period_seconds=period,
            busy_seconds=period * (rng.uniform(0.1, 0.3) if style == "burst" else 0.9),
            offset_seconds=rng.uniform(0, period / 2),
            square=style == "burst",
        )

    # a vCPU waits for a CPU in the time that it does not have one
    stormy = rng.random() < STORMY_SHARE
    storm_period = rng.uniform(90, 400)
    steal = Pattern(
        low=rng.uniform(0.0005, 0.004),
        high=rng.uniform(0.5, 0.9) * (1.0 - low - high) if stormy else 0.01,
        period_seconds=storm_period,
        busy_seconds=rng.uniform(5, 25),
        offset_seconds=rng.uniform(30, storm_period),
    )
    return Load(
        cpu=pattern(1.0),
        net=pattern(rng.uniform(0.1, 1.0)),
        disk=pattern(rng.uniform(0.1, 1.0)),
        steal=steal,
    )

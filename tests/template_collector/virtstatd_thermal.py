"""Read the temperatures of the host's thermal zones."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from virtstatd.collector import (
    Batch,
    Collector,
    Emit,
    Field,
    Given,
    Health,
    Kind,
    Outcome,
    Reading,
    Row,
    Series,
    Shape,
    Up,
)


TEMPERATURE = Field(
    "host_thermal", "zone_temperature", Kind.GAUGE, "celsius", "Temperature of the zone.", -3
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    """Read the temperatures of the host's thermal zones."""

    interval_seconds: Annotated[
        float, Meta(description="Seconds from one reading to the next.", ge=0.01, le=3600)
    ] = 15.0
    directory: Annotated[str, Meta(description="Directory of the zones.")] = "/sys/class/thermal"

    def open(self, given: Given) -> Collector:
        """Return the collector."""
        return ThermalCollector(given.name, Path(self.directory), self.interval_seconds)


class ThermalCollector:
    """Read every zone on an interval."""

    def __init__(self, name: str, directory: Path, interval_seconds: float) -> None:
        self.name = name
        self._directory = directory
        self._seconds = interval_seconds
        self._health = Health()
        self._shapes: dict[tuple[str, ...], Shape] = {}

    async def run(self, emit: Emit, libvirt: Up, stop: asyncio.Event) -> None:
        """Read until `stop`; libvirt is not needed."""
        while not stop.is_set():
            with self._health.round():
                emit(self._batch())
            try:
                async with asyncio.timeout(self._seconds):
                    await stop.wait()
            except TimeoutError:
                continue

    async def once(self, emit: Emit) -> Outcome:
        """Read once; a host without zones is none of ours."""
        batch = self._batch()
        if not batch.readings:
            return Outcome(answered=None, reason="this host has no thermal zones")
        emit(batch)
        return Outcome()

    def numbers(self) -> Iterable[Row]:
        """Return success, duration and age."""
        return self._health.rows(self.name)

    def _batch(self) -> Batch:
        taken_at = time.time_ns()
        zones: dict[str, int] = {}
        for zone in sorted(self._directory.glob("thermal_zone*")):
            try:
                zones[(zone / "type").read_text().strip()] = int((zone / "temp").read_text())
            except (OSError, ValueError):
                continue  # a sensor that is off is absent, not zero
        readings = (Reading(None, self._shape(tuple(zones)), tuple(zones.values())),)
        return Batch(
            self.name,
            taken_at,
            readings if zones else (),
            frozenset({"thermal"}),
            lifetime_seconds=max(60.0, 2 * self._seconds),
        )

    def _shape(self, zones: tuple[str, ...]) -> Shape:
        """Return the shape of these zones, the same each time: sinks compile it once."""
        if zones not in self._shapes:
            series = tuple(Series(TEMPERATURE, (("zone", zone),)) for zone in zones)
            self._shapes = {zones: Shape("thermal", series)}
        return self._shapes[zones]

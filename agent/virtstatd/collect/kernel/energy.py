"""
Energy that the host's processors used, from the kernel's powercap (RAPL of Intel and AMD).

A zone's counter begins again from zero at `max_energy_range_uj`, after minutes at full power: what
is reported goes on. Since 2020 only root may read the counters, unless a file's mode is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtstatd.collect.kernel.controllers import FactRow


ZONES: Final = "class/powercap"
PREFIX: Final = "intel-rapl:"
"""Of the zones; `intel-rapl-mmio:` are the same packages by another way."""


class Energy:
    """The zones of a host: packages with their parts, and the platform where it is counted."""

    def __init__(self, devices: Path) -> None:
        self._folder = devices / ZONES
        self._last: dict[str, int] = {}
        self._whole: dict[str, int] = {}

    def read(self) -> Iterator[FactRow]:
        """Yield the energy of each zone that can be read, in microjoules."""
        names: list[str] = []
        with suppress(OSError):
            names = sorted(each.name for each in self._folder.iterdir())
        for name in names:
            if name.startswith(PREFIX):
                with suppress(OSError, ValueError):
                    yield self._zone(name.removeprefix(PREFIX), self._folder / name)

    def _zone(self, zone: str, folder: Path) -> FactRow:
        now = int((folder / "energy_uj").read_text())
        named = (folder / "name").read_text().strip()
        grown = now - self._last.get(zone, 0)
        if grown < 0:
            grown += int((folder / "max_energy_range_uj").read_text())
        self._last[zone] = now
        # one that was set back in another way, as by a suspended host, has not grown
        self._whole[zone] = self._whole.get(zone, 0) + max(0, grown)
        return ("node", "energy", (("rapl_zone", zone), ("rapl_name", named))), self._whole[zone]

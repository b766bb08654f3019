"""The energy of the host's processors: goes on where the counters begin again."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtstatd.collect.kernel.energy import Energy


RANGE = 262143328850


class Host:
    """Zones in a sysfs."""

    def __init__(self, sys: Path) -> None:
        self.zones = sys / "class/powercap"
        self.energy = Energy(sys)

    def zone(self, name: str, called: str, used: int | str) -> None:
        """Write a zone."""
        folder = self.zones / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{called}\n")
        (folder / "energy_uj").write_text(f"{used}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")

    def read(self) -> dict[tuple[str, ...], int | float]:
        """Return the energy of each zone by its labels."""
        return {
            tuple(text for _, text in labels): number
            for (_, _, labels), number in self.energy.read()
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Make a host with two packages, one of them with a part."""
    host = Host(tmp_path)
    host.zone("intel-rapl:0", "package-0", 1000)
    host.zone("intel-rapl:0:0", "core", 600)
    host.zone("intel-rapl:1", "package-1", RANGE - 10)
    host.zone("intel-rapl-mmio:0", "package-0", 1000)
    (host.zones / "intel-rapl").mkdir()
    return host


def test_zones_are_told_apart(host: Host):
    """Packages and their parts each by the kernel's number, a second way to one not at all."""
    assert host.read() == {
        ("0", "package-0"): 1000,
        ("0:0", "core"): 600,
        ("1", "package-1"): RANGE - 10,
    }


def test_a_counter_that_begins_again_goes_on(host: Host):
    """After the highest number comes zero: the sum is what was used, and never falls."""
    host.read()
    host.zone("intel-rapl:1", "package-1", 20)
    assert host.read()["1", "package-1"] == RANGE + 20
    host.zone("intel-rapl:1", "package-1", 50)
    assert host.read()["1", "package-1"] == RANGE + 50


def test_what_cannot_be_read_costs_itself(host: Host):
    """A zone that is hidden, empty or strange is left out, and a host without zones has none."""
    host.zone("intel-rapl:0", "package-0", "")
    (host.zones / "intel-rapl:1/energy_uj").unlink()
    assert host.read() == {("0:0", "core"): 600}
    assert list(Energy(host.zones).read()) == []

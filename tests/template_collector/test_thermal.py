"""The collector keeps virtstatd's contract, and reads what there is."""

import time
from pathlib import Path

import pytest
from virtstatd_thermal import Thermal

from virtstatd.collector import Batch
from virtstatd.testing import check_collector, given


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    """Make two zones, one of them off."""
    for number, (kind, text) in enumerate([("x86_pkg_temp", "41500\n"), ("acpitz", "")]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(text)
    return tmp_path


async def test_contract(zones: Path):
    """The collector keeps every promise."""
    await check_collector(
        lambda: Thermal(interval_seconds=0.01, directory=str(zones)).open(given("thermal"))
    )


async def test_what_there_is(zones: Path):
    """A zone that tells its temperature is there, one that is off is absent."""
    batches: list[Batch] = []
    outcome = await Thermal(directory=str(zones)).open(given()).once(batches.append)
    (batch,) = batches
    (reading,) = batch.readings
    assert outcome.answered
    assert dict(zip(reading.shape.series, reading.values, strict=True)).values()
    assert [dict(series.labels) for series in reading.shape.series] == [{"zone": "x86_pkg_temp"}]
    assert reading.values == (41500,)
    assert abs(batch.taken_at - time.time_ns()) < 60 * 10**9


async def test_a_host_without_zones_is_no_failure(tmp_path: Path):
    """Where there is nothing to read the collector does not apply."""
    outcome = await Thermal(directory=str(tmp_path)).open(given()).once(lambda _: None)
    assert outcome.answered is None

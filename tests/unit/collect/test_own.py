"""The agent's own numbers: true, and compiled again only where their series change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from virtstatd.catalog import shipped
from virtstatd.collect import own
from virtstatd.collect.own import OwnCollector
from virtstatd.collector import Histogram, Row
from virtstatd.model import Batch


class Part:
    """A part of the agent with numbers."""

    def __init__(self) -> None:
        self.tiers = ["pulse"]
        self.bounds = (0.5, 1.0)
        self.number = 1

    def __call__(self) -> Iterator[Row]:
        """Yield them."""
        for tier in self.tiers:
            yield "ticks", {"tier": tier}, self.number
        yield "call_duration", {"tier": "pulse"}, Histogram(self.bounds, [1, 0, 2], 3.5)


def shown(batch: Batch) -> dict[str, float]:
    """Return the numbers of a batch by series."""
    (reading,) = batch.readings
    return {
        " ".join((each.field.family, each.part, *(value for _, value in each.labels))): value
        for each, value in zip(reading.shape.series, reading.values, strict=True)
    }


def test_a_shape_lives_as_long_as_its_series():
    """Other numbers of the same series keep it; another label or another bound makes a new one."""
    part = Part()
    collector = OwnCollector(shipped(), [part], 15.0, asyncio.Event())
    first = collector.batch().readings[0].shape
    part.number = 2
    again = collector.batch()
    assert again.readings[0].shape is first
    assert shown(again)["virtstatd_ticks  pulse"] == 2
    part.tiers.append("monitor")
    more = collector.batch()
    assert more.readings[0].shape is not first
    assert shown(more)["virtstatd_ticks  monitor"] == 2
    part.bounds = (0.5, 2.0)
    other = shown(collector.batch())
    assert other["virtstatd_call_duration_seconds bucket pulse 2.0"] == 1
    assert other["virtstatd_call_duration_seconds count pulse"] == 3


@pytest.mark.parametrize("kernel_counts", [True, False])
async def test_open_files_are_counted_with_and_without_the_kernels_number(
    monkeypatch: pytest.MonkeyPatch, kernel_counts: bool
):
    """Both ways agree; the slow one is not taken on the loop."""
    if not kernel_counts:
        monkeypatch.setattr(own, "_counted_descriptors", lambda: 0)
    elif not own._counted_descriptors():
        pytest.skip("this kernel has no number of open files")
    batches: list[Batch] = []
    collector = OwnCollector(shipped(), [], 15.0, asyncio.Event())
    await collector.once(batches.append)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
    try:
        await collector.once(batches.append)
    finally:
        for file in files:
            os.close(file)
    before, after = (shown(each)["virtstatd_open_descriptors "] for each in batches)
    assert after - before == len(files)

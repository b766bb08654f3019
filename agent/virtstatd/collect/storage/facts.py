"""What a guest's description says about its disks: their limits, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtstatd.collect.storage.places import Local, StorageName, storage_of
from virtstatd.collect.storage.shares import LIMITED, IoLimits
from virtstatd.model import Number, Reading


_DISK: Final = "libvirt_domain_block_stats_"
_INFO: Final = f"{_DISK}info"
_LIMITS: Final = {f"{_DISK}limit_{name}_per_second": name for name in LIMITED}


def _described(reading: Reading) -> Iterator[dict[str, str]]:
    for series in reading.shape.series:
        if series.field.family == _INFO:
            yield dict(series.labels)


def places_in(reading: Reading, local: Local) -> Iterator[tuple[str, StorageName]]:
    """Yield each disk with a medium, and its storage."""
    for disk in _described(reading):
        if (device := disk.get("target_device")) and (storage := storage_of(disk, local)):
            yield device, storage


def limits_in(reading: Reading) -> dict[str, IoLimits]:
    """Return the limits of each disk that has some."""
    limits: dict[str, dict[str, Number]] = {}
    for series, number in zip(reading.shape.series, reading.values, strict=True):
        if name := _LIMITS.get(series.field.family):
            limits.setdefault(dict(series.labels)["target_device"], {})[name] = number
    groups = {
        disk.get("target_device"): disk.get("limit_group", "")
        for disk in (_described(reading) if limits else ())
    }
    return {device: IoLimits(groups.get(device, ""), of) for device, of in limits.items()}

"""How fast each storage answers, and which disks have nearly filled the device that they are on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtstatd.insight.guests import D, share
from virtstatd.insight.lookup import Lookup


_S: Final = "libvirt_storage"
_B: Final = f"{D}_block_stats"


def storage_latencies(look: Lookup) -> Iterator[tuple[str, float]]:
    """Yield each storage that completes requests, and the mean time of one."""
    writes = dict(look.rates(f"{_S}_write_requests"))
    reading = dict(look.rates(f"{_S}_read_time_seconds"))
    writing = dict(look.rates(f"{_S}_write_time_seconds"))
    for labels, reads in look.rates(f"{_S}_read_requests"):
        count = (reads or 0.0) + (writes.get(labels) or 0.0)
        if count:
            seconds = (reading.get(labels) or 0.0) + (writing.get(labels) or 0.0)
            yield dict(labels)["storage"], seconds / count


def thin_disks(look: Lookup) -> Iterator[tuple[str, float]]:
    """
    Yield each disk on a block device smaller than the disk, and how much of the device is written.

    QEMU pauses the guest when the device is full (`domblkinfo` of the man page of virsh).
    """
    devices = [
        facts.get("target_device", "")
        for facts in map(dict, look.labels(f"{_B}_info"))
        if facts.get("disk_type") == "block"
    ]
    if not devices:
        return
    written = _by_disk(look, f"{_B}_allocation_bytes")
    physical = _by_disk(look, f"{_B}_physical_bytes")
    capacity = _by_disk(look, f"{_B}_capacity_bytes")
    for device in devices:
        size = physical.get(device, 0.0)
        ratio = share(written.get(device), size) if size < capacity.get(device, 0.0) else None
        if ratio is not None:
            yield device, ratio


def _by_disk(look: Lookup, family: str) -> dict[str, float]:
    return {dict(labels)["target_device"]: number for labels, number in look.values(family)}

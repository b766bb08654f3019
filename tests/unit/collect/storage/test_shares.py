"""How much of its limits a disk uses."""

from __future__ import annotations

import pytest

from virtstatd.collect.storage.disks import COUNTERS, DiskCounters
from virtstatd.collect.storage.shares import IoLimits, LimitShares


SECOND = 1_000_000_000


def disk(**counters: int) -> DiskCounters:
    """Return the counters of a disk, 0 unless said otherwise."""
    return tuple(counters.get(name, 0) for name in COUNTERS)


def take(shares: LimitShares, at: float, **disks: DiskCounters) -> dict[tuple[str, str], float]:
    """Return the shares by disk and limit."""
    found = shares.take(round(at * SECOND), disks.items())
    return {(device, limit): share for device, limit, share in found}


def test_rates_are_held_against_each_limit():
    """A total counts both ways; a disk without limits has no share; a burst is above one."""
    limits = {"total_bytes": 1000, "read_requests": 10, "write_requests": 10, "write_bytes": 300}
    shares = LimitShares({"vda": IoLimits("", limits)})
    assert take(shares, 0, vda=disk(), vdb=disk()) == {}
    now = disk(read_bytes=4000, write_bytes=1000, read_requests=200, write_requests=25)
    assert take(shares, 10, vda=now, vdb=now) == {
        ("vda", "total_bytes"): 0.5,
        ("vda", "read_requests"): 2.0,
        ("vda", "write_requests"): 0.25,
        ("vda", "write_bytes"): pytest.approx(1 / 3),
    }


def test_disks_of_a_group_share_their_limits():
    """Each of them shows what all together use, and nothing while one of them is unknown."""
    both = IoLimits("g", {"total_requests": 100})
    alone = IoLimits("", {"total_requests": 100})
    shares = LimitShares({"vda": both, "vdb": both, "vdc": alone})
    take(shares, 0, vda=disk(), vdb=disk(), vdc=disk())
    after = {name: disk(read_requests=100) for name in ("vda", "vdb", "vdc")}
    assert take(shares, 10, **after) == {
        ("vda", "total_requests"): 0.2,
        ("vdb", "total_requests"): 0.2,
        ("vdc", "total_requests"): 0.1,
    }
    del after["vdb"]
    assert take(shares, 20, **after) == {("vdc", "total_requests"): 0.0}


def test_readings_close_to_each_other_are_one():
    """Two polls within a moment say nothing of a burst: the share is since the first of them."""
    shares = LimitShares({"vda": IoLimits("", {"read_bytes": 10})})
    take(shares, 0, vda=disk())
    assert take(shares, 1, vda=disk(read_bytes=50)) == {}
    assert take(shares, 10, vda=disk(read_bytes=50)) == {("vda", "read_bytes"): 0.5}


def test_a_clock_that_is_set_gives_no_share():
    """Time that goes back, far or near, gives nothing, and the next reading a right one."""
    shares = LimitShares({"vda": IoLimits("", {"read_bytes": 10})})
    take(shares, 100, vda=disk())
    assert take(shares, 50, vda=disk(read_bytes=50)) == {}
    assert take(shares, 60, vda=disk(read_bytes=100)) == {("vda", "read_bytes"): 0.5}


def test_a_disk_that_is_plugged_again_begins_at_zero():
    """Counters that fall are those of a new disk, not a negative rate."""
    shares = LimitShares({"vda": IoLimits("", {"read_bytes": 10})})
    take(shares, 0, vda=disk(read_bytes=1000))
    assert take(shares, 10, vda=disk(read_bytes=20)) == {("vda", "read_bytes"): 0.2}

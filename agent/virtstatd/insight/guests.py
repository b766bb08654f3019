"""The rows of the table of guests, from what is current of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from virtstatd.insight.columns import Cell, GuestRow
from virtstatd.insight.figures import GuestFigures
from virtstatd.insight.lookup import Lookup


D: Final = "libvirt_domain"
M: Final = f"{D}_memory_stats"
RESPONSIVE: Final = "virtstatd_domain_responsive"
VCPU_TIME: Final = f"{D}_vcpu_time_seconds"
VCPU_DELAY: Final = f"{D}_vcpu_delay_seconds"
STATES: Final = frozenset(
    {"running", "blocked", "paused", "shutdown", "shutoff", "crashed", "pmsuspended"}
)
DISK_TIMES: Final = (
    f"{D}_block_stats_read_requests",
    f"{D}_block_stats_write_requests",
    f"{D}_block_stats_read_time_seconds",
    f"{D}_block_stats_write_time_seconds",
)
BALLOON_STALE_SECONDS: Final = 600.0
"""What the balloon driver reported longer ago is not current."""

AGE_DIGITS: Final = 1


@dataclass(frozen=True, slots=True)
class _Memo:
    """A row, the version of the guest that it was made of, and how long it holds."""

    version: int
    until: float
    row: GuestRow
    look: Lookup


def row_of(guest: GuestFigures, now: float, wall: float) -> GuestRow:
    """
    Return a guest's row without its findings, computed again only after a new reading.

    `wall` is the Unix time. The row is shared: copy it before a change.
    """
    return row_and_look(guest, now, wall)[0]


def row_and_look(guest: GuestFigures, now: float, wall: float) -> tuple[GuestRow, Lookup]:
    """Return the row as `row_of` does, and what it was made of."""
    memo = guest.memo
    if not (isinstance(memo, _Memo) and memo.version == guest.version and now < memo.until):
        look = guest.look(now)
        guest.memo = memo = _Memo(guest.version, look.until, _row(guest, look, wall), look)
    memo.row["age_seconds"] = age_of(guest, now)
    return memo.row, memo.look


def last_row(guest: GuestFigures, now: float, wall: float) -> GuestRow:
    """Return the row that was computed last, however old."""
    memo = guest.memo
    return memo.row if isinstance(memo, _Memo) else row_of(guest, now, wall)


def age_of(guest: GuestFigures, now: float) -> float | None:
    """Return the age of a guest's newest reading."""
    return round(max(0.0, now - guest.at), AGE_DIGITS) if guest.at else None


def _row(guest: GuestFigures, look: Lookup, wall: float) -> GuestRow:
    vcpus = vcpus_of(look)
    ran, waited = look.rate(VCPU_TIME), look.rate(VCPU_DELAY)
    if ran is None and not look.known(VCPU_TIME):
        ran = look.rate(f"{D}_info_cpu_time_seconds")
    pressure = {
        dict(labels).get("resource", ""): rate
        for labels, rate in look.rates(f"{D}_pressure_some_seconds")
    }
    latency, device = slowest_disk(look)
    return {
        "uuid": guest.domain.uuid,
        "name": guest.domain.name,
        "state": state_of(look),
        "stuck": is_stuck(look),
        "project": project_of(look),
        "vcpus": vcpus,
        "cpu_ratio": share(ran, vcpus),
        "steal_ratio": share(waited, vcpus),
        "steal_peak_ratio": look.value(f"{D}_steal_peak_ratio"),
        **memory_parts(look, wall),
        "memory_max_bytes": whole(look.value(f"{M}_maximum_bytes")),
        "memory_rss_bytes": whole(look.value(f"{M}_rss_bytes")),
        "disk_read_bytes_per_second": look.rate(f"{D}_block_stats_read_bytes"),
        "disk_write_bytes_per_second": look.rate(f"{D}_block_stats_write_bytes"),
        "disk_iops": added(
            look.rate(f"{D}_block_stats_read_requests"),
            look.rate(f"{D}_block_stats_write_requests"),
        ),
        "disk_latency_seconds": latency,
        "disk_latency_device": device,
        "net_receive_bytes_per_second": look.rate(f"{D}_interface_stats_receive_bytes"),
        "net_transmit_bytes_per_second": look.rate(f"{D}_interface_stats_transmit_bytes"),
        "pressure_cpu_ratio": pressure.get("cpu"),
        "pressure_io_ratio": pressure.get("io"),
        "pressure_memory_ratio": pressure.get("memory"),
        "partition": partition_named(look),
        "age_seconds": None,
        "findings": 0,
        "severity": "",
    }


def state_of(look: Lookup) -> str:
    """Return a guest's state by libvirt's name."""
    for labels in look.labels(f"{D}_info_state"):
        state = dict(labels).get("state", "")
        return state if state in STATES else "unknown"
    return "unknown"


def is_stuck(look: Lookup) -> bool:
    """Return whether a guest's monitor is known not to answer."""
    return look.value(RESPONSIVE) == 0


def vcpus_of(look: Lookup) -> int | None:
    """Return the number of a guest's virtual CPUs."""
    number = whole(look.value(f"{D}_vcpu_current"))
    return number or sum(1 for _ in look.labels(VCPU_TIME)) or None


def project_of(look: Lookup) -> str | None:
    """Return the project that is named in a guest's metadata."""
    for family in f"{D}_openstack_info", f"{D}_metadata_info":
        for labels in look.labels(family):
            names = dict(labels)
            if project := names.get("project_name") or names.get("project_id"):
                return project
    return None


def partition_named(look: Lookup) -> str | None:
    """Return a guest's resource partition."""
    for labels in look.labels(f"{D}_info"):
        return dict(labels).get("partition")
    return None


def balloon_age(look: Lookup, wall: float) -> float | None:
    """Return how old the balloon driver's numbers are, None where it never reported."""
    at = look.value(f"{M}_last_update_timestamp_seconds")
    return max(0.0, wall - at) if at else None


def memory_parts(look: Lookup, wall: float) -> dict[str, Cell]:
    """
    Return the parts of the memory that a guest has now: used by itself, its cache, and unused.

    Where its driver does not say what is usable, what is used has the cache in it. What is left of
    `memory_current_bytes` is its kernel's and the firmware's.
    """
    used = cache = None
    age = balloon_age(look, wall)
    stale = age is not None and age > BALLOON_STALE_SECONDS
    unused = None if stale else look.value(f"{M}_unused_bytes")
    usable = None if stale else look.value(f"{M}_usable_bytes")
    available = look.value(f"{M}_available_bytes")
    free = unused if usable is None else usable
    if available is not None and free is not None and free <= available:
        used = available - free
    if usable is not None and unused is not None:
        cache = max(0.0, usable - unused)
    return {
        "memory_used_bytes": whole(used),
        "memory_cache_bytes": whole(cache),
        "memory_unused_bytes": whole(unused),
        "memory_current_bytes": whole(look.value(f"{M}_current_balloon_bytes")),
    }


def slowest_disk(look: Lookup) -> tuple[float | None, str | None]:
    """Return the latency of the slowest disk that completed anything, and the disk."""
    worst, slowest = None, None
    for device, (reads, writes, reading, writing) in look.grown(DISK_TIMES, "target_device"):
        count, seconds = (reads or 0) + (writes or 0), (reading or 0) + (writing or 0)
        if count > 0 and (worst is None or seconds / count > worst):
            worst, slowest = seconds / count, device
    return worst, slowest


def share(rate: float | None, of: float | None) -> float | None:
    """Return a part of something, None where one of both is not known."""
    return rate / of if rate is not None and of else None


def added(*rates: float | None) -> float | None:
    """Return the sum, None where a part of it is not known."""
    total = 0.0
    for rate in rates:
        if rate is None:
            return None
        total += rate
    return total


def whole(number: float | None) -> int | None:
    """Return a number of things."""
    return None if number is None else round(number)

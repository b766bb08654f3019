"""What a guest says of itself through its agent, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtstatd.insight.document import Document, stamp
from virtstatd.insight.guests import D, share, whole
from virtstatd.insight.lookup import Lookup


G: Final = f"{D}_guest"
SIZE: Final = f"{G}_filesystem_size_bytes"
USED: Final = f"{G}_filesystem_used_bytes"
PERIOD: Final = f"{D}_memory_stats_period_seconds"

ALWAYS_FULL: Final = frozenset({"iso9660", "udf", "squashfs", "erofs", "cramfs", "romfs", "cdfs"})
"""Types of file systems that are never written to, in small letters."""

FULL_MAX: Final = 5
"""File systems of a guest that are findings at most: what a guest says may be a lie."""


def filesystems(look: Lookup) -> list[Document]:
    """Return each file system of the guest, as the guest says."""
    used = dict(look.values(USED))
    rows: list[Document] = []
    for labels, size in look.values(SIZE):
        facts = dict(labels)
        disks = facts.get("target_device", "")
        rows.append(
            {
                "mountpoint": facts.get("mountpoint", ""),
                "device": facts.get("device", ""),
                "type": facts.get("fstype", ""),
                "disks": disks.split(",") if disks else [],
                "size_bytes": whole(size),
                "used_bytes": whole(used.get(labels)),
                "used_ratio": share(used.get(labels), size),
            }
        )
    return rows


def fullness(look: Lookup, least: float) -> Iterator[tuple[str, float]]:
    """Yield the mount points that are full to so much at least, the first of them, and how full."""
    found = 0
    for each in filesystems(look) if look.known(SIZE) else ():
        ratio = each["used_ratio"]
        if ratio is not None and ratio >= least and each["type"].lower() not in ALWAYS_FULL:
            found += 1
            if found <= FULL_MAX:
                yield each["mountpoint"], ratio


def reports_no_memory(look: Lookup) -> bool:
    """Return whether the guest has a balloon that has no period to report in."""
    return look.value(PERIOD) == 0


def agent_of(look: Lookup) -> Document:
    """Return what the guest's agent says; null for what it does not, or without a query."""
    connected, responsive = look.value(f"{G}_agent_connected"), look.value(f"{G}_agent_responsive")
    return {
        "connected": None if connected is None else bool(connected),
        "responsive": None if responsive is None else bool(responsive),
        "os": _facts(look, f"{G}_os_info"),
        "hostname": _facts(look, f"{G}_hostname_info").get("hostname"),
        "timezone": _facts(look, f"{G}_timezone_info").get("timezone"),
        "load": [look.value(f"{G}_load_{minutes}") for minutes in ("1m", "5m", "15m")],
        "users": whole(look.value(f"{G}_users")),
        "logins": [_login(dict(labels), at) for labels, at in look.values(LOGIN)],
        "vcpus_online": whole(look.value(f"{G}_vcpus_online")),
        "addresses": [_address(dict(labels)) for labels in look.labels(f"{G}_interface_info")],
    }


LOGIN: Final = f"{G}_user_login_timestamp_seconds"


def _facts(look: Lookup, family: str) -> dict[str, str]:
    return next((dict(labels) for labels in look.labels(family)), {})


def _login(of: dict[str, str], at: float) -> Document:
    return {"user": of.get("user", ""), "since": stamp(round(at * 1e9))}


def _address(of: dict[str, str]) -> Document:
    names = ("interface", "mac_address", "address", "prefix")
    return {name: of.get(name) for name in names}

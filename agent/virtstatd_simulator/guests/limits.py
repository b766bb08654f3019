"""A guest's limits under libvirt's names: the default of each, and how to set one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from virtstatd_simulator.guests.events import TUNABLE
from virtstatd_simulator.guests.fields import (
    INT,
    LLONG,
    RANGES,
    STRING,
    UINT,
    ULLONG,
    Field,
    is_integer,
    parse_field,
)
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.guests.host import Host


UNLIMITED_KIB = 9007199254740991

SCHEDULER = (
    Field("cpu_shares", ULLONG, 1024),
    *(
        field
        for part in ("vcpu", "emulator", "global", "iothread")
        for field in (Field(f"{part}_period", ULLONG, 100000), Field(f"{part}_quota", LLONG, -1))
    ),
)
MEMORY = tuple(
    Field(name, ULLONG, UNLIMITED_KIB) for name in ("hard_limit", "soft_limit", "swap_hard_limit")
)
BLKIO = (
    Field("weight", UINT, 100),
    Field("device_weight", STRING, text=""),
    *(
        Field(f"device_{way}_{unit}_sec", STRING, text="")
        for unit in ("iops", "bytes")
        for way in ("read", "write")
    ),
)
NUMA = (Field("numa_mode", INT, 0), Field("numa_nodeset", STRING, text=""))
LIMITS = {field.name: field for field in (*SCHEDULER, *MEMORY, *BLKIO, *NUMA)}


def check_limit(name: str, value: object) -> None:
    """Check one limit; raises `ValueError` for a wrong name or value."""
    field = LIMITS.get(name)
    if field is None:
        raise ValueError(f"knows no {name}; limits are {', '.join(LIMITS)}")
    if field.type == STRING:
        if not isinstance(value, str):
            raise ValueError(f"needs a text for {name}")
        return
    low, high = RANGES[field.type]
    if not is_integer(value, low, high):
        raise ValueError(f"needs an integer from {low} to {high} for {name}")


def tune(host: Host, guest: Guest, limits: Mapping[str, int | str]) -> None:
    """Set limits that were checked; as in libvirt, only those of the scheduler send an event."""
    guest.tuned |= limits
    changed = [f for f in tuned(guest, SCHEDULER) if f.name in limits]
    if changed:
        host.send_event(guest, TUNABLE, [replace(f, name=f"cputune.{f.name}") for f in changed])


def tuned(guest: Guest, fields: Iterable[Field]) -> list[Field]:
    """Return fields with the values that were set, the others as they are."""
    return [
        parse_field(f.name, f.type, guest.tuned[f.name]) if f.name in guest.tuned else f
        for f in fields
    ]

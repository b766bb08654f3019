"""What one bulk call brought, and which of its groups ask the guests' monitors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from virtstatd.catalog import Group, shipped
from virtstatd.collect.bulk.control import Control
from virtstatd.model import Domain, Reading


POLLED: Final[dict[str, Group]] = {
    group.option: group
    for group in sorted(shipped().groups.values(), key=lambda group: group.bit)
    if group.bit
}
"""The groups of the bulk call by the names that `virsh domstats` has for them."""

MONITOR: Final = sum(group.bit for group in POLLED.values() if group.monitor)
"""The groups for which libvirt asks the guest's monitor, as libvirt's flags."""

SPARED: Final = {name: POLLED[name] for name in ("interface", "cpu_total", "vcpu", "balloon")}
"""The groups that hold little that the kernel does not have, as the configuration calls them."""

BALLOON: Final = POLLED["balloon"].bit
BLOCK: Final = POLLED["block"].bit


@dataclass(slots=True)
class Answer:
    """
    What one call brought; `taken_at` is Unix time in nanoseconds before it was made.

    `partial` are the domains that NOWAIT stepped over, with what libvirt says of their monitors;
    `stalled` those that were not polled, with the reason.
    """

    taken_at: int
    readings: list[Reading] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    partial: dict[str, Control | None] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    stalled: dict[str, str] = field(default_factory=dict)
    undecodable: dict[str, str] = field(default_factory=dict)

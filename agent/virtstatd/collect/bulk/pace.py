"""
Which groups of which guests are polled less often, because the kernel has nearly all of them.

Interfaces, CPU times and resident memory cost libvirt and QEMU milliseconds for each guest, and the
kernel collector microseconds. What libvirt alone has of these groups is `slow` in the catalog.
While the kernel collector reads the rest, such a group is polled at the interval of the tier extra,
the balloon more rarely.
That is decided for each guest and each group, again at every poll. Where the kernel has not all,
the group stays in its tier.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from virtstatd.catalog import shipped
from virtstatd.collect.bulk.answer import SPARED
from virtstatd.collect.bulk.options import slow_interval
from virtstatd.collect.parts import Left
from virtstatd.collect.tier import Tier
from virtstatd.hypervisor.arrivals import Arrival
from virtstatd.model import Domain, Shape


SLOW: Final = frozenset(line.field.family for line in shipped().fields if line.field and line.slow)
"""The metrics that may be polled slowly."""

CHANGES: Final = frozenset(
    {
        "balloon_change",
        "device_added",
        "device_removed",
        "memory_device_size_change",
        "vcpu_removed",
    }
)
"""Events after which everything of a guest is polled again at the next ticks."""

BITS: Final = {group.name: group.bit for group in SPARED.values()}

_NONE: Final[frozenset[str]] = frozenset()
_BALLOON: Final = SPARED["balloon"].name
_DISK: Final = "libvirt_domain_block_stats_backing_index"
_READS: Final = "libvirt_domain_block_stats_read_requests"


@dataclass(frozen=True, slots=True)
class _Slowly:
    """A group's last reading: when the group is polled again, and until when that is current."""

    domain: Domain
    shape: Shape
    again_at: float
    until: float


class Pace:
    """
    Decides for each guest and group whether a tier that is due polls it.

    `left` returns the part of a shape that the kernel does not read, and is None where it reads
    nothing. Groups of tiers that are `named` in the configuration are always polled. `seconds`
    returns the slow interval.
    """

    def __init__(
        self,
        left: Left | None,
        seconds: Callable[[], float],
        clock: Callable[[], float],
        named: Collection[str] = (),
    ) -> None:
        self._left = left
        self._seconds = seconds
        self._clock = clock
        self._named = frozenset(named)
        self._known: dict[str, dict[str, _Slowly]] = {}
        self._little: WeakKeyDictionary[Shape, bool] = WeakKeyDictionary()

    def counts(self) -> dict[str, int]:
        """Return of how many guests each group is polled slowly, nothing where none can be."""
        if self._left is None:
            return {}
        return {
            name: sum(group.name in known for known in self._known.values())
            for name, group in SPARED.items()
        }

    @property
    def spares(self) -> bool:
        """Whether any group of any guest may be left out of a poll."""
        return any(self._known.values())

    def keep(self, uuids: Iterable[str]) -> None:
        """Forget all guests but these, which run."""
        for uuid in self._known.keys() - set(uuids):
            del self._known[uuid]

    def reset(self) -> None:
        """Poll everything again: earlier readings are no longer current."""
        self._known.clear()

    def changed(self, arrival: Arrival, domain: Domain) -> None:
        """Poll everything of a guest again after an event that changes what is polled slowly."""
        if arrival.name in CHANGES:
            self._known.pop(domain.uuid, None)

    def lists(
        self, tiers: Sequence[Tier], uuids: list[str], bits: int
    ) -> list[tuple[int, list[str]]]:
        """Return which groups among `bits` are polled now, and of which guests."""
        if not self._known:
            return [(bits, uuids)]
        lists: dict[int, list[str]] = {bits: []}
        now = self._clock()
        lifetimes = {group: tier.lifetime() for tier in tiers for group in tier.groups}
        for uuid in uuids:
            wanted, known = bits, self._known.get(uuid, {})
            for group in lifetimes.keys() & known.keys():
                slowly = known[group]
                if not self._told(slowly.domain, slowly.shape):
                    del known[group]
                elif now < slowly.again_at and now + lifetimes[group] <= slowly.until:
                    wanted &= ~BITS[group]
            lists.setdefault(wanted, []).append(uuid)
        return [(wanted, of) for wanted, of in lists.items() if wanted and of]

    def slow(
        self, tier: Tier, told: Sequence[tuple[Domain, Shape]], lacking: Collection[str]
    ) -> dict[str, dict[str, float]]:
        """
        Return which groups of which guests are not polled again soon, and their lifetimes.

        `told` is what libvirt has answered; `lacking` are guests whose answer is not whole.
        """
        spared = BITS.keys() & tier.groups
        if self._left is None or not spared or tier.name in self._named:
            return {}
        now, lifetime = self._clock(), tier.lifetime()
        fixed = _not_spared(told)
        slow: dict[str, dict[str, float]] = {}
        for domain, shape in told:
            group = shape.group
            if group not in spared or domain.uuid in lacking:
                continue
            known = self._known.setdefault(domain.uuid, {})
            if (domain.uuid, group) in fixed or not self._told(domain, shape):
                known.pop(group, None)
                continue
            # guests take turns, so the first interval of each has another length
            share = 1.0 if group in known else zlib.crc32(domain.uuid.encode()) / 2**32
            seconds = slow_interval(group, self._seconds())
            again_at = now + share * seconds - tier.ticker.seconds / 2
            known[group] = _Slowly(domain, shape, again_at, now + seconds + lifetime)
            slow.setdefault(domain.uuid, {})[group] = seconds + lifetime
        return slow

    def _told(self, domain: Domain, shape: Shape) -> bool:
        """Return whether the kernel has all of a shape but what changes rarely."""
        left = self._left(domain, shape) if self._left else shape
        if left is None or left is shape:
            return left is None
        little = self._little.get(left)
        if little is None:
            little = self._little[left] = {s.field.family for s in left.series} <= SLOW
        return little


def _not_spared(told: Iterable[tuple[Domain, Shape]]) -> set[tuple[str, str]]:
    """
    Return groups that are always polled, each with its guest.

    Those have keys that the catalog does not know. The balloon's shows whether a monitor hangs,
    unless all disks do.
    """
    fixed: set[tuple[str, str]] = set()
    guests: set[str] = set()
    shown: set[str] = set()
    for domain, shape in told:
        guests.add(domain.uuid)
        if shape.group == "unknown":
            keys = [dict(series.labels).get("group", "") for series in shape.series]
            fixed.update((domain.uuid, group) for group in keys)
        elif shape.group == "block":
            families = [series.field.family for series in shape.series]
            if 0 < families.count(_DISK) <= families.count(_READS):
                shown.add(domain.uuid)
    fixed.update((uuid, _BALLOON) for uuid in guests - shown)
    return fixed

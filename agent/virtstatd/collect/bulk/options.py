"""The options of the bulk polls: three tiers, the groups that each polls, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta, Struct

from virtstatd.collect.bulk.answer import POLLED, SPARED


TIERS: Final = ("pulse", "monitor", "extra")
"""Their names, the one that asks the most of libvirt last."""

DEADLINE_LEAST_SECONDS: Final = 1.0
"""However short the interval, libvirt gets this long to answer."""

CALM: Final = 3
"""
In how many intervals of the tier extra a balloon is polled once that the kernel has.

The kernel reads its resident size, and events report each change of the rest but one: a statistics
period that is set at run time.
"""

CALM_SECONDS: Final = 600.0
"""A balloon is polled once in that time at least, unless the tier extra is slower."""

# the groups are those of the catalog: a new one of libvirt's is a new file there and nothing else
if TYPE_CHECKING:
    GroupName = str
else:
    GroupName = Literal[tuple(POLLED)]

Interval = Annotated[
    float, Meta(description="Seconds from one poll of this tier to the next.", ge=0.5, le=86400)
]
GroupNames = Annotated[
    tuple[GroupName, ...],
    Meta(
        description="Groups of statistics polled in this tier; an empty list turns it off. Groups"
        " that a file names are polled of all guests at this interval, whatever the kernel reads."
    ),
]


class UsualGroups(tuple[str, ...]):
    """The groups of a tier whose configuration does not name them."""

    __slots__ = ()


def _groups(tier: str) -> UsualGroups:
    return UsualGroups(name for name, group in POLLED.items() if group.tier == tier)


class TierOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is polled together, and how often."""

    interval_seconds: Interval
    groups: GroupNames

    @property
    def named(self) -> bool:
        """Whether the configuration names the groups, which are then polled of all guests alike."""
        return not isinstance(self.groups, UsualGroups)

    @property
    def bits(self) -> int:
        """The groups as libvirt's flags."""
        return sum(POLLED[name].bit for name in self.groups)


class PulseOptions(TierOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups that need no guest's monitor and therefore cannot block."""

    interval_seconds: Interval = 5.0
    groups: GroupNames = _groups("pulse")


class MonitorOptions(TierOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups that libvirt must query from each guest's QEMU, over its monitor."""

    interval_seconds: Interval = 15.0
    groups: GroupNames = _groups("monitor")
    backing_chains: Annotated[
        bool,
        Meta(
            description="Report the sizes of each layer of the disks' backing chains, with the"
            " label `index`: five series per layer, without another query to QEMU."
        ),
    ] = False


class ExtraOptions(TierOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups polled apart, because in libvirt 9 an error in one guest fails the whole call."""

    interval_seconds: Interval = 60.0
    groups: GroupNames = _groups("extra")


class PollOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The three tiers; those that are due together travel in one call."""

    pulse: PulseOptions = PulseOptions()
    monitor: MonitorOptions = MonitorOptions()
    extra: ExtraOptions = ExtraOptions()


def deadline(configured: float, interval: float) -> float:
    """Return after how long a call is abandoned: what is polled again must be of the same cycle."""
    return max(DEADLINE_LEAST_SECONDS, min(configured, interval / 2))


def deadlines(poll: PollOptions, configured: float) -> dict[str, float]:
    """Return the deadline of each tier that is on; monitor and extra may travel together."""
    on = {name: getattr(poll, name) for name in TIERS if getattr(poll, name).groups}
    shared = [tier.interval_seconds for name, tier in on.items() if name != "pulse"]
    return {
        name: deadline(configured, tier.interval_seconds if name == "pulse" else min(shared))
        for name, tier in on.items()
    }


def slow_interval(group: str, extra_seconds: float) -> float:
    """Return how often a group is polled that the kernel has, by the interval of the tier extra."""
    if group == "balloon":
        return min(CALM * extra_seconds, max(extra_seconds, CALM_SECONDS))
    return extra_seconds


def note(poll: PollOptions) -> str:
    """Return what naming the groups of tiers costs, empty where none could be spared."""
    named = [name for name in TIERS if getattr(poll, name).named]
    spared = {
        name: [group for group in getattr(poll, name).groups if group in SPARED] for name in named
    }
    parts = [f"poll.{name} names {', '.join(groups)}" for name, groups in spared.items() if groups]
    if not parts:
        return ""
    return (
        f"{'; '.join(parts)}: polled of all guests at that interval. Without `groups` they are"
        f" polled every {poll.extra.interval_seconds:g} s or more rarely where the kernel collector"
        " reads them; `virtstatd doctor` counts the guests"
    )

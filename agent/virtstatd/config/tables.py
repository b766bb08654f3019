"""
The tables of the configuration file: every option with its description, bounds and default.

The shipped reference file and the tables of the README are generated from these classes, so this
is the only place where an option is written.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct


# VIR_DOMAIN_STATS_* of libvirt-domain.h, by the names that `virsh domstats` has for them
GROUP_BITS: Final = {
    "state": 1,
    "cpu_total": 2,
    "balloon": 4,
    "vcpu": 8,
    "interface": 16,
    "block": 32,
    "perf": 64,
    "iothread": 128,
    "memory": 256,
    "dirtyrate": 512,
    "vm": 1024,
}
Group = Literal[
    "state",
    "cpu_total",
    "balloon",
    "vcpu",
    "interface",
    "block",
    "perf",
    "iothread",
    "memory",
    "dirtyrate",
    "vm",
]
MONITORLESS: Final = ("state", "interface", "perf", "memory")

Interval = Annotated[
    float, Meta(description="Seconds from one poll of this tier to the next.", ge=0.5, le=86400)
]
Groups = Annotated[
    tuple[Group, ...],
    Meta(description="Groups of statistics asked in this tier; an empty list turns it off."),
]


class Hypervisor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The connection to libvirt."""

    uri: Annotated[
        str, Meta(description="Any libvirt URI; empty finds the local read-only socket by itself.")
    ] = ""
    lanes: Annotated[
        int, Meta(description="Calls to libvirt that may run side by side.", ge=1, le=3)
    ] = 2
    slice_domains: Annotated[
        int, Meta(description="Guests asked for in one call.", ge=1, le=10000)
    ] = 25
    deadline_seconds: Annotated[
        float, Meta(description="Time after which a call is abandoned.", ge=0.5, le=300)
    ] = 5.0
    keepalive_seconds: Annotated[
        int,
        Meta(description="Silence after which libvirt is asked for a sign of life.", ge=1, le=300),
    ] = 5
    keepalive_count: Annotated[
        int,
        Meta(description="Signs of life missed before the connection counts as dead.", ge=1, le=20),
    ] = 3


class Tier(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked together, and how often."""

    interval_seconds: Interval
    groups: Groups

    @property
    def bits(self) -> int:
        """The groups as libvirt's flags."""
        return sum(GROUP_BITS[group] for group in self.groups)


class Pulse(Tier, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups that need no guest's monitor and therefore cannot block."""

    interval_seconds: Interval = 5.0
    groups: Groups = ("state", "interface", "perf", "memory")


class Monitor(Tier, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups that every guest's monitor is asked for."""

    interval_seconds: Interval = 15.0
    groups: Groups = ("cpu_total", "balloon", "vcpu", "block")


class Extra(Tier, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups where, with libvirt 9, one guest's failure fails the call for all."""

    interval_seconds: Interval = 60.0
    groups: Groups = ("iothread", "dirtyrate", "vm")


class Poll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The three tiers; those that are due together travel in one call."""

    pulse: Pulse = Pulse()
    monitor: Monitor = Monitor()
    extra: Extra = Extra()


class CpuStats(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CPU time of every guest on each CPU of the host, where its cgroups are of version 1."""

    enabled: Annotated[
        bool, Meta(description="Ask for it: three numbers per guest and CPU, a guest at a time.")
    ] = False
    interval_seconds: Annotated[
        float, Meta(description="Seconds from one poll of them to the next.", ge=1, le=86400)
    ] = 60.0


class Local(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the kernel itself tells about the guests of this host, without asking libvirt."""

    enabled: Annotated[
        bool, Meta(description="Read it; without effect where the hypervisor is remote.")
    ] = True
    interval_seconds: Annotated[
        float, Meta(description="Seconds from one look at the guests to the next.", ge=0.5, le=60)
    ] = 1.0
    cgroup_interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds in which each guest's cgroup (CPU, pressure, memory, I/O) is read"
            " once, some guests' at each look.",
            ge=0.5,
            le=300,
        ),
    ] = 5.0
    peak_seconds: Annotated[
        float,
        Meta(description="Time for which the highest share of a second is shown.", ge=1, le=3600),
    ] = 60.0

    @property
    def cgroup_looks(self) -> int:
        """In how many looks each guest's cgroup is read once."""
        return max(1, round(self.cgroup_interval_seconds / self.interval_seconds))


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the polling may cost the host; beyond it monitor and extra are asked less often."""

    host_cpu_percent: Annotated[
        float,
        Meta(
            description="Share of all CPUs together that agent, libvirt and QEMU may spend on the"
            " polling; 0 sets no limit.",
            ge=0,
            le=100,
        ),
    ] = 1.0


class Labels(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels on every series of a guest, beside its name."""

    uuid: Annotated[bool, Meta(description="Add the guest's UUID as the label `uuid`.")] = False


class Agent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent itself."""

    interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds between two batches of the agent's own numbers.", ge=0.5, le=3600
        ),
    ] = 15.0
    drain_seconds: Annotated[
        float,
        Meta(description="Time for the sinks to empty their buffers at the end.", ge=0, le=25),
    ] = 5.0
    state_directory: Annotated[
        str,
        Meta(
            description="Directory of the spools; empty takes systemd's, else /var/lib/virtstatd."
        ),
    ] = ""


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe entry that is written: debug, info, warning or error."),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="json, console, or auto: console on a terminal and json elsewhere."),
    ] = "auto"


class OutletConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The buffer in front of a sink; every sink has these options."""

    buffer_bytes: Annotated[
        int,
        Meta(
            description="Memory for batches that wait; the oldest is dropped when it is full.",
            ge=1 << 16,
            le=1 << 32,
        ),
    ] = 16 << 20
    attempt_seconds: Annotated[
        float, Meta(description="Time that one attempt to send may take.", ge=0.1, le=600)
    ] = 10.0
    max_age_seconds: Annotated[
        float,
        Meta(
            description="Age at which a batch that waits is given up; 0 is 15 minutes, with a spool"
            " a day, or less where the sink's receivers refuse what is older.",
            ge=0,
            le=604800,
        ),
    ] = 0.0
    spool_bytes: Annotated[
        int,
        Meta(
            description="Disk for batches that wait, so that they outlive the agent; 0 is none.",
            ge=0,
            le=1 << 40,
        ),
    ] = 0
    spool_sync: Annotated[
        Literal["none", "interval", "batch"],
        Meta(
            description="When the disk is made to write what a power cut would lose: none leaves it"
            " to the kernel, interval is each second, batch is each batch."
        ),
    ] = "interval"


class SinkHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a `[[sink]]` table says before its type's own options."""

    type: Annotated[str, Meta(description="Kind of the sink; `virtstatd sinks` lists them.")]
    name: Annotated[
        str,
        Meta(
            description="Name in labels and in the log, one per sink; empty takes the type.",
            title="1 to 64 letters, digits, dots, dashes and underscores",
            pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?\Z",
        ),
    ] = ""


TABLES: Final[dict[str, type]] = {
    "hypervisor": Hypervisor,
    "poll": Poll,
    "cpu_stats": CpuStats,
    "local": Local,
    "budget": Budget,
    "labels": Labels,
    "agent": Agent,
    "log": Log,
}

"""
The tables of the configuration file: every option with its description, bounds and default.

The shipped reference file and the tables of the README are generated from these classes, so this
is the only place where an option is written.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from virtstatd.config.kinds import KINDS


NAME_TITLE: Final = "1 to 64 letters, digits, dots, dashes and underscores"
NAME_PATTERN: Final = r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?\Z"


class HypervisorOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
        float,
        Meta(
            description="Time after which a call is abandoned, or half of the interval if less.",
            ge=0.5,
            le=300,
        ),
    ] = 5.0
    keepalive_seconds: Annotated[
        int,
        Meta(description="Silence after which libvirt is asked for a sign of life.", ge=1, le=300),
    ] = 5
    keepalive_count: Annotated[
        int,
        Meta(description="Signs of life missed before the connection counts as dead.", ge=1, le=20),
    ] = 3


class BudgetOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class LabelsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels on every series of a guest, beside its name."""

    uuid: Annotated[bool, Meta(description="Add the guest's UUID as the label `uuid`.")] = False


class AgentOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class LogOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe entry that is written: debug, info, warning or error."),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="json, console, or auto: console on a terminal and json elsewhere."),
    ] = "auto"


class OutletOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    catch_up_bytes_per_second: Annotated[
        int,
        Meta(
            description="Most bytes a second, as `buffer_bytes` counts them, while what waits is"
            " older than two intervals; 0 is as fast as the destination takes them.",
            ge=0,
        ),
    ] = 0
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
            title=NAME_TITLE,
            pattern=NAME_PATTERN,
        ),
    ] = ""


class CollectorHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a `[[collector]]` table says before its type's own options."""

    type: Annotated[
        str, Meta(description="Kind of the collector, from a package that is installed beside.")
    ]
    name: Annotated[
        str,
        Meta(
            description="Name in series and in the log, one per collector; empty takes the type.",
            title=NAME_TITLE,
            pattern=NAME_PATTERN,
        ),
    ] = ""
    silent_seconds: Annotated[
        float,
        Meta(
            description="Seconds without a batch after which it is reported as failed; 0 is never.",
            ge=0,
            le=86400,
        ),
    ] = 300.0


TABLES: Final[dict[str, type]] = {
    "hypervisor": HypervisorOptions,
    **{kind.table: kind.options for kind in KINDS if kind.options is not None},
    "budget": BudgetOptions,
    "labels": LabelsOptions,
    "agent": AgentOptions,
    "log": LogOptions,
}

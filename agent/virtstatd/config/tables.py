"""
The tables of the configuration file: every option with its description, bounds and default.

The shipped reference file and the tables of the README are generated from these classes, so each
option is defined only here.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from virtstatd.config.kinds import KINDS
from virtstatd.hypervisor.filter import FilterOptions
from virtstatd.serving.options import WebOptions


NAME_TITLE: Final = "1 to 64 letters, digits, dots, dashes and underscores"
NAME_PATTERN: Final = r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?\Z"


class HypervisorOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The connection to libvirt."""

    uri: Annotated[
        str,
        Meta(description="Any libvirt URI; empty finds the local read-only socket."),
    ] = ""
    lanes: Annotated[
        int,
        Meta(
            description="Calls to libvirt that may run in parallel: so many that query guests'"
            " monitors, and as many others, but four in all",
            ge=1,
            le=3,
        ),
    ] = 2
    slice_domains: Annotated[
        int, Meta(description="Guests polled in one call.", ge=1, le=10000)
    ] = 25
    deadline_seconds: Annotated[
        float,
        Meta(
            description="Seconds after which a call is abandoned, or half of the interval if less.",
            ge=0.5,
            le=300,
        ),
    ] = 5.0
    keepalive_seconds: Annotated[
        int,
        Meta(description="Idle seconds before a keepalive probe is sent to libvirt.", ge=1, le=300),
    ] = 5
    keepalive_count: Annotated[
        int,
        Meta(
            description="Unanswered keepalive probes before the connection counts as dead.",
            ge=1,
            le=20,
        ),
    ] = 3


class BudgetOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on the CPU that polling uses and on the series of guests."""

    host_cpu_percent: Annotated[
        float,
        Meta(
            description="CPU that polling may use, in percent of all host CPUs, counting the"
            " agent, libvirt and QEMU. Beyond it, polls are less frequent; 0 sets no limit.",
            ge=0,
            le=100,
        ),
    ] = 1.0
    series_per_guest: Annotated[
        int,
        Meta(
            description="Series that one guest may have. Beyond it whole groups are left out,"
            " the least important first; 0 sets no limit.",
            ge=0,
            le=10_000_000,
        ),
    ] = 20_000
    series_per_host: Annotated[
        int,
        Meta(
            description="Series that all guests together may have. Beyond it groups are left out"
            " of every guest; 0 sets no limit.",
            ge=0,
            le=100_000_000,
        ),
    ] = 5_000_000


class LabelsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels on every series of a guest, besides its name."""

    uuid: Annotated[bool, Meta(description="Add the guest's UUID as the label `uuid`.")] = False


class AgentOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent itself."""

    interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds between two batches of the agent's own metrics.", ge=0.5, le=3600
        ),
    ] = 15.0
    drain_seconds: Annotated[
        float,
        Meta(description="Seconds for the sinks to flush their queues at shutdown.", ge=0, le=25),
    ] = 5.0
    state_directory: Annotated[
        str,
        Meta(description="Directory of the spools; empty is systemd's, else /var/lib/virtstatd."),
    ] = ""


class LogOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Lowest level that is logged: debug, info, warning or error."),
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
            description="Memory for waiting batches; the oldest is dropped when it is full.",
            ge=1 << 16,
            le=1 << 32,
        ),
    ] = 32 << 20
    attempt_seconds: Annotated[
        float, Meta(description="Seconds that one attempt to send may take.", ge=0.1, le=600)
    ] = 10.0
    max_age_seconds: Annotated[
        float,
        Meta(
            description="Seconds after which an undelivered batch is dropped. 0 is 15 minutes,"
            " one day with a spool, or less if the receiver refuses older samples.",
            ge=0,
            le=604800,
        ),
    ] = 0.0
    catch_up_bytes_per_second: Annotated[
        int,
        Meta(
            description="Most bytes a second while waiting batches are older than two intervals,"
            " counted as for `buffer_bytes`. 0 is no limit.",
            ge=0,
        ),
    ] = 0
    spool_bytes: Annotated[
        int,
        Meta(
            description="Disk space for waiting batches, which then survive a restart; 0 is none.",
            ge=0,
            le=1 << 40,
        ),
    ] = 0
    spool_sync: Annotated[
        Literal["none", "interval", "batch"],
        Meta(
            description="When to fsync the spool: none (the kernel decides), interval (each second)"
            " or batch (each batch)."
        ),
    ] = "interval"


Patterns = tuple[Annotated[str, Meta(min_length=1)], ...]


class RouteOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of all numbers that goes to a sink; every sink has these options."""

    profile: Annotated[
        Literal["full", "lean"],
        Meta(
            description="full is every metric, lean the third that most dashboards and alerts need;"
            " `virtstatd fields --profile lean` lists it."
        ),
    ] = "full"
    keep: Annotated[
        Patterns,
        Meta(
            description="Metrics that are sent, by name as on the page; * and ? are allowed."
            " With the profile lean, they are added to it. Empty is all of the profile."
        ),
    ] = ()
    drop: Annotated[
        Patterns,
        Meta(
            description="Metrics that are not sent, by name in the same way, even if"
            " `keep` has them."
        ),
    ] = ()
    groups: Annotated[
        Patterns,
        Meta(description="Groups that are sent, as JSON lines call them; empty is all."),
    ] = ()
    collectors: Annotated[
        Patterns,
        Meta(description="Collectors whose numbers are sent, as in `virtstatd_collector_success`."),
    ] = ()
    domains: Annotated[
        Patterns,
        Meta(
            description="Guests that are sent, by name; * and ? are allowed. Series of no guest"
            " are sent as well. Empty is all."
        ),
    ] = ()
    interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds in which each series is sent once, with its last number. 0"
            " sends each number as it is read.",
            ge=0,
            le=3600,
        ),
    ] = 0.0
    labels: Annotated[
        Annotated[Patterns, Meta(max_length=10)],
        Meta(
            description="Labels of a guest's info series, such as project_name, that are copied"
            " onto all of its series: at most 10, of 128 characters each."
        ),
    ] = ()


class SinkHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of every `[[sink]]` table, besides its type's own."""

    type: Annotated[str, Meta(description="Kind of the sink; `virtstatd sinks` lists them.")]
    name: Annotated[
        str,
        Meta(
            description="Name in labels and in the log, unique; empty is the type.",
            title=NAME_TITLE,
            pattern=NAME_PATTERN,
        ),
    ] = ""


class CollectorHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of every `[[collector]]` table, besides its type's own."""

    type: Annotated[str, Meta(description="Kind of the collector, from an installed package.")]
    name: Annotated[
        str,
        Meta(
            description="Name in series and in the log, unique; empty is the type.",
            title=NAME_TITLE,
            pattern=NAME_PATTERN,
        ),
    ] = ""
    silent_seconds: Annotated[
        float,
        Meta(
            description="Seconds without a batch after which the collector is reported as"
            " failed; 0 is never.",
            ge=0,
            le=86400,
        ),
    ] = 300.0


TABLES: Final[dict[str, type]] = {
    "hypervisor": HypervisorOptions,
    **{kind.table: kind.options for kind in KINDS if kind.options is not None},
    "budget": BudgetOptions,
    "labels": LabelsOptions,
    "filter": FilterOptions,
    "web": WebOptions,
    "agent": AgentOptions,
    "log": LogOptions,
}

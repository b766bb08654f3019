"""The options of the table `[guest_agent]`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class GuestAgentOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What guests report through qemu-guest-agent; needs a read-write connection."""

    enabled: Annotated[
        bool,
        Meta(
            description="Query file systems, load, users, system and addresses. The connection"
            " for it could change guests, but never does; the agent's user needs the group libvirt."
        ),
    ] = False
    cpu: Annotated[
        bool,
        Meta(
            description="Also query CPU times as guests count them. Libvirt has no call for"
            " that, so the command goes to the guest's agent directly, and libvirt marks the"
            " guest as tainted."
        ),
    ] = False
    interval_seconds: Annotated[
        float, Meta(description="Seconds between two queries of load and users.", ge=1, le=86400)
    ] = 60.0
    filesystems_interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds between two queries of file systems, addresses and the rest.",
            ge=1,
            le=86400,
        ),
    ] = 300.0
    limit_seconds: Annotated[
        float,
        Meta(description="Seconds that one query of a guest may take.", ge=0.5, le=60),
    ] = 5.0
    hanging_calls: Annotated[
        int,
        Meta(
            description="Queries that may hang in libvirt at a time; each holds one of its"
            " workers (max_workers). Beyond that no guest is queried until one returns.",
            ge=1,
            le=10,
        ),
    ] = 3
    response_timeout_seconds: Annotated[
        int,
        Meta(
            description="Set after how many seconds libvirt ends a query of a guest's agent, so"
            " that none hangs longer; 0 changes nothing. It holds until the guest ends, for"
            " other programs too: a freeze for a backup may take long.",
            ge=0,
            le=3600,
        ),
    ] = 0
    devices_per_guest: Annotated[
        int,
        Meta(
            description="Most file systems, disks, addresses and users of a guest that are"
            " reported; the rest is counted.",
            ge=1,
            le=1000,
        ),
    ] = 50
    set_balloon_period: Annotated[
        bool,
        Meta(
            description="Set the period of balloon drivers that have none, so that guests report"
            " their memory. This changes the configuration of the guest's current run; it works"
            " without the other options."
        ),
    ] = False
    balloon_period_seconds: Annotated[
        int, Meta(description="Seconds of the period that is set.", ge=1, le=3600)
    ] = 10

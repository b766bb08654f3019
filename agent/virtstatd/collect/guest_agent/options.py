"""The options of the table `[guest_agent]`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class GuestAgentOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What guests say of themselves through qemu-guest-agent; needs a read-write connection."""

    enabled: Annotated[
        bool,
        Meta(
            description="Ask: file systems, load, users, system, addresses. Opens a connection that"
            " could change guests, and never does; the agent's user needs the group libvirt."
        ),
    ] = False
    cpu: Annotated[
        bool,
        Meta(
            description="Ask for CPU times as guests count them too. Libvirt has no call for that:"
            " the agent gets the command itself, and libvirt marks the guest as tainted."
        ),
    ] = False
    interval_seconds: Annotated[
        float, Meta(description="Seconds between two questions for load and users.", ge=1, le=86400)
    ] = 60.0
    filesystems_interval_seconds: Annotated[
        float,
        Meta(
            description="Seconds between two questions for file systems, addresses and the rest.",
            ge=1,
            le=86400,
        ),
    ] = 300.0
    limit_seconds: Annotated[
        float,
        Meta(description="Seconds that one question to a guest may take.", ge=0.5, le=60),
    ] = 5.0
    hanging_calls: Annotated[
        int,
        Meta(
            description="Questions that may hang in libvirt at a time, each holding one of its"
            " workers (max_workers); beyond that no guest is asked until one returns.",
            ge=1,
            le=10,
        ),
    ] = 3
    devices_per_guest: Annotated[
        int,
        Meta(
            description="File systems, disks, addresses and users of a guest that are reported, of"
            " each so many; the rest is counted.",
            ge=1,
            le=1000,
        ),
    ] = 50
    set_balloon_period: Annotated[
        bool,
        Meta(
            description="Set the period of balloon drivers that have none, so that guests report"
            " their memory. Changes the guest's configuration of its current run; works alone."
        ),
    ] = False
    balloon_period_seconds: Annotated[
        int, Meta(description="The period that is set.", ge=1, le=3600)
    ] = 10

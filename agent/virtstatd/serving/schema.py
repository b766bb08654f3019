"""
The documents of the API as types, from which its JSON schema is made.

All numbers are in base units: seconds, bytes, ratios (1 is 100 %), each per second. What is not
known is null. Further keys may come; none is renamed or removed within a version.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType


Time = Annotated[str, Meta(description="ISO 8601 in UTC with milliseconds.")]
Ratio = Annotated[float | None, Meta(description="1 is 100 %; null is not known.")]
Size = Annotated[int | None, Meta(description="Bytes; null is not known.")]
Rate = Annotated[float | None, Meta(description="Per second; null is not known.")]
Seconds = Annotated[float | None, Meta(description="Seconds; null is not known.")]
Count = int | None


class _Head(Struct, kw_only=True):
    version: Literal[1]
    time: Time


class HistoryJson(Struct):
    """
    The last hour: a number for each step from `begin` on, which is Unix time.

    That of a guest has also those of each of its first disks.
    """

    begin: int
    step_seconds: int
    series: dict[str, list[float | None]]
    disks: dict[str, dict[str, list[float | None]]] | UnsetType = UNSET


class LibvirtJson(Struct):
    """Whether libvirt answers, and for how many guests it does not."""

    up: bool
    version: str | None
    unresponsive: int


class GuestCountsJson(Struct):
    """Numbers of guests."""

    active: int
    running: int
    paused: int
    stopped: Count
    stuck: int


class FindingCountsJson(Struct):
    """Numbers of findings."""

    critical: int
    warning: int


class HostCpuJson(Struct):
    """Shares of all CPUs of the host."""

    count: Count
    used_ratio: Ratio
    guests_ratio: Ratio
    steal_ratio: Ratio


class HostMemoryJson(Struct):
    """Memory of the host, and how much of it guests hold."""

    total_bytes: Size
    available_bytes: Size
    guests_bytes: Size


class PressureJson(Struct):
    """Shares of time in which something waited."""

    cpu: Ratio
    io: Ratio
    memory: Ratio


class HostDiskJson(Struct):
    """Sums over the disks of all guests."""

    read_bytes_per_second: Rate
    write_bytes_per_second: Rate
    iops: Rate


class HostNetworkJson(Struct):
    """Sums over the interfaces of all guests."""

    receive_bytes_per_second: Rate
    transmit_bytes_per_second: Rate


class PartitionJson(Struct):
    """A resource partition; ratios are of all CPUs of the host, its limit included."""

    path: str
    depth: int
    guests: Count
    cpu_ratio: Ratio
    cpu_limit_ratio: Ratio
    throttled_ratio: Ratio
    memory_bytes: Size
    memory_limit_bytes: Size
    pressure_cpu: Ratio
    pressure_io: Ratio
    pressure_memory: Ratio


class PoolJson(Struct):
    """A storage pool of libvirt's; sizes are those of its last refresh."""

    name: str
    state: str | None
    type: str | None
    source: str | None
    hangs: bool
    capacity_bytes: Size
    allocation_bytes: Size
    available_bytes: Size
    volumes: Count
    available_ratio: Ratio
    volumes_in_use: Count


class NetworkJson(Struct):
    """A virtual network of libvirt's."""

    name: str
    active: bool
    bridge: str | None
    forward: str | None
    ports: Count


class HostJson(_Head, kw_only=True):
    """`/api/v1/host`: the host, and sums over its guests."""

    host: str
    agent_version: str
    uri: str
    libvirt: LibvirtJson
    guests: GuestCountsJson
    age_seconds: Seconds
    findings: FindingCountsJson
    cpu: HostCpuJson
    memory: HostMemoryJson
    pressure: PressureJson
    disk: HostDiskJson
    network: HostNetworkJson
    partitions: list[PartitionJson]
    storage_pools: list[PoolJson]
    networks: list[NetworkJson]
    history: HistoryJson | UnsetType = UNSET


class GuestJson(Struct, kw_only=True):
    """A guest's row; only the columns of the request."""

    uuid: str
    name: str | UnsetType = UNSET
    state: (
        Literal[
            "running",
            "blocked",
            "paused",
            "shutdown",
            "shutoff",
            "crashed",
            "pmsuspended",
            "unknown",
        ]
        | UnsetType
    ) = UNSET
    stuck: bool | UnsetType = UNSET
    project: str | UnsetType | None = UNSET
    vcpus: Count | UnsetType = UNSET
    cpu_ratio: Ratio | UnsetType = UNSET
    steal_ratio: Ratio | UnsetType = UNSET
    steal_peak_ratio: Ratio | UnsetType = UNSET
    memory_used_bytes: Size | UnsetType = UNSET
    memory_cache_bytes: Size | UnsetType = UNSET
    memory_unused_bytes: Size | UnsetType = UNSET
    memory_current_bytes: Size | UnsetType = UNSET
    memory_max_bytes: Size | UnsetType = UNSET
    memory_rss_bytes: Size | UnsetType = UNSET
    disk_read_bytes_per_second: Rate | UnsetType = UNSET
    disk_write_bytes_per_second: Rate | UnsetType = UNSET
    disk_iops: Rate | UnsetType = UNSET
    disk_latency_seconds: Seconds | UnsetType = UNSET
    disk_latency_device: str | UnsetType | None = UNSET
    net_receive_bytes_per_second: Rate | UnsetType = UNSET
    net_transmit_bytes_per_second: Rate | UnsetType = UNSET
    pressure_cpu_ratio: Ratio | UnsetType = UNSET
    pressure_io_ratio: Ratio | UnsetType = UNSET
    pressure_memory_ratio: Ratio | UnsetType = UNSET
    partition: str | UnsetType | None = UNSET
    age_seconds: Seconds | UnsetType = UNSET
    findings: int | UnsetType = UNSET
    severity: Literal["", "warning", "critical"] | UnsetType = UNSET


class ColumnJson(Struct):
    """A column of the table of guests, and the kind of finding that its numbers begin."""

    id: str
    title: str
    unit: Literal["ratio", "bytes", "bytes_per_second", "per_second", "seconds", "count", "text"]
    help: str
    finding: str | None


class GuestsJson(_Head, kw_only=True):
    """`/api/v1/guests`: the table; `matched` of `total` guests pass the filter."""

    total: int
    matched: int
    columns: list[ColumnJson]
    guests: list[GuestJson]


class FoundGuestJson(Struct):
    """The guest that a finding is about."""

    uuid: str
    name: str


class FindingJson(Struct, kw_only=True):
    """Something that hurts; `until` is when it ended."""

    id: str
    finding: str
    severity: Literal["warning", "critical"]
    since: Time
    until: Time | UnsetType = UNSET
    guest: FoundGuestJson | None
    device: str | None
    value: float
    threshold: float
    unit: Literal["ratio", "bytes", "bytes_per_second", "per_second", "seconds", "count"]
    text: str
    advice: str


class FindingKindJson(Struct):
    """A kind of finding: from which value on, or with `below` up to which, something hurts."""

    finding: str
    severity: Literal["warning", "critical"]
    unit: Literal["ratio", "bytes", "bytes_per_second", "per_second", "seconds", "count"]
    threshold: float
    critical: float | None
    below: bool
    hold_seconds: float


class FindingsJson(_Head, kw_only=True):
    """
    `/api/v1/findings`: critical first, then the longest; `recent` are the last that ended.

    The live stream leaves out `kinds`, which never change.
    """

    findings: list[FindingJson]
    recent: list[FindingJson]
    kinds: list[FindingKindJson] | UnsetType = UNSET


class IncarnationJson(Struct):
    """The run of a guest: `since` if the agent saw it begin, `started` by the kernel."""

    id: int
    since: Time | None
    started: Time | None
    pid: Count


class VcpuJson(Struct):
    """
    A vCPU: shares of time that it ran, waited for a CPU, and waited for I/O of the host.

    `current_cpu` is the CPU of the host that it ran on last; `affinity` lists those that it may.
    """

    vcpu: str
    cpu_ratio: Ratio
    steal_ratio: Ratio
    wait_ratio: Ratio
    current_cpu: Count
    affinity_cpus: Count
    affinity: str | None


class NumaNodeJson(Struct):
    """A guest's memory on a NUMA node of its host."""

    node: str
    bytes: Size


class GuestMemoryJson(Struct):
    """Memory of a guest, from its balloon driver, except for the resident part."""

    max_bytes: Size
    current_bytes: Size
    used_bytes: Size
    available_bytes: Size
    unused_bytes: Size
    usable_bytes: Size
    cache_bytes: Size
    swap_in_bytes_per_second: Rate
    swap_out_bytes_per_second: Rate
    rss_bytes: Size
    huge_pages_bytes: Size
    numa_nodes: list[NumaNodeJson]


class BucketJson(Struct):
    """How many requests took `le` seconds at most; null is any time."""

    le: float | None
    count: int


class DiskJson(Struct):
    """A disk of a guest; latencies are means of the last interval."""

    device: str
    source: str | None
    storage_type: str | None
    storage: str | None
    error: str | None
    read_bytes_per_second: Rate
    write_bytes_per_second: Rate
    read_iops: Rate
    write_iops: Rate
    flush_iops: Rate
    read_latency_seconds: Seconds
    write_latency_seconds: Seconds
    flush_latency_seconds: Seconds
    capacity_bytes: Size
    allocation_bytes: Size
    errors_per_second: Rate
    limits: dict[str, float]
    at_limit_ratio: Ratio
    histograms: dict[str, list[BucketJson]]


class NicJson(Struct):
    """An interface of a guest, as the guest sees it, with the limits of its bandwidth."""

    device: str
    source: str | None
    source_type: str | None
    mac_address: str | None
    model: str | None
    vlan: str | None
    limits: dict[str, float]
    receive_bytes_per_second: Rate
    transmit_bytes_per_second: Rate
    receive_packets_per_second: Rate
    transmit_packets_per_second: Rate
    receive_drops_per_second: Rate
    transmit_drops_per_second: Rate
    receive_errors_per_second: Rate
    transmit_errors_per_second: Rate


class FilesystemJson(Struct):
    """A file system of a guest, as the guest reports it; `disks` are those of the domain."""

    mountpoint: str
    device: str
    type: str
    disks: list[str]
    size_bytes: Size
    used_bytes: Size
    used_ratio: Ratio


class LoginJson(Struct):
    """A user who is logged in, and since when."""

    user: str
    since: Time


class AddressJson(Struct):
    """An address of an interface of a guest; null for an interface without one."""

    interface: str | None
    mac_address: str | None
    address: str | None
    prefix: str | None


class GuestAgentJson(Struct):
    """What the agent in a guest reports; `load` is over 1, 5 and 15 minutes."""

    connected: bool | None
    responsive: bool | None
    os: dict[str, str]
    hostname: str | None
    timezone: str | None
    load: list[float | None]
    users: Count
    logins: list[LoginJson]
    vcpus_online: Count
    addresses: list[AddressJson]


class GuestEventJson(Struct):
    """Something that happened to a guest."""

    time: Time
    event: str
    text: str


class DefinitionJson(Struct):
    """What libvirt keeps of a guest besides its run; null is not known."""

    autostart: bool | None
    persistent: bool | None
    managed_save: bool | None
    snapshots: Count
    checkpoints: Count


class GuestDocumentJson(_Head, kw_only=True):
    """`/api/v1/guests/UUID`: everything about one guest."""

    guest: GuestJson
    incarnation: IncarnationJson
    description: dict[str, str]
    definition: DefinitionJson
    host_devices: list[dict[str, str]]
    vcpus: list[VcpuJson]
    memory: GuestMemoryJson
    disks: list[DiskJson]
    nics: list[NicJson]
    filesystems: list[FilesystemJson]
    guest_agent: GuestAgentJson
    findings: list[FindingJson]
    events: list[GuestEventJson]
    history: HistoryJson | UnsetType = UNSET


class CostJson(Struct):
    """CPU time that monitoring takes, and its budget, as a share of the host's CPUs."""

    cpu_seconds_per_second: Rate
    ratio: Ratio
    budget_ratio: Ratio


class TierJson(Struct):
    """A tier: how often it is polled, and how that goes."""

    name: str
    interval_seconds: float
    configured_interval_seconds: Seconds
    age_seconds: Seconds
    polls: Count
    skipped: Count
    missing: Count
    partial: Count


class CollectorJson(Struct):
    """A collector and its last round."""

    name: str
    success: bool | None
    duration_seconds: Seconds
    age_seconds: Seconds


class CallsJson(Struct):
    """Calls to libvirt that are under way, and that outlived their deadline."""

    outstanding: Count
    abandoned: Count


class SinkJson(Struct):
    """A sink: accepted = delivered + dropped + lost + waiting."""

    name: str
    state: Literal["ok", "failing"]
    waiting_samples: Count
    accepted_samples: Count
    delivered_samples: Count
    dropped_samples: Count
    lost_samples: Count
    lag_seconds: Seconds
    spool_bytes: Size
    circuit_open: bool


class LeftOutJson(Struct):
    """Guests that the filter leaves out, and series beyond the limits, with their groups."""

    guests: Count
    series: Count
    groups: list[str]


class AgentJson(_Head, kw_only=True):
    """`/api/v1/agent`: the agent itself."""

    agent_version: str
    since: Time | None
    cost: CostJson
    tiers: list[TierJson]
    collectors: list[CollectorJson]
    calls: CallsJson
    sinks: list[SinkJson]
    loop_lag_seconds: Seconds
    left_out: LeftOutJson


class EventJson(Struct):
    """
    An event of libvirt's about a guest, which may have ended since.

    `count` is how many equal ones came at once, `device` libvirt's alias or the target of a disk.
    """

    time: Time
    guest: FoundGuestJson
    event: str
    detail: str | None
    device: str | None
    text: str
    count: int


class EventsJson(_Head, kw_only=True):
    """`/api/v1/events`: the last 1,000, the newest first; `guest` is a UUID, `limit` a number."""

    events: list[EventJson]


DOCUMENTS: Final[dict[str, type[Struct]]] = {
    "host": HostJson,
    "guests": GuestsJson,
    "guests/{uuid}": GuestDocumentJson,
    "agent": AgentJson,
    "findings": FindingsJson,
    "events": EventsJson,
}
"""The types of the documents by path."""


def api_schema() -> dict[str, Any]:
    """Return the JSON schema of all documents; `paths` has the path of each."""
    schemas, components = msgspec.json.schema_components(
        DOCUMENTS.values(), ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "virtstatd API, version 1",
        "paths": dict(zip(DOCUMENTS, schemas, strict=True)),
        "$defs": components,
    }

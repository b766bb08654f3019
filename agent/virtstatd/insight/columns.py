"""The columns of the table of guests: what each is called, counts in and means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


Unit = Literal["ratio", "bytes", "bytes_per_second", "per_second", "seconds", "count", "text"]

Cell = str | int | float | bool | None
GuestRow = dict[str, Cell]
"""One guest's cells by column."""


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column; `words` are further names for filters and sorting.

    `finding` is the kind of finding that its numbers begin, empty for none.
    """

    id: str
    title: str
    unit: Unit
    help: str
    words: tuple[str, ...] = ()
    finding: str = ""


COLUMNS: Final = (
    Column("uuid", "UUID", "text", "UUID of the guest."),
    Column("name", "Name", "text", "Name of the guest."),
    Column("state", "State", "text", "State that libvirt reports."),
    Column("stuck", "Stuck", "text", "Whether the guest's monitor does not answer."),
    Column("project", "Project", "text", "Project in the guest's metadata."),
    Column("vcpus", "vCPUs", "count", "Number of virtual CPUs."),
    Column("cpu_ratio", "CPU", "ratio", "Share of the time that its vCPUs ran.", ("cpu",)),
    Column(
        "steal_ratio",
        "Steal",
        "ratio",
        "Share of the time that its vCPUs were ready and waited for a CPU of the host.",
        ("steal",),
        "steal",
    ),
    Column(
        "steal_peak_ratio",
        "Worst second",
        "ratio",
        "Steal of the worst vCPU in its worst second.",
        ("peak",),
        "steal_peak",
    ),
    Column(
        "memory_used_bytes",
        "Memory used",
        "bytes",
        "Memory that the guest uses without its cache, as its balloon driver reports it.",
        ("memory", "used"),
    ),
    Column(
        "memory_cache_bytes",
        "Cache",
        "bytes",
        "Memory of the guest's cache, which it can give back at once.",
        ("cache",),
    ),
    Column(
        "memory_unused_bytes",
        "Unused",
        "bytes",
        "Memory that the guest does not use at all.",
        ("unused",),
    ),
    Column(
        "memory_current_bytes",
        "Balloon",
        "bytes",
        "Memory that the guest has now: its maximum less what its balloon holds back.",
        ("balloon",),
    ),
    Column("memory_max_bytes", "Memory", "bytes", "Memory that the guest may have.", ("max",)),
    Column("memory_rss_bytes", "Resident", "bytes", "Memory of the host that it holds.", ("rss",)),
    Column(
        "disk_read_bytes_per_second",
        "Read",
        "bytes_per_second",
        "Bytes read of all its disks.",
        ("read",),
    ),
    Column(
        "disk_write_bytes_per_second",
        "Write",
        "bytes_per_second",
        "Bytes written to all its disks.",
        ("write",),
    ),
    Column("disk_iops", "IOPS", "per_second", "Reads and writes of all its disks.", ("iops",)),
    Column(
        "disk_latency_seconds",
        "Disk latency",
        "seconds",
        "Mean time of a read or write on its slowest disk.",
        ("latency",),
        "disk_latency",
    ),
    Column("disk_latency_device", "Slowest disk", "text", "The disk with that latency.", ("disk",)),
    Column(
        "net_receive_bytes_per_second",
        "Received",
        "bytes_per_second",
        "Bytes received on all its interfaces.",
        ("receive", "rx"),
    ),
    Column(
        "net_transmit_bytes_per_second",
        "Sent",
        "bytes_per_second",
        "Bytes sent on all its interfaces.",
        ("transmit", "tx"),
    ),
    Column(
        "pressure_cpu_ratio",
        "CPU pressure",
        "ratio",
        "Share of the time that a thread of the guest waited for a CPU.",
        ("pressure_cpu", "pressure"),
    ),
    Column(
        "pressure_io_ratio",
        "I/O pressure",
        "ratio",
        "Share of the time that a thread of the guest waited for I/O.",
        ("pressure_io",),
    ),
    Column(
        "pressure_memory_ratio",
        "Memory pressure",
        "ratio",
        "Share of the time that a thread of the guest waited for memory.",
        ("pressure_memory",),
    ),
    Column("partition", "Partition", "text", "Resource partition of the guest."),
    Column("age_seconds", "Age", "seconds", "Time since the newest reading.", ("age",)),
    Column("findings", "Findings", "count", "Number of findings."),
    Column("severity", "Severity", "text", "Severity of its worst finding: warning or critical."),
)

BY_NAME: Final = {name: each for each in COLUMNS for name in (each.id, *each.words)}
"""Columns by all their names."""

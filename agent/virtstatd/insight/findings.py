"""The table of findings: what is looked for, from which value on, and what helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from virtstatd.insight.columns import Unit


Severity = Literal["warning", "critical"]

RELEASE: Final = 0.8
RELEASE_SECONDS: Final = 15.0
"""A finding ends when its value is below this share of the threshold for so long."""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """
    One line of the table.

    A finding begins when the value is at the threshold or beyond for `hold_seconds`; with `below`
    small values hurt. From `critical` on it is critical whatever its severity. Texts name the guest
    as `{name}`, its UUID as `{uuid}`, the device as `{device}`, quoted for a shell as `{quoted}`,
    the value as `{value}` and the threshold as `{threshold}`. `brief` is for values that are either
    so or not: their finding ends at once.
    """

    name: str
    severity: Severity
    unit: Unit
    threshold: float
    text: str
    advice: str
    critical: float | None = None
    hold_seconds: float = 0.0
    below: bool = False
    brief: bool = False

    def hurts(self, value: float, threshold: float) -> bool:
        """Return whether a value is at the threshold or beyond."""
        return value <= threshold if self.below else value >= threshold

    def released(self, value: float, threshold: float) -> bool:
        """Return whether a value is so far from the threshold that the finding may end."""
        if self.brief:
            return not self.hurts(value, threshold)
        return value > threshold / RELEASE if self.below else value < threshold * RELEASE

    def severity_of(self, value: float) -> Severity:
        """Return the severity of a value that hurts."""
        if self.critical is not None and self.hurts(value, self.critical):
            return "critical"
        return self.severity


STUCK: Final = FindingKind(
    "stuck",
    "critical",
    "count",
    1,
    "The monitor of {name} does not answer: its QEMU is stopped or waits for storage",
    "virsh domcontrol {uuid}  # what helps: journalctl -u virtstatd -g domain.unresponsive -n 5",
    brief=True,
)
STEAL: Final = FindingKind(
    "steal",
    "warning",
    "ratio",
    0.1,
    "vCPUs of {name} waited {value} of the time for a CPU of the host",
    "virsh schedinfo {uuid}  # a quota or a low weight; else move a guest to another host",
    critical=0.3,
    hold_seconds=5.0,
)
STEAL_PEAK: Final = FindingKind(
    "steal_peak",
    "warning",
    "ratio",
    0.5,
    "A vCPU of {name} waited {value} of its worst second for a CPU of the host",
    "virsh vcpupin {uuid}  # vCPUs of several guests on the same CPUs?",
)
STORAGE_LATENCY: Final = FindingKind(
    "storage_latency",
    "warning",
    "seconds",
    0.05,
    "Requests to storage {device} take {value}, of all guests together",
    "iostat -x 1 3  # or look at its server or its cluster; who uses it: virtstatd top",
    critical=0.5,
)
DISK_LATENCY: Final = FindingKind(
    "disk_latency",
    "warning",
    "seconds",
    0.05,
    "Requests to disk {device} of {name} take {value}",
    "virsh domblkinfo {uuid} {quoted}  # then look at the storage behind it: iostat -x 1 3",
    critical=0.5,
)
DISK_LIMITED: Final = FindingKind(
    "disk_limited",
    "warning",
    "ratio",
    0.95,
    "Disk {device} of {name} is at {value} of its limit",
    "virsh blkdeviotune {uuid} {quoted}",
)
DISK_FULL: Final = FindingKind(
    "disk_full",
    "warning",
    "ratio",
    0.9,
    "Disk {device} of {name} has filled {value} of its block device, smaller than the disk",
    "virsh domblkinfo {uuid} {quoted}  # then extend the device: a full one pauses the guest",
    critical=0.98,
)
MEMORY_LOW: Final = FindingKind(
    "memory_low",
    "warning",
    "ratio",
    0.05,
    "{name} has {value} of its memory left",
    "virsh dommemstat {uuid}  # then virsh setmem, or more memory at its next start",
    critical=0.02,
    hold_seconds=10.0,
    below=True,
)
MEMORY_STALE: Final = FindingKind(
    "memory_stale",
    "warning",
    "seconds",
    600.0,
    "The balloon driver of {name} has reported nothing for {value}",
    "virsh dommemstat {uuid} --live --period 10",
)
FILESYSTEM_FULL: Final = FindingKind(
    "filesystem_full",
    "warning",
    "ratio",
    0.9,
    "{value} of the file system {device} in {name} are used, as the guest reports",
    "virsh guestinfo {uuid} --filesystem  # make room in the guest, or virsh blockresize",
    critical=0.98,
)
MEMORY_UNREPORTED: Final = FindingKind(
    "memory_unreported",
    "warning",
    "count",
    1,
    "Guests whose memory is not known, because their balloon driver has no period: {value}",
    "virsh dommemstat GUEST --live --period 10  # for each; XML: <stats period='10'/>",
    hold_seconds=30.0,
    brief=True,
)
MIGRATION_STALLED: Final = FindingKind(
    "migration_stalled",
    "warning",
    "seconds",
    60.0,
    "The migration of {name} gains nothing for {value}: memory changes as fast as it is sent",
    "virsh migrate-setmaxdowntime {uuid} 1000  # or more speed, --auto-converge, --postcopy",
)
GUEST_LIMITED: Final = FindingKind(
    "partition_limited",
    "warning",
    "ratio",
    0.25,
    "{name} met its limit on CPU time in {value} of the periods",
    "virsh schedinfo {uuid}",
    critical=0.75,
    hold_seconds=5.0,
)
NIC_DROPS: Final = FindingKind(
    "nic_drops",
    "warning",
    "per_second",
    10.0,
    "Interface {device} of {name} drops packets: {value}",
    "ip -s -s link show dev {quoted}",
    hold_seconds=10.0,
)
PARTITION_LIMITED: Final = FindingKind(
    "partition_limited",
    "warning",
    "ratio",
    0.25,
    "Partition {device} met its limit on CPU time in {value} of the periods",
    "virtstatd partitions",
    critical=0.75,
    hold_seconds=5.0,
)
LIBVIRT_DOWN: Final = FindingKind(
    "libvirt_down",
    "critical",
    "count",
    0,
    "Libvirt does not answer",
    "systemctl status libvirtd virtqemud",
    hold_seconds=5.0,  # an agent that starts has not asked it yet
    below=True,
    brief=True,
)
HOST_MEMORY_LOW: Final = FindingKind(
    "host_memory_low",
    "warning",
    "ratio",
    0.05,
    "The host has {value} of its memory left",
    "virtstatd top  # sort by resident memory",
    critical=0.02,
    hold_seconds=10.0,
    below=True,
)
POOL_FULL: Final = FindingKind(
    "pool_full",
    "warning",
    "ratio",
    0.1,
    "Storage pool {device} has {value} of its space left",
    "virsh pool-info {quoted}  # as of its last refresh; then delete volumes, or add space",
    critical=0.03,
    below=True,
)
POOL_HUNG: Final = FindingKind(
    "pool_hung",
    "critical",
    "count",
    1,
    "Libvirt does not answer about storage pool {device}: its storage hangs",
    "journalctl -u virtstatd -g object.hung -n 5  # then look at its NFS server or its disks",
    brief=True,
)
PRESSURE_IO: Final = FindingKind(
    "pressure_io",
    "warning",
    "ratio",
    0.4,
    "Something on the host waited for I/O {value} of the time",
    "iostat -x 1 3",
    hold_seconds=20.0,
)
PRESSURE_MEMORY: Final = FindingKind(
    "pressure_memory",
    "warning",
    "ratio",
    0.1,
    "Something on the host waited for memory {value} of the time",
    "vmstat 1 5",
    critical=0.4,
    hold_seconds=20.0,
)
SINK_FAILING: Final = FindingKind(
    "sink_failing",
    "warning",
    "count",
    1,
    "Sink {device} does not reach its destination; batches wait",
    "journalctl -u virtstatd -g sink.failing -n 5",
    hold_seconds=5.0,
    brief=True,
)
SINK_LOSING: Final = FindingKind(
    "sink_losing",
    "critical",
    "per_second",
    0.01,
    "Sink {device} loses samples: {value}",
    "journalctl -u virtstatd -g sink. -n 20",
)
POLL_LATE: Final = FindingKind(
    "poll_late",
    "warning",
    "seconds",
    0.0,
    "The last good poll of the tier {device} was {value} ago",
    "journalctl -u virtstatd -g poll.failing -n 5",
    hold_seconds=5.0,
)
BUDGET_STRETCHED: Final = FindingKind(
    "budget_stretched",
    "warning",
    "seconds",
    0.0,
    "The tier {device} is polled every {value} only, to stay within the budget",
    "virtstatd check  # then raise budget.host_cpu_percent, or poll fewer groups",
    hold_seconds=60.0,
    brief=True,
)

FINDINGS: Final = (
    *(STUCK, STEAL, STEAL_PEAK, GUEST_LIMITED, STORAGE_LATENCY, DISK_LATENCY, DISK_LIMITED),
    *(DISK_FULL, MEMORY_LOW, FILESYSTEM_FULL, MEMORY_UNREPORTED, MIGRATION_STALLED),
    *(MEMORY_STALE, NIC_DROPS, LIBVIRT_DOWN, HOST_MEMORY_LOW, PRESSURE_IO, PRESSURE_MEMORY),
    *(POOL_FULL, POOL_HUNG, PARTITION_LIMITED, SINK_FAILING, SINK_LOSING, POLL_LATE),
    BUDGET_STRETCHED,
)
"""All of them, as documentation and tests read them."""

"""Rows of statistics that only some guests have: KVM's, the newer ones of disks, monitors."""

from __future__ import annotations

from collections.abc import Iterator

from virtstatd_simulator.guests.fields import (
    BOOLEAN,
    DOUBLE,
    INT,
    LLONG,
    UINT,
    Field,
    counter,
    fixed,
    gauge,
    text,
)
from virtstatd_simulator.guests.load import Driver


MIB = 1 << 20

# virPerfEvent in its order -> growth per second of a busy vCPU; the first three are gauges
PERF_EVENTS = {
    "cmt": 0,
    "mbmt": 0,
    "mbml": 0,
    "cache_misses": 4e6,
    "cache_references": 6e7,
    "instructions": 3.1e9,
    "cpu_cycles": 2.6e9,
    "branch_instructions": 6e8,
    "branch_misses": 5e6,
    "bus_cycles": 1e8,
    "stalled_cycles_frontend": 3e8,
    "stalled_cycles_backend": 5e8,
    "ref_cpu_cycles": 2.4e9,
    "cpu_clock": 1e9,
    "task_clock": 1e9,
    "page_faults": 300,
    "context_switches": 2000,
    "cpu_migrations": 20,
    "page_faults_min": 290,
    "page_faults_maj": 10,
    "alignment_faults": 1,
    "emulation_faults": 1,
}
BANKS = NODES = PACKAGES = 2


def kvm(prefix: str, names: dict[str, int]) -> Iterator[Field]:
    """List KVM's own statistics of a vCPU or a guest."""
    for name, per_second in names.items():
        if name in ("blocking.cur", "guest_mode.cur"):
            yield fixed(f"{prefix}.{name}", 0, BOOLEAN)
        elif name.endswith(".sum") and per_second:
            yield counter(f"{prefix}.{name}", per_second)
        else:
            yield fixed(f"{prefix}.{name}", per_second)


def limits(disk: str, *, zoned: bool) -> Iterator[Field]:
    """List the limits of a disk, and its latencies over an interval (libvirt 11.10)."""
    # all values differ, so that a mix-up is noticed
    for name, value in (
        ("request_alignment", 512),
        ("discard_max", 2147483136),
        ("discard_alignment", 4096),
        ("write_zeroes_max", 1073741312),
        ("write_zeroes_alignment", 8192),
        ("transfer_optimal", 65536),
        ("transfer_max", 0),
        ("transfer_hw_max", 1310720),
        ("iov_max", 1024),
        ("iov_hw_max", 168),
        ("memory_alignment_minimal", 256),
        ("memory_alignment_optimal", 16384),
    ):
        yield fixed(f"{disk}.limits.{name}", value)
    group = f"{disk}.timed_group.0"
    yield fixed(f"{disk}.timed_group.count", 1)
    yield fixed(f"{group}.interval", 10)
    scales = {"rd": 1, "wr": 2, "zone_append": 3 * zoned, "flush": 5}
    for way, scale in scales.items():
        yield fixed(f"{group}.{way}_latency_min", 20_000 * scale)
        yield gauge(f"{group}.{way}_latency_max", 900_000 * scale, 9_000_000 * scale)
        yield gauge(f"{group}.{way}_latency_avg", 150_000 * scale, 800_000 * scale)
    for way in ("rd", "wr", "zone_append"):
        yield fixed(f"{group}.{way}_queue_depth_avg", 1.375 * scales[way], DOUBLE)


def histograms(disk: str) -> Iterator[Field]:
    """List a disk's requests by their latency (libvirt 12.1)."""
    for way, share in (("read", 700), ("write", 1100), ("flush", 30)):
        yield fixed(f"{disk}.latency_histogram.{way}.bin.count", 4)
        for n, start in enumerate((0, 100_000, 1_000_000, 10_000_000)):
            yield fixed(f"{disk}.latency_histogram.{way}.bin.{n}.start", start)
            yield counter(
                f"{disk}.latency_histogram.{way}.bin.{n}.value", share / 4 ** (n + 1), Driver.DISK
            )


def perf_events(vcpus: int) -> Iterator[Field]:
    """List every performance event that can be enabled."""
    for name, per_second in PERF_EVENTS.items():
        if per_second:
            yield counter(f"perf.{name}", per_second * vcpus)
        else:
            yield gauge(f"perf.{name}", 2 * MIB, 30 * MIB)


def cache_monitors(vcpus: int) -> Iterator[Field]:
    """List the cache that all vCPUs occupy, bank by bank."""
    yield fixed("cpu.cache.monitor.count", 1, UINT)
    yield from _monitor("cpu.cache.monitor.0", vcpus)
    yield fixed("cpu.cache.monitor.0.bank.count", BANKS, UINT)
    for n in range(BANKS):
        bank = f"cpu.cache.monitor.0.bank.{n}"
        yield fixed(f"{bank}.id", 10 + n, UINT)
        yield Field(f"{bank}.bytes", UINT, 2 * MIB, 30 * MIB, Driver.WAVE)


def energy_monitors(vcpus: int) -> Iterator[Field]:
    """List the energy that all vCPUs consume, package by package (libvirt 12.4)."""
    yield fixed("cpu.energy.monitor.count", 1, UINT)
    yield from _monitor("cpu.energy.monitor.0", vcpus)
    yield fixed("cpu.energy.monitor.0.pkg.count", PACKAGES, UINT)
    for n in range(PACKAGES):
        package = f"cpu.energy.monitor.0.pkg.{n}"
        yield fixed(f"{package}.id", n, UINT)
        yield counter(f"{package}.core_energy", 9 * vcpus)
        yield counter(f"{package}.activity", 4 * vcpus)


def bandwidth_monitors(vcpus: int) -> Iterator[Field]:
    """List the memory bandwidth that all vCPUs use, node by node."""
    yield fixed("memory.bandwidth.monitor.count", 1, UINT)
    yield from _monitor("memory.bandwidth.monitor.0", vcpus)
    yield fixed("memory.bandwidth.monitor.0.node.count", NODES, UINT)
    for n in range(NODES):
        node = f"memory.bandwidth.monitor.0.node.{n}"
        yield fixed(f"{node}.id", n, UINT)
        yield counter(f"{node}.bytes.local", 3e8 * vcpus)
        yield counter(f"{node}.bytes.total", 4e8 * vcpus)


def _monitor(prefix: str, vcpus: int) -> Iterator[Field]:
    ids = f"0-{vcpus - 1}" if vcpus > 1 else "0"
    yield text(f"{prefix}.name", f"vcpus_{ids}")
    yield text(f"{prefix}.vcpus", ids)


def dirty_rate(vcpus: int, *, measured: bool) -> Iterator[Field]:
    """List the last measurement of how fast the guest writes to memory, if there was one."""
    yield fixed("dirtyrate.calc_status", 2 if measured else 0, INT)
    yield fixed("dirtyrate.calc_start_time", 5183 if measured else 0, LLONG)
    yield fixed("dirtyrate.calc_period", int(measured), INT)
    if measured:
        yield fixed("dirtyrate.megabytes_per_second", 137, LLONG)
    yield text("dirtyrate.calc_mode", "dirty-ring" if measured else "page-sampling")
    for n in range(vcpus if measured else 0):
        yield fixed(f"dirtyrate.vcpu.{n}.megabytes_per_second", 137 // (n + 1))

"""Procedures of a domain's limits, which are none until it is tuned, and of single devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from virtstatd_simulator.answers.calls import Call, active_guest
from virtstatd_simulator.guests.events import TUNABLE, pack_params
from virtstatd_simulator.guests.fields import (
    BOOLEAN,
    INT,
    LLONG,
    STRING,
    UINT,
    ULLONG,
    Field,
    Group,
    parse_field,
)
from virtstatd_simulator.guests.flavors import GIB, letter
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.guests.host import Host
from virtstatd_simulator.guests.load import UNIT_BITS
from virtstatd_simulator.wire.rpc import FROM_DOMAIN, FROM_QEMU, INVALID_ARG, RpcError
from virtstatd_simulator.wire.xdr import (
    pack_array,
    pack_hyper,
    pack_int,
    pack_opaque,
    pack_uhyper,
    pack_uint,
)


UNLIMITED_KIB = 9007199254740991
THROTTLED = 3  # one guest in so many has limits on its disks and NICs

_PERIODS = ("vcpu", "emulator", "global", "iothread")
_SCHEDULER = (
    Field("cpu_shares", ULLONG, 1024),
    *(
        field
        for who in _PERIODS
        for field in (Field(f"{who}_period", ULLONG, 100000), Field(f"{who}_quota", LLONG, -1))
    ),
)
_MEMORY = tuple(
    Field(name, ULLONG, UNLIMITED_KIB) for name in ("hard_limit", "soft_limit", "swap_hard_limit")
)
_BLKIO = (
    Field("weight", UINT, 100),
    Field("device_weight", STRING, text=""),
    *(
        Field(f"device_{way}_{what}_sec", STRING, text="")
        for what in ("iops", "bytes")
        for way in ("read", "write")
    ),
)
_NUMA = (Field("numa_mode", INT, 0), Field("numa_nodeset", STRING, text=""))
_PERF = """cmt mbmt mbml cpu_cycles instructions cache_references cache_misses
branch_instructions branch_misses bus_cycles stalled_cycles_frontend stalled_cycles_backend
ref_cpu_cycles cpu_clock task_clock page_faults context_switches cpu_migrations page_faults_min
page_faults_maj alignment_faults emulation_faults"""


def tune(host: Host, guest: Guest, limits: Mapping[str, int | str]) -> None:
    """
    Set limits by libvirt's names for them; raises `ValueError` for what is none.

    An event tells of those of the scheduler, as libvirt does, and of no others.
    """
    known = {field.name: field for field in (*_SCHEDULER, *_MEMORY, *_BLKIO, *_NUMA)}
    for name, limit in limits.items():
        if name not in known or isinstance(limit, str) != (known[name].type == STRING):
            raise ValueError(f"{name}: {limit!r} is no limit of a domain")
    guest.tuned |= limits
    changed = [f for f in _now(guest, _SCHEDULER) if f.name in limits]
    if changed:
        host.tell(guest, TUNABLE, [replace(f, name=f"cputune.{f.name}") for f in changed])


def _now(guest: Guest, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Give fields as they were set, if they were."""
    return tuple(
        parse_field(f.name, f.type, guest.tuned[f.name]) if f.name in guest.tuned else f
        for f in fields
    )


def _counted(call: Call, fields: tuple[Field, ...]) -> bytes:
    """Give the fields that the caller has room for; without room, how many there are."""
    room = call.arguments.take_int()
    if room <= 0:
        return pack_uint(0) + pack_int(len(fields))
    return pack_params(fields[:room]) + pack_int(0)


def get_scheduler_parameters(call: Call) -> bytes:
    """Give CPU shares and quotas."""
    fields = _now(call.guest(), _SCHEDULER)
    return pack_params(fields[: max(0, call.arguments.take_int())])


def get_memory_parameters(call: Call) -> bytes:
    """Give the memory limits."""
    return _counted(call, _now(call.guest(), _MEMORY))


def get_blkio_parameters(call: Call) -> bytes:
    """Give the block I/O weights and the limits of devices."""
    return _counted(call, _now(call.guest(), _BLKIO))


def get_numa_parameters(call: Call) -> bytes:
    """Give the NUMA placement."""
    return _counted(call, _now(call.guest(), _NUMA))


def get_perf_events(call: Call) -> bytes:
    """Say which perf events are counted."""
    counted = {f.name[5:] for f in call.guest().flavor.active if f.group is Group.PERF}
    return pack_params([Field(name, BOOLEAN, int(name in counted)) for name in _PERF.split()])


def get_block_io_tune(call: Call) -> bytes:
    """Give the limits of a disk; some guests have one."""
    guest = call.guest()
    disk = call.arguments.take_optional() or ""
    if disk not in targets(guest):
        raise RpcError(INVALID_ARG, FROM_QEMU, f"disk '{disk}' not found in domain")
    kinds = [
        f"{way}_{what}_sec" for what in ("bytes", "iops") for way in ("total", "read", "write")
    ]
    limit = 5000 if guest.uuid[1] % THROTTLED == 0 else 0
    fields = (
        *(Field(kind, ULLONG, limit if kind == "total_iops_sec" else 0) for kind in kinds),
        *(Field(f"{kind}_max", ULLONG) for kind in kinds),
        Field("size_iops_sec", ULLONG),
        Field("group_name", STRING, text="drive-virtio-disk0" if limit else ""),
        *(Field(f"{kind}_max_length", ULLONG, 1 if limit else 0) for kind in kinds),
    )
    return _counted(call, fields)


def get_interface_parameters(call: Call) -> bytes:
    """Give the bandwidth of a NIC; some guests have a limit."""
    guest = call.guest()
    tap = call.arguments.take_string()
    if tap not in guest.taps:
        raise RpcError(INVALID_ARG, FROM_DOMAIN, f"'{tap}' is not a known interface")
    average = 125_000 if guest.uuid[1] % THROTTLED == 0 else 0
    fields = tuple(
        Field(f"{way}.{what}", UINT, average if what == "average" else 0)
        for way in ("inbound", "outbound")
        for what in ("average", "peak", "burst", "floor")
        if (way, what) != ("outbound", "floor")
    )
    return _counted(call, fields)


def targets(guest: Guest) -> list[str]:
    """Name the disks as the guest sees them."""
    return [f"vd{letter(n)}" for n in range(guest.flavor.disks)]


def _disk(call: Call, guest: Guest, disk: str) -> dict[str, int]:
    """Give the counters of a disk, the same that its statistics report."""
    if disk not in targets(guest):
        raise RpcError(INVALID_ARG, FROM_QEMU, f"invalid path: {disk}")
    row = f"block.{targets(guest).index(disk)}."
    drivers = guest.drivers(call.host.clock(), 0)
    return {
        f.name.removeprefix(row): int(f.base) + (f.rate * drivers[f.driver] >> UNIT_BITS)
        for f in guest.flavor.active
        if f.name.startswith(row)
    }


def get_block_stats(call: Call) -> bytes:
    """Give requests and bytes of one disk."""
    guest = active_guest(call)
    counters = _disk(call, guest, call.arguments.take_string())
    names = ("rd.reqs", "rd.bytes", "wr.reqs", "wr.bytes")
    return b"".join(pack_hyper(counters.get(name, 0)) for name in names) + pack_hyper(-1)


def get_block_stats_flags(call: Call) -> bytes:
    """Give requests, bytes and times of one disk."""
    guest = active_guest(call)
    counters = _disk(call, guest, call.arguments.take_string())
    names = {
        "wr_bytes": "wr.bytes",
        "wr_operations": "wr.reqs",
        "rd_bytes": "rd.bytes",
        "rd_operations": "rd.reqs",
        "flush_operations": "fl.reqs",
        "wr_total_times": "wr.times",
        "rd_total_times": "rd.times",
        "flush_total_times": "fl.times",
    }
    fields = tuple(Field(name, LLONG, counters.get(source, 0)) for name, source in names.items())
    return _counted(call, fields)


def get_block_info(call: Call) -> bytes:
    """Give the sizes of one disk's image."""
    guest = call.guest()
    disk = call.arguments.take_string()
    if disk not in (*targets(guest), *guest.paths):
        text = f"invalid path {disk} not assigned to domain"
        raise RpcError(INVALID_ARG, FROM_QEMU, text)
    return pack_uhyper(7 * GIB) + pack_uhyper(20 * GIB) + pack_uhyper(8 * GIB)


def everywhere(call: Call, size: int) -> bytes:
    """Make a CPU map of `size` bytes with every host CPU in it."""
    size = max(0, min(size, 1024))
    return ((1 << min(call.host.cpus, size * 8)) - 1).to_bytes(size, "little")


def get_vcpu_pins(call: Call) -> bytes:
    """Say that every vCPU may run everywhere."""
    guest = call.guest()
    most, size = call.arguments.take_int(), call.arguments.take_int()
    count = max(0, min(most, guest.flavor.vcpus))
    return pack_opaque(everywhere(call, size) * count) + pack_int(count)


def get_emulator_pin(call: Call) -> bytes:
    """Say that QEMU's own threads may run everywhere."""
    call.guest()
    return pack_opaque(everywhere(call, call.arguments.take_int())) + pack_int(1)


def get_iothreads(call: Call) -> bytes:
    """List the iothreads, the youngest first, and where they may run."""
    guest = active_guest(call)
    pins = pack_opaque(everywhere(call, (call.host.cpus + 7) // 8))
    rows = [pack_uint(n) + pins for n in range(guest.flavor.iothreads, 0, -1)]
    return pack_array(rows) + pack_uint(len(rows))


def get_security_label(call: Call) -> bytes:
    """Give an empty label that nobody enforces; it travels with its zero."""
    call.guest()
    return pack_uint(1) + pack_int(0) + pack_int(0)

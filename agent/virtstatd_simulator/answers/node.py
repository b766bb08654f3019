"""Procedures of the host itself: CPUs and memory, made up and moving."""

from __future__ import annotations

from collections.abc import Iterable

from virtstatd_simulator.answers.calls import Call
from virtstatd_simulator.wire.rpc import FROM_NONE, RpcError
from virtstatd_simulator.wire.xdr import (
    pack_array,
    pack_chars,
    pack_int,
    pack_opaque,
    pack_string,
    pack_uhyper,
    pack_uint,
)


CLOCK_TICK = 10_000_000  # the kernel counts CPU time in hundredths of a second
CPU_SHARES = {"kernel": 0.06, "user": 0.35, "idle": 0.58, "iowait": 0.01}


def get_info(call: Call) -> bytes:
    """Give what `virsh nodeinfo` prints."""
    host = call.host
    cores = max(1, host.cpus // 2)
    numbers = (host.cpus, 2596, 1, 1, cores, host.cpus // cores)
    return (
        pack_chars("x86_64", 32) + pack_uhyper(host.memory_kib) + b"".join(map(pack_int, numbers))
    )


def get_cpu_stats(call: Call) -> bytes:
    """Give the CPU time of one host CPU or, as -1, of all."""
    cpu, asked = call.arguments.take_int(), call.arguments.take_int()
    if not -1 <= cpu < call.host.cpus:
        raise RpcError.bad_argument(
            FROM_NONE,
            "Invalid cpuNum in virHostCPUGetStatsLinux",
            "virHostCPUGetStatsLinux",
            "cpuNum",
        )
    if asked == 0:
        return pack_uint(0) + pack_int(len(CPU_SHARES))
    seconds = call.host.clock() - call.host.booted + 86400.0
    cpus = call.host.cpus if cpu == -1 else 1
    return _named(
        (name, int(seconds * share * cpus * 1e9) // CLOCK_TICK * CLOCK_TICK)
        for name, share in CPU_SHARES.items()
    )


def get_memory_stats(call: Call) -> bytes:
    """Give the memory of one NUMA cell or, as -1, of all."""
    asked, cell = call.arguments.take_int(), call.arguments.take_int()
    if not -1 <= cell < 1:
        raise RpcError.bad_argument(
            FROM_NONE,
            "cellNum in virHostMemGetStats must be less than or equal to 0",
            "virHostMemGetStats",
            "cellNum",
        )
    total = call.host.memory_kib
    shares = {"total": total, "free": total // 3}
    if cell == -1:
        shares |= {"buffers": total // 50, "cached": total // 8}
        if call.host.release >= 12:  # noqa: PLR2004 - libvirt 12.3
            shares["available"] = total // 2
    if asked == 0:
        return pack_uint(0) + pack_int(len(shares))
    return _named(shares.items())


def get_free_memory(call: Call) -> bytes:
    """Give the free bytes."""
    return pack_uhyper(call.host.memory_kib // 3 * 1024)


def get_cells_free_memory(call: Call) -> bytes:
    """Give the free bytes of each NUMA cell; there is one."""
    start, most = call.arguments.take_int(), call.arguments.take_int()
    cells = [call.host.memory_kib // 3 * 1024] if start == 0 and most > 0 else []
    return pack_array(map(pack_uhyper, cells))


def get_cpu_map(call: Call) -> bytes:
    """Give the CPUs that are online: all."""
    wants_map = call.arguments.take_int()
    cpus = call.host.cpus
    bits = ((1 << cpus) - 1).to_bytes((cpus + 7) // 8, "little") if wants_map else b""
    return pack_opaque(bits) + pack_uint(cpus) + pack_int(cpus)


def get_security_model(_: Call) -> bytes:
    """Say that there is none: the strings travel as arrays of `char`, their zero included."""
    return pack_uint(5) + pack_chars("none", 5) + pack_uint(2) + pack_chars("0", 2)


def _named(pairs: Iterable[tuple[str, int]]) -> bytes:
    return pack_array(pack_string(name) + pack_uhyper(n) for name, n in pairs) + pack_int(0)

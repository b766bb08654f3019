"""Procedures of CPUs: a domain's time, in total and by host CPU, and the host's CPUs."""

from __future__ import annotations

from functools import lru_cache

from virtstatd_simulator.answers.calls import Call
from virtstatd_simulator.guests.events import pack_params
from virtstatd_simulator.guests.fields import ULLONG, Field
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.guests.load import UNIT_BITS, Driver
from virtstatd_simulator.wire.rpc import (
    FROM_CGROUP,
    FROM_RPC,
    INTERNAL,
    INVALID_ARG,
    NOT_SUPPORTED,
    RpcError,
)
from virtstatd_simulator.wire.xdr import pack_int, pack_opaque, pack_uint


MAX_CPUS_PER_CALL = 128  # REMOTE_DOMAIN_GET_CPU_STATS_NCPUS_MAX
MAX_CPU_PARAMS = 16


def cpu_time(call: Call, guest: Guest) -> int:
    """Return the CPU time of a guest in ns, as its statistics report it."""
    if not guest.active:
        return 0
    drivers = guest.drivers(call.host.clock(), 0)
    return guest.flavor.cpu_rate * drivers[Driver.CPU] >> UNIT_BITS


def get_cpu_stats(call: Call) -> bytes:
    """Return CPU time in total (`start` -1) or per host CPU, at most 128 of them at once."""
    guest = call.active_guest()
    take_uint = call.arguments.take_uint
    nparams, start, ncpus = take_uint(), call.arguments.take_int(), take_uint()
    if nparams > MAX_CPU_PARAMS:
        raise RpcError(INTERNAL, FROM_RPC, "nparams too large")
    if ncpus > MAX_CPUS_PER_CALL:
        raise RpcError(INTERNAL, FROM_RPC, "ncpus too large")
    total = cpu_time(call, guest)
    if start == -1:
        names = {"cpu_time": 10, "user_time": 7, "system_time": 3}
        if nparams == 0:
            return pack_uint(0) + pack_int(len(names))
        fields = [Field(name, ULLONG, total * tenths // 10) for name, tenths in names.items()]
        return pack_params(fields[:nparams]) + pack_int(min(nparams, len(fields)))
    if not call.host.percpu:
        operation = "operation 'getCpuacctPercpuUsage' not supported for backend 'cgroup V2'"
        raise RpcError(NOT_SUPPORTED, FROM_CGROUP, operation)
    return _per_cpu(call, guest, total, nparams, start, ncpus)


def _per_cpu(call: Call, guest: Guest, total: int, nparams: int, start: int, ncpus: int) -> bytes:
    cpus = call.host.cpus
    if ncpus == 0:
        return pack_uint(0) + pack_int(cpus)
    if nparams == 0:
        return pack_uint(0) + pack_int(2)
    if not 0 <= start < cpus:
        raise RpcError(
            INVALID_ARG, FROM_CGROUP, f"start_cpu {start} larger than maximum of {cpus - 1}"
        )
    shares, whole = _shares(guest.uuid[0], cpus)
    fields: list[Field] = []
    for share in shares[start : start + ncpus]:
        time = total * share // whole
        both = (Field("cpu_time", ULLONG, time), Field("vcpu_time", ULLONG, time * 9 // 10))
        fields += both[:nparams]
    return pack_params(fields) + pack_int(min(nparams, 2))


@lru_cache(maxsize=256)
def _shares(salt: int, cpus: int) -> tuple[tuple[int, ...], int]:
    """Spread a guest over the host's CPUs, unevenly and always in the same way."""
    shares = tuple(1 + (n * 2654435761 + salt * 40503) % 997 for n in range(cpus))
    return shares, sum(shares)


def get_cpu_map(call: Call) -> bytes:
    """Return the host's CPUs that are online: all."""
    wants_map = call.arguments.take_int()
    cpus = call.host.cpus
    bits = ((1 << cpus) - 1).to_bytes((cpus + 7) // 8, "little") if wants_map else b""
    return pack_opaque(bits) + pack_uint(cpus) + pack_int(cpus)

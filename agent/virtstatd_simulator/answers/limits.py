"""Procedures of a domain's limits: scheduler, memory, block I/O, NUMA."""

from __future__ import annotations

from collections.abc import Iterable

from virtstatd_simulator.answers.calls import Call
from virtstatd_simulator.guests.events import pack_params
from virtstatd_simulator.guests.fields import Field
from virtstatd_simulator.guests.limits import BLKIO, MEMORY, NUMA, SCHEDULER, tuned
from virtstatd_simulator.wire.xdr import pack_int, pack_string, pack_uint


def _counted(call: Call, limits: Iterable[Field]) -> bytes:
    """Return the limits that the caller has room for; without room, how many there are."""
    fields = tuned(call.guest(), limits)
    room = call.arguments.take_int()
    if room <= 0:
        return pack_uint(0) + pack_int(len(fields))
    return pack_params(fields[:room]) + pack_int(0)


def get_scheduler_type(call: Call) -> bytes:
    """Name the scheduler and how many parameters it has."""
    call.guest()
    return pack_string("posix") + pack_int(len(SCHEDULER))


def get_scheduler_parameters(call: Call) -> bytes:
    """Return CPU shares and quotas."""
    fields = tuned(call.guest(), SCHEDULER)
    return pack_params(fields[: max(0, call.arguments.take_int())])


def get_memory_parameters(call: Call) -> bytes:
    """Return the memory limits."""
    return _counted(call, MEMORY)


def get_blkio_parameters(call: Call) -> bytes:
    """Return the block I/O weights and the limits of devices."""
    return _counted(call, BLKIO)


def get_numa_parameters(call: Call) -> bytes:
    """Return the NUMA placement."""
    return _counted(call, NUMA)

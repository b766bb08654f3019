"""
Bulk statistics, with libvirt's semantics of filters, jobs, NOWAIT and message size.

A guest whose monitor hangs blocks its first caller until it is released. Meanwhile its job is
taken: a call with NOWAIT skips it, others wait 30 seconds for it, and both get the fields that
need no job.
"""

from __future__ import annotations

import asyncio

from virtstatd_simulator.answers.calls import Answer, Call, breathe
from virtstatd_simulator.guests.fields import EVERY_GROUP, MONITOR_GROUPS
from virtstatd_simulator.guests.guests import PAUSED, RUNNING, SHUT_OFF, Guest
from virtstatd_simulator.guests.layout import Record
from virtstatd_simulator.wire.rpc import (
    FROM_QEMU,
    FROM_RPC,
    INTERNAL,
    MAX_LISTED,
    MAX_PARAMS,
    MAX_PAYLOAD,
    RPC,
    UNSUPPORTED,
    RpcError,
)
from virtstatd_simulator.wire.xdr import pack_uint


ACTIVE, INACTIVE, PERSISTENT, TRANSIENT = 1, 2, 4, 8
RUNS, PAUSES, IS_OFF, IS_OTHER = 16, 32, 64, 128
STATE_FILTERS = RUNS | PAUSES | IS_OFF | IS_OTHER
NOWAIT, BACKING, ENFORCE = 1 << 29, 1 << 30, 1 << 31
_KNOWN = 255 | NOWAIT | BACKING | ENFORCE

CHUNK = 128  # guests packed before the loop runs again

_STATES = {RUNNING: RUNS, PAUSED: PAUSES, SHUT_OFF: IS_OFF}


def matches(guest: Guest, flags: int) -> bool:
    """Apply the filters of a list: OR inside a set, AND between sets, an empty set admits all."""
    activity = ACTIVE if guest.active else INACTIVE
    persistence = PERSISTENT if guest.persistent else TRANSIENT
    state = _STATES.get(guest.state, IS_OTHER)
    return (
        (not flags & (ACTIVE | INACTIVE) or bool(flags & activity))
        and (not flags & (PERSISTENT | TRANSIENT) or bool(flags & persistence))
        and (not flags & STATE_FILTERS or bool(flags & state))
    )


async def get_all_domain_stats(call: Call) -> Answer:
    """Answer `virConnectGetAllDomainStats` and `virDomainListGetStats`."""
    arguments = call.arguments
    asked = arguments.take_array(call.domain, MAX_LISTED)
    groups, flags = arguments.take_uint(), arguments.take_uint()
    unknown = flags & ~_KNOWN
    if unknown:
        raise RpcError.bad_argument(
            FROM_QEMU,
            f"unsupported flags ({unknown:#x}) in function qemuConnectGetAllDomainStats",
            "qemuConnectGetAllDomainStats",
            "flags",
        )
    if flags & ENFORCE and groups & ~EVERY_GROUP:
        raise RpcError(
            UNSUPPORTED,
            FROM_QEMU,
            f"Stats types bits {groups & ~EVERY_GROUP:#x} are not supported by this daemon or QEMU",
        )
    groups = groups & EVERY_GROUP if groups else EVERY_GROUP
    _vanish(call, asked)
    every = call.host.guests
    # a guest that was asked for and has ended is left out, without an error
    found = map(every.get, asked) if asked else every.values()
    guests = [guest for guest in found if guest is not None and matches(guest, flags)]
    for refusal in call.host.refusals:
        refusal.strike(guests, groups)
    answered = []
    for at, guest in enumerate(guests, 1):
        answered.append((guest, await _record(call, guest, groups, flags)))
        if at % CHUNK == 0:
            await breathe()
    return await _pack(call, answered)


def _vanish(call: Call, asked: list[bytes]) -> None:
    """Let guests end between the call and its answer, under a fault."""
    host = call.host
    candidates = [u for u in asked or host.guests if u in host.guests and host.guests[u].active]
    if isinstance(call.vanishing, int):
        ending = candidates[: call.vanishing]
    else:
        ending = [uuid for uuid in candidates if uuid in call.vanishing]
    for uuid in ending:
        host.destroy(host.guests[uuid])


async def _record(call: Call, guest: Guest, groups: int, flags: int) -> Record:
    backing = bool(flags & BACKING)
    job = True
    late = guest.hung is not None or guest.lag > 0
    if groups & MONITOR_GROUPS and (late or guest.job.locked()):
        job = await _take_job(call, guest, wait=not flags & NOWAIT)
        if job:
            await _hold_job(call, guest)
    return guest.record(groups, job=job, backing=backing)


async def _take_job(call: Call, guest: Guest, *, wait: bool) -> bool:
    if guest.job.locked() and not wait:
        return False
    try:
        async with asyncio.timeout(call.job_wait_seconds):
            await guest.job.acquire()
    except TimeoutError:
        return False
    return True


async def _hold_job(call: Call, guest: Guest) -> None:
    """Query the monitor while holding the job, however long that takes."""
    guest.job_since = call.host.clock()
    try:
        await asyncio.sleep(guest.lag)
        while guest.hung is not None:
            await guest.hung.wait()
    finally:
        guest.job.release()


async def _pack(call: Call, answered: list[tuple[Guest, Record]]) -> Answer:
    if len(answered) > MAX_LISTED:
        raise RpcError(
            INTERNAL,
            FROM_RPC,
            f"Number of domain stats records is {len(answered)}, "
            f"which exceeds max limit: {MAX_LISTED}",
        )
    for _, record in answered:
        if record.params > MAX_PARAMS:
            raise RpcError(
                RPC, 0, f"too many parameters '{record.params}' for limit '{MAX_PARAMS}'"
            )
    if 4 + sum(record.size for _, record in answered) > MAX_PAYLOAD:
        raise RpcError(RPC, FROM_RPC, "Unable to encode message payload")
    chunks = [pack_uint(len(answered))]
    for start in range(0, len(answered), CHUNK):
        now, epoch = call.host.clock(), int(call.host.epoch())
        part = answered[start : start + CHUNK]
        chunks.append(b"".join([r.pack(g.drivers(now, epoch)) for g, r in part]))
        await breathe()
    return chunks

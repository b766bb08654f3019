"""Procedures of one domain: what it is, what it does, and the few that change it."""

from __future__ import annotations

from virtstatd_simulator.answers.calls import Call, active_guest
from virtstatd_simulator.answers.cpus import cpu_time
from virtstatd_simulator.guests.load import UNIT_BITS, Driver
from virtstatd_simulator.guests.xml import domain_xml, elements, without_prefix
from virtstatd_simulator.wire.rpc import (
    FROM_DOMAIN,
    FROM_QEMU,
    INVALID_ARG,
    NO_METADATA,
    UNSUPPORTED,
    RpcError,
)
from virtstatd_simulator.wire.xdr import (
    pack_array,
    pack_hyper,
    pack_int,
    pack_string,
    pack_uhyper,
    pack_uint,
)


OCCUPIED = 2  # virDomainControlState
MIGRATABLE_AND_BELOW = 15  # virDomainXMLFlags
XML_INACTIVE = 2
ELEMENT = 2  # virDomainMetadataType


def get_info(call: Call) -> bytes:
    """Give state, memory, vCPUs and CPU time."""
    guest = call.guest()
    kib = guest.flavor.memory_mib * 1024
    return (
        pack_uint(guest.state)
        + pack_uhyper(kib)
        + pack_uhyper(kib)
        + pack_uint(guest.flavor.vcpus)
        + pack_uhyper(cpu_time(call, guest))
    )


def get_state(call: Call) -> bytes:
    """Give state and reason."""
    guest = call.guest()
    return pack_int(guest.state) + pack_int(guest.reason)


def get_control_info(call: Call) -> bytes:
    """Say whether the monitor is free, and for how many ms it has not been."""
    guest = active_guest(call)
    if guest.job.locked():
        since = int((call.host.clock() - guest.job_since) * 1000)
        return pack_uint(OCCUPIED) + pack_uint(0) + pack_uhyper(since)
    return pack_uint(0) + pack_uint(0) + pack_uhyper(0)


def get_xml(call: Call) -> bytes:
    """Describe a domain."""
    guest = call.guest()
    flags = call.arguments.take_uint()
    if flags & ~MIGRATABLE_AND_BELOW:
        raise RpcError.bad_argument(
            FROM_QEMU,
            f"unsupported flags ({flags & ~MIGRATABLE_AND_BELOW:#x})"
            " in function qemuDomainGetXMLDesc",
            "qemuDomainGetXMLDesc",
            "flags",
        )
    return pack_string(domain_xml(guest, inactive=bool(flags & XML_INACTIVE)))


def get_metadata(call: Call) -> bytes:
    """Give a metadata element by its URI; simulated guests have no title and no description."""
    guest = call.guest()
    kind, uri = call.arguments.take_int(), call.arguments.take_optional()
    element = elements(guest).get(uri or "") if kind == ELEMENT else None
    if element is None:
        raise RpcError(NO_METADATA, FROM_DOMAIN, "Requested metadata element is not present")
    return pack_string(without_prefix(element, uri or ""))


def set_metadata(call: Call) -> bytes:
    """Set or remove a metadata element."""
    guest = call.guest()
    kind, element = call.arguments.take_int(), call.arguments.take_optional()
    key, uri = call.arguments.take_optional(), call.arguments.take_optional()
    if kind != ELEMENT or uri is None:
        raise RpcError(INVALID_ARG, FROM_QEMU, f"unknown metadata type '{kind}'")
    if element is not None:
        head, _, tail = element.strip().partition(">")
        name = head.lstrip("<").rstrip("/").split(" ")[0]
        closed = " /" if head.endswith("/") else ""
        head = head.rstrip("/").replace(f"<{name}", f'<{key}:{name} xmlns:{key}="{uri}"', 1)
        element = f"{head}{closed}>{tail.replace(f'</{name}>', f'</{key}:{name}>')}"
    call.host.set_metadata(guest, uri, element)
    return b""


def get_os_type(call: Call) -> bytes:
    """Say that the guest is fully virtualized."""
    call.guest()
    return pack_string("hvm")


def get_max_memory(call: Call) -> bytes:
    """Give the memory in KiB."""
    return pack_uhyper(call.guest().flavor.memory_mib * 1024)


def get_vcpu_count(call: Call) -> bytes:
    """Give the number of vCPUs, present and possible alike."""
    return pack_int(call.guest().flavor.vcpus)


def is_active(call: Call) -> bytes:
    """Say whether it has a process."""
    return pack_int(int(call.guest().active))


def is_persistent(call: Call) -> bytes:
    """Say whether it outlives its process."""
    return pack_int(int(call.guest().persistent))


def get_autostart(call: Call) -> bytes:
    """Say whether it starts with the host."""
    return pack_int(int(call.guest().autostart))


def is_not(call: Call) -> bytes:
    """Say no: updated, with a managed save image, of any snapshot."""
    call.guest()
    return pack_int(0)


def has_none(call: Call) -> bytes:
    """Give an empty list and its length: disk errors, security labels."""
    call.guest()
    return pack_uint(0) + pack_int(0)


def has_no_messages(call: Call) -> bytes:
    """Give an empty list alone."""
    call.guest()
    return pack_uint(0)


def get_job_info(call: Call) -> bytes:
    """Say that no migration or backup runs."""
    active_guest(call)
    return pack_int(0) + pack_uhyper(0) * 11


def get_job_stats(call: Call) -> bytes:
    """Say the same in typed parameters."""
    active_guest(call)
    return pack_int(0) + pack_uint(0)


def get_block_job_info(call: Call) -> bytes:
    """Say that no block job runs."""
    active_guest(call)
    return pack_int(0) * 2 + pack_uhyper(0) * 3


def get_scheduler_type(call: Call) -> bytes:
    """Name the scheduler and how many parameters it has."""
    call.guest()
    return pack_string("posix") + pack_int(9)


def get_memory_stats(call: Call) -> bytes:
    """Give the balloon's three numbers that need no guest driver."""
    kib = active_guest(call).flavor.memory_mib * 1024
    rows = ((6, kib), (7, kib * 2 // 3), (9, int(call.host.epoch())))  # actual, RSS, last update
    return pack_array(pack_int(tag) + pack_uhyper(value) for tag, value in rows)


def interface_stats(call: Call) -> bytes:
    """Give the counters of one NIC."""
    guest = active_guest(call)
    tap = call.arguments.take_string()
    if tap not in guest.taps:
        raise RpcError(INVALID_ARG, FROM_DOMAIN, f"'{tap}' is not a known interface")
    moved = guest.drivers(call.host.clock(), 0)[Driver.NET]
    share = guest.taps.index(tap) + 1
    return b"".join(
        pack_hyper(per_second // share * moved >> UNIT_BITS)
        for per_second in (110_000_000, 137_500, 0, 1, 60_000_000, 75_000, 0, 1)
    )


def get_guest_agent(_: Call) -> bytes:
    """Refuse what needs a guest agent: no simulated guest has one."""
    raise RpcError(UNSUPPORTED, FROM_QEMU, "QEMU guest agent is not configured")


def suspend(call: Call) -> bytes:
    """Pause a guest."""
    call.host.suspend(call.guest())
    return b""


def resume(call: Call) -> bytes:
    """Let a guest run on."""
    call.host.resume(call.guest())
    return b""


def destroy(call: Call) -> bytes:
    """End a guest."""
    call.host.destroy(call.guest())
    return b""


def create(call: Call) -> bytes:
    """Start a guest that is shut off."""
    call.host.start(call.guest())
    return b""


def create_with_flags(call: Call) -> bytes:
    """Start a guest and give it back with its id."""
    return call.host.start(call.guest()).pack()


def reboot(call: Call) -> bytes:
    """Reset a guest; libvirt 9.0 says so twice."""
    guest = active_guest(call)
    call.host.tell(guest, 1)
    call.host.tell(guest, 1)
    return b""

"""Procedures of one domain: its identity, its state, its metadata."""

from __future__ import annotations

from virtstatd_simulator.answers.calls import Call
from virtstatd_simulator.answers.cpus import cpu_time
from virtstatd_simulator.guests.xml import domain_xml, elements, without_prefix
from virtstatd_simulator.wire.rpc import (
    FROM_DOMAIN,
    FROM_QEMU,
    NO_METADATA,
    UNSUPPORTED,
    RpcError,
)
from virtstatd_simulator.wire.xdr import pack_int, pack_string, pack_uhyper, pack_uint


OCCUPIED = 2  # virDomainControlState
MIGRATABLE_AND_BELOW = 15  # virDomainXMLFlags
XML_INACTIVE = 2
ELEMENT = 2  # virDomainMetadataType


def get_info(call: Call) -> bytes:
    """Return state, memory, vCPUs and CPU time."""
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
    """Return state and reason."""
    guest = call.guest()
    return pack_int(guest.state) + pack_int(guest.reason)


def get_control_info(call: Call) -> bytes:
    """Report whether the job is taken, and for how many ms."""
    guest = call.active_guest()
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
    """Return a metadata element by its URI; simulated guests have no title and no description."""
    guest = call.guest()
    kind, uri = call.arguments.take_int(), call.arguments.take_optional()
    element = elements(guest).get(uri or "") if kind == ELEMENT else None
    if element is None:
        raise RpcError(NO_METADATA, FROM_DOMAIN, "Requested metadata element is not present")
    return pack_string(without_prefix(element, uri or ""))


def get_os_type(call: Call) -> bytes:
    """Report that the guest is fully virtualized."""
    call.guest()
    return pack_string("hvm")


def is_active(call: Call) -> bytes:
    """Report whether it has a process."""
    return pack_int(int(call.guest().active))


def is_persistent(call: Call) -> bytes:
    """Report whether it outlives its process."""
    return pack_int(int(call.guest().persistent))


def get_autostart(call: Call) -> bytes:
    """Report that it does not start with the host."""
    call.guest()
    return pack_int(0)


def has_managed_save(call: Call) -> bytes:
    """Report that it has no managed save image."""
    call.guest()
    return pack_int(0)


def get_messages(call: Call) -> bytes:
    """Report that libvirt has no warnings about it."""
    call.guest()
    return pack_uint(0)


def get_job_info(call: Call) -> bytes:
    """Report that no migration, save or backup is in progress."""
    call.active_guest()
    return pack_int(0) + pack_uhyper(0) * 11


def get_job_stats(call: Call) -> bytes:
    """Report the same in typed parameters."""
    call.active_guest()
    return pack_int(0) + pack_uint(0)


def get_block_job_info(call: Call) -> bytes:
    """Report that no block job is in progress."""
    call.active_guest()
    return pack_int(0) * 2 + pack_uhyper(0) * 3


def get_guest_info(_: Call) -> bytes:
    """Refuse: no simulated guest has an agent."""
    raise RpcError(UNSUPPORTED, FROM_QEMU, "QEMU guest agent is not configured")

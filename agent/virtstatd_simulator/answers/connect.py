"""Procedures of the connection: opening, versions, lists, lookups, event callbacks."""

from __future__ import annotations

from virtstatd_simulator.answers.calls import Call
from virtstatd_simulator.answers.stats import matches
from virtstatd_simulator.guests.events import WIRE
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.guests.xml import capabilities_xml
from virtstatd_simulator.wire.rpc import (
    FROM_DOMAIN,
    FROM_QEMU,
    FROM_RPC,
    INTERNAL,
    MAX_DOMAINS,
    NO_DOMAIN,
    NO_SUPPORT,
    RpcError,
)
from virtstatd_simulator.wire.xdr import (
    pack_array,
    pack_int,
    pack_string,
    pack_uhyper,
    pack_uint,
)


QEMU_VERSIONS = {9: 7002022, 11: 10001000, 12: 11000000}

# virDrvFeature: what libvirtd with its QEMU driver says yes to
_FEATURES = frozenset({3, 4, *range(6, 17)})
_KEEPALIVE = 10

_LISTABLE = 0x3FFF  # every filter of virConnectListAllDomains
_HAS = (1 << 8, 1 << 10, 1 << 12)  # managed save, autostart, snapshot
_LACKS = (1 << 9, 1 << 11, 1 << 13)


def open_(call: Call) -> bytes:
    """Open a hypervisor connection."""
    name = call.arguments.take_optional()
    flags = call.arguments.take_uint()
    if call.connection.opened:
        raise RpcError(INTERNAL, FROM_RPC, "connection already open")
    if name and not name.startswith("qemu:"):
        raise RpcError(5, 0, f"no connection driver available for {name}")
    call.connection.opened = True
    call.connection.readonly |= bool(flags & 1)
    return b""


def close(call: Call) -> bytes:
    """Close the connection after this answer."""
    call.connection.close_soon()
    return b""


def auth_list(_: Call) -> bytes:
    """Offer one way to authenticate: none."""
    return pack_array([pack_int(0)])


def supports_feature(call: Call) -> bytes:
    """Say what the daemon can; asking for keepalive starts it."""
    feature = call.arguments.take_int()
    if feature == _KEEPALIVE:
        call.connection.start_keepalive()
        return pack_int(1)
    call.require_open()
    return pack_int(int(feature in _FEATURES))


def get_type(_: Call) -> bytes:
    """Name the driver."""
    return pack_string("QEMU")


def get_version(call: Call) -> bytes:
    """Give the version of QEMU."""
    return pack_uhyper(QEMU_VERSIONS[call.host.release])


def get_lib_version(call: Call) -> bytes:
    """Give the version of libvirt."""
    return pack_uhyper(call.host.version)


def get_hostname(call: Call) -> bytes:
    """Name the host."""
    return pack_string(call.host.name)


def get_uri(_: Call) -> bytes:
    """Give the URI that the daemon opened."""
    return pack_string("qemu:///system")


def get_capabilities(call: Call) -> bytes:
    """Describe the host."""
    return pack_string(capabilities_xml(call.host.cpus, call.host.memory_kib))


def get_max_vcpus(_: Call) -> bytes:
    """Give the most vCPUs that a guest may have."""
    return pack_int(1024)


def is_secure(_: Call) -> bytes:
    """Confirm that a local socket is secure."""
    return pack_int(1)


def unsupported(call: Call) -> bytes:
    """Refuse what the simulator does not have, as a driver without that function does."""
    raise RpcError(NO_SUPPORT, FROM_DOMAIN, f"procedure {call.procedure}")


def nothing(_: Call) -> bytes:
    """Accept without an answer."""
    return b""


def empty_list(_: Call) -> bytes:
    """Give an empty list and its length: networks, pools, snapshots and the like."""
    return pack_uint(0) + pack_int(0)


def list_all_domains(call: Call) -> bytes:
    """List domains by filter."""
    wanted, flags = call.arguments.take_int(), call.arguments.take_uint()
    if flags & ~_LISTABLE:
        raise RpcError.bad_argument(
            FROM_QEMU,
            f"unsupported flags ({flags & ~_LISTABLE:#x}) in function qemuConnectListAllDomains",
            "qemuConnectListAllDomains",
            "flags",
        )
    found = [guest for guest in call.host.guests.values() if _listed(guest, flags)]
    if len(found) > MAX_DOMAINS:
        raise RpcError(
            INTERNAL, FROM_RPC, f"Too many domains '{len(found)}' for limit '{MAX_DOMAINS}'"
        )
    return pack_array([g.pack() for g in found] if wanted else ()) + pack_uint(len(found))


def _listed(guest: Guest, flags: int) -> bool:
    """Apply the filters that statistics have, and those that only a list has."""
    for has, lacks, is_so in zip(_HAS, _LACKS, (False, guest.autostart, False), strict=True):
        asked = flags & (has | lacks)
        if asked and not flags & (has if is_so else lacks):
            return False
    return matches(guest, flags)


def list_domains(call: Call) -> bytes:
    """List the ids of active domains."""
    limit = call.arguments.take_int()
    return pack_array(map(pack_int, list(call.host.by_id)[: max(limit, 0)]))


def num_of_domains(call: Call) -> bytes:
    """Count active domains."""
    return pack_int(len(call.host.by_id))


def list_defined_domains(call: Call) -> bytes:
    """List the names of inactive domains."""
    limit = call.arguments.take_int()
    names = [guest.name for guest in call.host.guests.values() if not guest.active]
    return pack_array(map(pack_string, names[: max(limit, 0)]))


def num_of_defined_domains(call: Call) -> bytes:
    """Count inactive domains."""
    return pack_int(sum(not guest.active for guest in call.host.guests.values()))


def lookup_by_id(call: Call) -> bytes:
    """Look an active domain up by its number."""
    number = call.arguments.take_int()
    guest = call.host.by_id.get(number)
    if guest is None:
        raise RpcError(NO_DOMAIN, FROM_QEMU, f"no domain with matching id {number}")
    return guest.pack()


def lookup_by_uuid(call: Call) -> bytes:
    """Look a domain up by its UUID."""
    return call.host.find(call.arguments.take_fixed(16)).pack()


def lookup_by_name(call: Call) -> bytes:
    """Look a domain up by its name."""
    name = call.arguments.take_string()
    guest = call.host.by_name.get(name)
    if guest is None:
        raise RpcError(NO_DOMAIN, FROM_QEMU, f"no domain with matching name '{name}'")
    return guest.pack()


def register_event(call: Call) -> bytes:
    """Register a callback for one event, of every domain or of one."""
    event = call.arguments.take_int()
    domain = call.domain() if call.arguments.take_uint() else None
    if event not in WIRE:
        raise RpcError(INTERNAL, FROM_RPC, f"unsupported event ID {event}")
    if domain is not None:
        call.host.find(domain)
    return pack_int(call.connection.new_callback(event, domain))


def deregister_event(call: Call) -> bytes:
    """Forget a callback."""
    callback = call.arguments.take_int()
    if call.connection.callbacks.pop(callback, None) is None:
        raise RpcError(INTERNAL, FROM_RPC, f"domain event callback {callback} not registered")
    return b""

"""Procedures of the connection: opening, lists, lookups, event callbacks."""

from __future__ import annotations

from virtstatd_simulator.answers.calls import Call
from virtstatd_simulator.answers.stats import matches
from virtstatd_simulator.guests.events import WIRE
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.wire.rpc import (
    FROM_DOMAIN,
    FROM_QEMU,
    FROM_RPC,
    INTERNAL,
    MAX_LISTED,
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


# virDrvFeature: what libvirtd with its QEMU driver affirms
_FEATURES = frozenset({3, 4, *range(6, 17)})
_KEEPALIVE = 10

_LISTABLE = 0x3FFF  # every filter of virConnectListAllDomains
# managed save, autostart, snapshot: no guest has any
_HAS = (1 << 8, 1 << 10, 1 << 12)
_LACKS = (1 << 9, 1 << 11, 1 << 13)


def open_(call: Call) -> bytes:
    """Open a hypervisor connection."""
    name = call.arguments.take_optional()
    flags = call.arguments.take_uint()
    if call.client.opened:
        raise RpcError(INTERNAL, FROM_RPC, "connection already open")
    if name and not name.startswith("qemu:"):
        raise RpcError(5, 0, f"no connection driver available for {name}")
    call.client.opened = True
    call.client.readonly |= bool(flags & 1)
    return b""


def close(call: Call) -> bytes:
    """Close the connection after this answer."""
    call.client.close_soon()
    return b""


def auth_list(_: Call) -> bytes:
    """Offer one way to authenticate: none."""
    return pack_array([pack_int(0)])


def supports_feature(call: Call) -> bytes:
    """Report whether the daemon has a feature; asking for keepalive starts it."""
    feature = call.arguments.take_int()
    if feature == _KEEPALIVE:
        call.client.start_keepalive()
        return pack_int(1)
    call.require_open()
    return pack_int(int(feature in _FEATURES))


def get_lib_version(call: Call) -> bytes:
    """Return the version of libvirt."""
    return pack_uhyper(call.host.version)


def count_inactive(call: Call) -> bytes:
    """Return how many domains do not run."""
    return pack_int(sum(not guest.active for guest in call.host.guests.values()))


def get_hostname(call: Call) -> bytes:
    """Name the host."""
    return pack_string(call.host.name)


def unsupported(call: Call) -> bytes:
    """Refuse a procedure as a driver without that function does."""
    raise RpcError(NO_SUPPORT, FROM_DOMAIN, f"procedure {call.procedure}")


def nothing(_: Call) -> bytes:
    """Accept."""
    return b""


def empty_list(_: Call) -> bytes:
    """Return an empty list and its length: networks, storage pools."""
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
    if len(found) > MAX_LISTED:
        raise RpcError(
            INTERNAL, FROM_RPC, f"Too many domains '{len(found)}' for limit '{MAX_LISTED}'"
        )
    return pack_array([g.pack() for g in found] if wanted else ()) + pack_uint(len(found))


def _listed(guest: Guest, flags: int) -> bool:
    """Apply the filters of statistics, and those of lists only, which no guest passes."""
    asks = any(flags & has and not flags & lacks for has, lacks in zip(_HAS, _LACKS, strict=True))
    return not asks and matches(guest, flags)


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
    """Register a callback for one event, of all domains or of one."""
    event = call.arguments.take_int()
    domain = call.domain() if call.arguments.take_uint() else None
    if event not in WIRE:
        raise RpcError(INTERNAL, FROM_RPC, f"unsupported event ID {event}")
    if domain is not None:
        call.host.find(domain)
    return pack_int(call.client.new_callback(event, domain))


def deregister_event(call: Call) -> bytes:
    """Remove a callback."""
    callback = call.arguments.take_int()
    if call.client.callbacks.pop(callback, None) is None:
        raise RpcError(INTERNAL, FROM_RPC, f"domain event callback {callback} not registered")
    return b""

"""Virtual networks: whether they are active, their bridges, and how many guests are on them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import libvirt
from msgspec import Meta, Struct

from virtstatd.collect.descriptions.xml import Undescribable, parsed_xml
from virtstatd.collect.objects.collector import ObjectCollector, ObjectFacts, ObjectKind
from virtstatd.collect.parts import CollectorKind, Parts, PollSeconds
from virtstatd.hypervisor.aside import Aside
from virtstatd.model import Labels


NAME: Final = "networks"
GROUP: Final = "network"


class NetworksOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Virtual networks: active or not, bridge, ports; one list, and some calls for each."""

    enabled: Annotated[
        bool,
        Meta(
            description="Read networks. With modular daemons libvirt starts virtnetworkd for"
            " this, if it is installed."
        ),
    ] = True
    interval_seconds: PollSeconds = 60.0
    leases: Annotated[
        bool, Meta(description="Count DHCP leases, for which libvirt reads a file per network.")
    ] = False


def _listed(connection: libvirt.virConnect) -> dict[str, str]:
    return {network.UUIDString(): network.name() for network in connection.listAllNetworks(0)}


def read_network(
    connection: libvirt.virConnect, uuid: str, *, leases: bool = False
) -> ObjectFacts | None:
    """Return the facts of a network, None if it has gone."""
    try:
        network = connection.networkLookupByUUIDString(uuid)
        active = network.isActive()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise
    facts = ObjectFacts()
    facts.numbers["active", ()] = active
    facts.take("autostart", network.autostart)
    facts.take("persistent", network.isPersistent)
    if active:
        facts.take("ports", lambda: len(network.listAllPorts(0)))
        if leases:
            facts.take("leases", lambda: len(network.DHCPLeases()))
    described = facts.ask("info", partial(network.XMLDesc, 0))
    if described is not None:
        facts.numbers["info", (("uuid", uuid), *_described(described))] = 1
    return facts


def _described(xml: str) -> Labels:
    """Return what a network is, from its XML: its bridge, and how it forwards."""
    try:
        root = parsed_xml(xml)
    except Undescribable:
        return ()
    bridge, forward = root.find("bridge"), root.find("forward")
    facts = {
        "bridge": bridge.get("name", "") if bridge is not None else "",
        "forward": forward.get("mode", "nat") if forward is not None else "",
    }
    return tuple((name, text) for name, text in facts.items() if text)


def networks(options: NetworksOptions, parts: Parts) -> ObjectCollector | None:
    """Build the collector, None if it is off."""
    if not options.enabled:
        return None
    hypervisor = parts.hypervisor
    return ObjectCollector(
        ObjectKind(NAME, GROUP, GROUP, _listed, partial(read_network, leases=options.leases)),
        parts.catalog,
        Aside(NAME, hypervisor.lanes.open_session, hypervisor.up),
        parts.log,
        interval_seconds=options.interval_seconds,
        deadline_seconds=hypervisor.deadline_seconds,
    )


KIND: Final = CollectorKind(NAME, networks, NAME, NetworksOptions)

"""Where a guest is on its host, in its document."""

from __future__ import annotations

from typing import Any

from support.insight import World, disk, read, state
from virtstatd.model import Domain, Labels, Number


VM = Domain("11111111-1111-4111-8111-111111111111", "vm", 1, (("domain", "vm"),))
VDA: Labels = (("target_device", "vda"),)
TAP: Labels = (("target_device", "tap0"),)

Values = dict[tuple[str, Labels], Number]


def placed() -> dict[str, Any]:
    """Return the document of a guest of which everything is known."""
    world = World()
    nic = {"interface_type": "bridge", "source_bridge": "br0", "source_network": "ovs", "vlan": "7"}
    described: Values = {
        ("nic", (*TAP, *nic.items(), ("mac_address", "52:54:00:00:00:01"))): 1,
        ("limit_receive_average", TAP): 1_000_000,
        ("limit_transmit_burst", TAP): 4096,
    }
    details: Values = {
        ("start_time", ()): 1_764_210_000.5,
        **{("vcpu_current_cpu", (("vcpu", str(at)),)): 7 - at for at in range(2)},
        **{("vcpu_affinity_cpus", (("vcpu", str(at)),)): 8 for at in range(2)},
        **{("vcpu_affinity", (("vcpu", str(at)), ("cpus", "0-7"))): 1 for at in range(2)},
        **{
            ("numa_memory", (("numa_node", node), ("memory_kind", kind))): 100
            for node in "01"
            for kind in ("anon", "file")
        },
        ("huge_pages", ()): 2 << 20,
    }
    storage: Values = {("disk", (*VDA, ("storage_type", "nfs4"), ("storage", "nas:/x"))): 1}
    errors: Values = {("disks", ()): 1, ("disk", (*VDA, ("error", "no_space"))): 1}
    vcpus: Values = {
        ("{vcpu}.time", (("vcpu", "0"),)): 1,
        ("{vcpu}.time", (("vcpu", "1"),)): 1,
    }
    counters: Values = {("{target_device}.rx.bytes", TAP): 1}
    world.put(
        state(VM),
        disk(VM, 1, 0.1),
        read(VM, "vcpu", vcpus),
        read(VM, "net", counters),
        read(VM, "domain", described),
        read(VM, "local", details),
        read(VM, "storage", storage),
        read(VM, "disk_errors", errors),
    )
    document = world.insight.documents.guest(VM.uuid)
    assert document
    return document


def test_a_guest_tells_where_it_is():
    """CPUs of each vCPU, memory of each node, the storage of each disk, and each network."""
    document = placed()
    assert document["incarnation"]["started"] == "2025-11-27T02:20:00.500Z"
    assert [
        (each["vcpu"], each["current_cpu"], each["affinity_cpus"], each["affinity"])
        for each in document["vcpus"]
    ] == [("0", 7, 8, "0-7"), ("1", 6, 8, "0-7")]
    memory = document["memory"]
    assert memory["huge_pages_bytes"] == 2 << 20
    assert memory["numa_nodes"] == [{"node": "0", "bytes": 200}, {"node": "1", "bytes": 200}]
    (vda,) = document["disks"]
    assert (vda["storage_type"], vda["storage"], vda["error"]) == ("nfs4", "nas:/x", "no_space")
    (tap,) = document["nics"]
    assert (tap["source"], tap["source_type"], tap["vlan"]) == ("ovs", "bridge", "7")
    assert (tap["mac_address"], tap["model"]) == ("52:54:00:00:00:01", None)
    assert tap["limits"] == {
        "receive_average_bytes_per_second": 1_000_000,
        "transmit_burst_bytes": 4096,
    }


def test_what_is_not_known_is_null():
    """A guest of another host has the same keys."""
    world = World()
    vcpu = read(VM, "vcpu", {("{vcpu}.time", (("vcpu", "0"),)): 1})
    world.put(
        state(VM), disk(VM, 1, 0.1), vcpu, read(VM, "net", {("{target_device}.rx.bytes", TAP): 1})
    )
    document = world.insight.documents.guest(VM.uuid)
    assert document
    assert document.keys() == placed().keys()
    for part in "vcpus", "disks", "nics":
        assert document[part][0].keys() == placed()[part][0].keys()
    assert document["incarnation"]["started"] is None
    assert document["vcpus"][0]["current_cpu"] is None
    assert document["memory"]["numa_nodes"] == []
    assert document["memory"]["huge_pages_bytes"] is None
    assert document["nics"][0]["limits"] == {}

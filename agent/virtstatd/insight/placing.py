"""Where a guest is on its host: CPUs, NUMA nodes, networks, storages, and since when."""

from __future__ import annotations

from typing import Final

from virtstatd.insight.document import Document, stamp
from virtstatd.insight.guests import D, whole
from virtstatd.insight.lookup import Lookup


_B: Final = f"{D}_block_stats"
_NIC: Final = f"{D}_interface_stats"

_LEADS: Final = ("source_network", "source_bridge", "source_device")
"""Where an interface leads, in the user's words first."""


def started(look: Lookup) -> str | None:
    """Return when the guest's process started, None if the kernel does not say."""
    at = look.value(f"{D}_start_time_seconds")
    return None if at is None else stamp(round(at * 1e9))


def place_vcpus(look: Lookup, vcpus: list[Document]) -> list[Document]:
    """Add the CPU that each vCPU ran on last, and those that it may run on."""
    now = _by(look, f"{D}_vcpu_current_cpu", "vcpu")
    several = _by(look, f"{D}_vcpu_affinity_cpus", "vcpu")
    lists = _facts(look, f"{D}_vcpu_affinity_info", "vcpu")
    for each in vcpus:
        vcpu = each["vcpu"]
        each["current_cpu"] = whole(now.get(vcpu))
        each["affinity_cpus"] = whole(several.get(vcpu))
        each["affinity"] = lists.get(vcpu, {}).get("cpus")
    return vcpus


def place_disks(look: Lookup, disks: list[Document]) -> list[Document]:
    """Add the storage of each disk, and why its requests fail if they do."""
    storages = _facts(look, f"{_B}_storage_info", "target_device")
    errors = _facts(look, f"{_B}_error_info", "target_device")
    for each in disks:
        storage = storages.get(each["device"], {})
        each["storage_type"] = storage.get("storage_type")
        each["storage"] = storage.get("storage")
        each["error"] = errors.get(each["device"], {}).get("error")
    return disks


def place_nics(look: Lookup, nics: list[Document]) -> list[Document]:
    """Add what each interface is, where it leads, and what it may use."""
    facts = _facts(look, f"{_NIC}_info", "target_device")
    limits: dict[str, Document] = {}
    for way in "receive", "transmit":
        for name in "average_bytes_per_second", "peak_bytes_per_second", "burst_bytes":
            metric = f"{_NIC}_limit_{way}_{name}"
            for device, number in _by(look, metric, "target_device").items():
                limits.setdefault(device, {})[f"{way}_{name}"] = number
    for each in nics:
        of = facts.get(each["device"], {})
        each["source"] = next((of[name] for name in _LEADS if name in of), None)
        each["source_type"] = of.get("interface_type")
        each["mac_address"] = of.get("mac_address")
        each["model"] = of.get("model_type")
        each["vlan"] = of.get("vlan")
        each["limits"] = limits.get(each["device"], {})
    return nics


def place_memory(look: Lookup) -> Document:
    """Return the guest's memory in huge pages, and on each NUMA node of the host."""
    nodes: dict[str, float] = {}
    for labels, number in look.values(f"{D}_numa_memory_bytes"):
        node = dict(labels)["numa_node"]
        nodes[node] = nodes.get(node, 0.0) + number
    return {
        "huge_pages_bytes": whole(look.value(f"{D}_huge_pages_bytes")),
        "numa_nodes": [{"node": node, "bytes": whole(number)} for node, number in nodes.items()],
    }


def _by(look: Lookup, family: str, label: str) -> dict[str, float]:
    return {dict(labels).get(label, ""): number for labels, number in look.values(family)}


def _facts(look: Lookup, family: str, label: str) -> dict[str, dict[str, str]]:
    return {facts.get(label, ""): facts for facts in map(dict, look.labels(family))}

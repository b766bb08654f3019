"""The document of one guest: its vCPUs, memory, disks, interfaces, and what happened to it."""

from __future__ import annotations

from typing import Final

from virtstatd.insight.document import Document, stamp
from virtstatd.insight.figures import GuestFigures
from virtstatd.insight.guests import D, M, memory_parts, share, whole
from virtstatd.insight.inside import agent_of, filesystems
from virtstatd.insight.limits import at_limits, disk_limits
from virtstatd.insight.lookup import Lookup
from virtstatd.insight.objects import definition_of
from virtstatd.insight.placing import (
    place_disks,
    place_memory,
    place_nics,
    place_vcpus,
    started,
)
from virtstatd.model import Labels


B: Final = f"{D}_block_stats"
NIC: Final = f"{D}_interface_stats"


def parts_of(guest: GuestFigures, look: Lookup, wall: float) -> Document:
    """Return everything about a guest but its row, its findings and its history."""
    domain = guest.domain
    return {
        "incarnation": {
            "id": domain.id,
            "since": stamp(guest.since) if guest.since else None,
            "started": started(look),
            "pid": None,
        },
        "description": description_of(domain.labels, look),
        "definition": definition_of(look),
        "host_devices": [dict(labels) for labels in look.labels(f"{D}_hostdev_info")],
        "vcpus": place_vcpus(look, vcpus(look)),
        "memory": {**memory(look, wall), **place_memory(look)},
        "disks": place_disks(look, disks(look)),
        "nics": place_nics(look, nics(look)),
        "filesystems": filesystems(look),
        "guest_agent": agent_of(look),
        "events": [
            {"time": stamp(each.at), "event": each.event, "text": each.text}
            for each in reversed(guest.events)
        ],
    }


def description_of(own: Labels, look: Lookup) -> dict[str, str]:
    """Return the facts from the guest's description by label, and what the configuration adds."""
    facts = dict(own)
    for family in f"{D}_metadata_info", f"{D}_info", f"{D}_openstack_info":
        for labels in look.labels(family):
            facts |= dict(labels)
    return facts


def vcpus(look: Lookup) -> list[Document]:
    """Return what each vCPU ran and waited."""
    columns = {
        "cpu_ratio": f"{D}_vcpu_time_seconds",
        "steal_ratio": f"{D}_vcpu_delay_seconds",
        "wait_ratio": f"{D}_vcpu_wait_seconds",
    }
    return devices(look, "vcpu", columns)


def memory(look: Lookup, wall: float) -> Document:
    """Return the guest's memory, as the balloon driver and the host see it."""
    sizes = {
        "max_bytes": f"{M}_maximum_bytes",
        "current_bytes": f"{M}_current_balloon_bytes",
        "available_bytes": f"{M}_available_bytes",
        "unused_bytes": f"{M}_unused_bytes",
        "usable_bytes": f"{M}_usable_bytes",
        "cache_bytes": f"{M}_disk_caches_bytes",
        "rss_bytes": f"{M}_rss_bytes",
    }
    return {
        **{name: whole(look.value(family)) for name, family in sizes.items()},
        "used_bytes": memory_parts(look, wall)["memory_used_bytes"],
        "swap_in_bytes_per_second": look.rate(f"{M}_swap_in_bytes"),
        "swap_out_bytes_per_second": look.rate(f"{M}_swap_out_bytes"),
    }


def disks(look: Lookup) -> list[Document]:
    """Return what each disk did, against its limits."""
    columns = {
        "read_bytes_per_second": f"{B}_read_bytes",
        "write_bytes_per_second": f"{B}_write_bytes",
        "read_iops": f"{B}_read_requests",
        "write_iops": f"{B}_write_requests",
        "flush_iops": f"{B}_flush_requests",
        "read_latency_seconds": f"{B}_read_time_seconds",
        "write_latency_seconds": f"{B}_write_time_seconds",
        "flush_latency_seconds": f"{B}_flush_time_seconds",
        "errors_per_second": f"{B}_errors",
    }
    sources = {
        facts["target_device"]: facts.get("source_file")
        for facts in map(dict, look.labels(f"{B}_info"))
        if "target_device" in facts
    }
    sizes = {
        name: {_device(labels): whole(n) for labels, n in look.values(f"{B}_{name}")}
        for name in ("capacity_bytes", "allocation_bytes")
    }
    limits, near = disk_limits(look), dict(at_limits(look))
    buckets = histograms(look)
    parts = devices(look, "target_device", columns)
    for part in parts:
        device = part["device"]
        for way in "read", "write", "flush":  # seconds of requests per second, by requests
            latency = f"{way}_latency_seconds"
            part[latency] = share(part[latency], part[f"{way}_iops"])
        part["source"] = sources.get(device)
        part |= {name: of.get(device) for name, of in sizes.items()}
        part["limits"] = limits.get(device, {})
        part["at_limit_ratio"] = near.get(device)
        part["histograms"] = buckets.get(device, {})
    return parts


def nics(look: Lookup) -> list[Document]:
    """Return what each interface received and sent."""
    columns = {
        f"{way}_{what}_per_second": f"{NIC}_{way}_{what}"
        for what in ("bytes", "packets", "drops", "errors")
        for way in ("receive", "transmit")
    }
    return devices(look, "target_device", columns)


def devices(look: Lookup, label: str, columns: dict[str, str]) -> list[Document]:
    """Return a dict for each device, of the rates of counters by column."""
    parts: dict[str, Document] = {}
    name = "device" if label == "target_device" else label
    for column, family in columns.items():
        for labels, rate in look.rates(family):
            device = dict(labels).get(label, "")
            part = parts.setdefault(device, {name: device, **dict.fromkeys(columns)})
            part[column] = rate
    return [*parts.values()]


def histograms(look: Lookup) -> dict[str, dict[str, list[Document]]]:
    """Return the latencies of each disk by operation: how many requests took at most so long."""
    found: dict[str, dict[str, list[Document]]] = {}
    for labels, count in look.values(f"{B}_latency_seconds:bucket"):
        facts = dict(labels)
        bound = facts["le"]
        of = found.setdefault(_device(labels), {}).setdefault(facts.get("operation", ""), [])
        of.append({"le": None if bound == "+Inf" else float(bound), "count": round(count)})
    return found


def _device(labels: Labels) -> str:
    return dict(labels).get("target_device", "")

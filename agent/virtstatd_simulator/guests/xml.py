"""The XML of a guest, and the elements of its metadata."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from xml.sax.saxutils import escape

from virtstatd_simulator.guests.flavors import letter
from virtstatd_simulator.guests.guests import Guest


NOVA_URI = "http://openstack.org/xmlns/libvirt/nova/1.1"

_CPU_TAGS = {"cpu_shares": "shares", "vcpu_period": "period", "vcpu_quota": "quota"} | {
    name: name
    for part in ("global", "emulator", "iothread")
    for name in (f"{part}_period", f"{part}_quota")
}
_MEMORY_TAGS = {name: name for name in ("hard_limit", "soft_limit", "swap_hard_limit")}
_DEVICE_TAGS = {"device_weight": "weight"} | {
    f"device_{way}_{what}_sec": f"{way}_{what}_sec"
    for way in ("read", "write")
    for what in ("iops", "bytes")
}
_NUMA_MODES = dict(enumerate(("strict", "preferred", "interleave", "restrictive")))


def elements(guest: Guest) -> dict[str, str]:
    """Return the metadata elements of a guest by their URI, with their name spaces."""
    found: dict[str, str] = {}
    identity = uuid.UUID(bytes=guest.uuid)
    flavor = guest.flavor
    if guest.nova:
        found[NOVA_URI] = (
            f'<nova:instance xmlns:nova="{NOVA_URI}">\n'
            f'  <nova:package version="27.1.0"/>\n'
            f"  <nova:name>{escape(guest.owner)}-{guest.name[-4:]}</nova:name>\n"
            f'  <nova:flavor name="m1.{flavor.vcpus}">\n'
            f"    <nova:memory>{flavor.memory_mib}</nova:memory>\n"
            f"    <nova:disk>20</nova:disk>\n"
            f"    <nova:vcpus>{flavor.vcpus}</nova:vcpus>\n"
            f"  </nova:flavor>\n"
            f"  <nova:owner>\n"
            f'    <nova:user uuid="{uuid.uuid5(identity, "user").hex}">'
            f"{escape(guest.owner)}-ops</nova:user>\n"
            f'    <nova:project uuid="{uuid.uuid5(uuid.NAMESPACE_DNS, guest.owner).hex}">'
            f"{escape(guest.owner)}</nova:project>\n"
            f"  </nova:owner>\n"
            f"</nova:instance>"
        )
    return found | guest.elements


def without_prefix(element: str, uri: str) -> str:
    """Return an element as `virDomainGetMetadata` does: without its name space."""
    head, found, tail = element.partition(f'="{uri}"')
    if not found:
        return element
    prefix = head.rpartition("xmlns:")[2]
    bare = head.rpartition(" xmlns:")[0] + tail
    return bare.replace(f"<{prefix}:", "<").replace(f"</{prefix}:", "</")


def _tuned(guest: Guest, element: str, tags: Mapping[str, str], unit: str = "") -> list[str]:
    """Write an element with those of a guest's limits that were set, by libvirt's tags."""
    inner = [
        f"    <{tag}{unit}>{guest.tuned[name]}</{tag}>"
        for name, tag in tags.items()
        if name in guest.tuned
    ]
    return [f"  <{element}>", *inner, f"  </{element}>"] if inner else []


def _block_limits(guest: Guest) -> list[str]:
    devices: dict[str, list[str]] = {}
    for name, tag in _DEVICE_TAGS.items():
        words = str(guest.tuned.get(name, "")).split(",")
        for device, number in zip(words[::2], words[1::2], strict=False):
            devices.setdefault(device, []).append(f"      <{tag}>{escape(number)}</{tag}>")
    inner = _tuned(guest, "blkiotune", {"weight": "weight"})[1:-1]
    for device, limits in devices.items():
        path = f"      <path>{escape(device)}</path>"
        inner += ["    <device>", path, *limits, "    </device>"]
    return ["  <blkiotune>", *inner, "  </blkiotune>"] if inner else []


def _numa(guest: Guest) -> list[str]:
    if "numa_nodeset" not in guest.tuned:
        return []
    mode = _NUMA_MODES.get(int(guest.tuned.get("numa_mode", 0)), "strict")
    nodes = escape(str(guest.tuned["numa_nodeset"]), {"'": "&apos;"})
    return ["  <numatune>", f"    <memory mode='{mode}' nodeset='{nodes}'/>", "  </numatune>"]


def domain_xml(guest: Guest, *, inactive: bool) -> str:
    """Write the description of a guest, or return the one that was captured."""
    if guest.xml:
        return guest.xml
    live = guest.active and not inactive
    flavor = guest.flavor
    kib = flavor.memory_mib * 1024
    attributes = f" type='{'kvm' if flavor.kvm else 'qemu'}'" + (
        f" id='{guest.id}'" if live else ""
    )
    lines = [
        f"<domain{attributes}>",
        f"  <name>{escape(guest.name)}</name>",
        f"  <uuid>{uuid.UUID(bytes=guest.uuid)}</uuid>",
    ]
    found = elements(guest)
    if found:
        inner = "\n".join(found.values()).replace("\n", "\n    ")
        lines += ["  <metadata>", f"    {inner}", "  </metadata>"]
    lines += [
        f"  <memory unit='KiB'>{kib}</memory>",
        f"  <currentMemory unit='KiB'>{kib}</currentMemory>",
        *_block_limits(guest),
        *_tuned(guest, "memtune", _MEMORY_TAGS, " unit='KiB'"),
        f"  <vcpu placement='static'>{flavor.vcpus}</vcpu>",
        *([f"  <iothreads>{flavor.iothreads}</iothreads>"] if flavor.iothreads else []),
        *_tuned(guest, "cputune", _CPU_TAGS),
        *_numa(guest),
        *(["  <resource>", "    <partition>/machine</partition>", "  </resource>"] if live else []),
        "  <os>",
        "    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>",
        "    <boot dev='hd'/>",
        "  </os>",
        "  <clock offset='utc'/>",
        "  <on_poweroff>destroy</on_poweroff>",
        "  <on_reboot>restart</on_reboot>",
        "  <on_crash>destroy</on_crash>",
        "  <devices>",
        "    <emulator>/usr/bin/qemu-system-x86_64</emulator>",
        *(line for n in range(flavor.disks) for line in _disk(guest, n, live=live)),
        *(line for n in range(flavor.nics) for line in _interface(guest, n, live=live)),
        "    <memballoon model='virtio'>",
        *(["      <stats period='10'/>"] if flavor.balloon else []),
        *(["      <alias name='balloon0'/>"] if live else []),
        "    </memballoon>",
        "  </devices>",
        "</domain>",
    ]
    return "\n".join(lines) + "\n"


def _disk(guest: Guest, n: int, *, live: bool) -> list[str]:
    flavor = guest.flavor
    index = f" index='{flavor.disks - n}'" if live else ""
    chain: list[str] = []
    if live:
        levels = flavor.backing if n == 0 else 0
        for level in range(levels):
            pad = "  " * level
            path = escape(guest.paths[flavor.disks + level])
            chain += [
                f"{pad}      <backingStore type='file' index='{flavor.disks + 1 + level}'>",
                f"{pad}        <format type='qcow2'/>",
                f"{pad}        <source file='{path}'/>",
            ]
        chain.append("  " * levels + "      <backingStore/>")
        chain += ["  " * level + "      </backingStore>" for level in reversed(range(levels))]
    return [
        "    <disk type='file' device='disk'>",
        "      <driver name='qemu' type='qcow2'/>",
        f"      <source file='{escape(guest.paths[n])}'{index}/>",
        *chain,
        f"      <target dev='vd{letter(n)}' bus='virtio'/>",
        *([f"      <alias name='virtio-disk{n}'/>"] if live else []),
        "    </disk>",
    ]


def _interface(guest: Guest, n: int, *, live: bool) -> list[str]:
    mac = ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0, *guest.uuid[:2], n & 255))
    return [
        "    <interface type='ethernet'>",
        f"      <mac address='{mac}'/>",
        *([f"      <target dev='{guest.taps[n]}'/>"] if live and n < len(guest.taps) else []),
        "      <model type='virtio'/>",
        *([f"      <alias name='net{n}'/>"] if live else []),
        "    </interface>",
    ]

"""What a domain's XML says about its disks, its interfaces and its memory, and their limits."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import product
from typing import Final

from virtstatd.model import Labels


Facts = Iterator[tuple[str, str | None]]
DeviceLimit = tuple[tuple[str, Labels], int]
"""The catalog's key, the device, and the number."""

_LIMIT: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
"""A number of libvirt's, which fits into 63 bits, also as bytes."""

_PLACES: Final = ("file", "dev", "dir", "path", "name")
"""The attributes of a disk's source with its location; no source has two of them."""

_RATES: Final = {"bytes": "bytes", "iops": "requests"}
_WAYS: Final = ("total", "read", "write")

_BANDWIDTH: Final = {"average": 1000, "peak": 1000, "floor": 1000, "burst": 1024}
"""Bytes in libvirt's units, as it passes them to tc(8): "kbps" are of 1000 bytes, "kb" of 1024."""

_BYTES: Final = {"b": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def disk_facts(root: ET.Element) -> Iterator[Facts]:
    """Yield the facts of each disk that the guest can name."""
    for disk in root.iterfind("devices/disk"):
        if disk.find("target") is not None:
            yield _disk(disk)


def tuned_limits(root: ET.Element) -> Iterator[DeviceLimit]:
    """Yield the limits that are set of each disk, those of one kind together."""
    for (unit, plain), way in product(_RATES.items(), _WAYS):
        yield from _tuned(root, f"limit_{way}_{plain}", f"{way}_{unit}_sec")
    for (unit, plain), way in product(_RATES.items(), _WAYS):
        yield from _tuned(root, f"limit_burst_{way}_{plain}", f"{way}_{unit}_sec_max")
    for unit, way in product(_RATES, _WAYS):
        name = f"{way}_{unit}_sec_max"
        for (_, device), seconds in _tuned(root, "", f"{name}_length"):
            yield ("limit_burst_length", (*device, ("of", f"{way}_{_RATES[unit]}"))), seconds
    yield from _tuned(root, "limit_request_size", "size_iops_sec")


def _tuned(root: ET.Element, key: str, element: str) -> Iterator[DeviceLimit]:
    for disk in root.iterfind("devices/disk"):
        target = attribute(disk, "target", "dev")
        if target and (number := _lowest(root, disk, element)):
            yield (key, (("target_device", target),)), number


def _lowest(root: ET.Element, disk: ET.Element, element: str) -> int:
    """Return the lowest of a disk's own limit and those of its throttle groups, 0 without any."""
    own = [disk.findtext(f"iotune/{element}")]
    groups = _groups(disk)
    shared = [
        group.findtext(element)
        for group in root.iterfind("throttlegroups/throttlegroup")
        if group.findtext("group_name") in groups
    ]
    return min(filter(None, map(_number, own + shared)), default=0)


def _groups(disk: ET.Element) -> list[str]:
    """Return the groups whose limits a disk shares: of its own tuning, or from libvirt 11.2 on."""
    names = [each.get("group") for each in disk.iterfind("throttlefilters/throttlefilter")]
    return [name for name in (disk.findtext("iotune/group_name"), *names) if name]


def _number(text: str | None) -> int:
    """Return a limit, 0 if there is none or libvirt cannot have written it."""
    text = (text or "").strip()
    return int(text) if _LIMIT.fullmatch(text) else 0


def _disk(disk: ET.Element) -> Facts:
    yield "target_device", attribute(disk, "target", "dev")
    yield "device", disk.get("device", "disk")
    yield "disk_type", disk.get("type")
    yield "target_bus", attribute(disk, "target", "bus")
    yield "driver_name", attribute(disk, "driver", "name")
    yield "driver_type", attribute(disk, "driver", "type")
    yield "driver_cache", attribute(disk, "driver", "cache")
    yield "driver_discard", attribute(disk, "driver", "discard")
    yield "source_file", _place(disk.find("source"))
    yield "source_protocol", attribute(disk, "source", "protocol")
    yield "data_store", _place(disk.find("source/dataStore/source"))
    yield "serial", disk.findtext("serial")
    yield "limit_group", ",".join(_groups(disk))
    yield "alias", attribute(disk, "alias", "name")


def _place(source: ET.Element | None) -> str | None:
    """Return what distinguishes this source of a disk from those of other disks."""
    if source is None:
        return None
    if volume := source.get("volume"):
        return f"{source.get('pool', '')}/{volume}"
    if place := next((source.get(name) for name in _PLACES if source.get(name)), None):
        return place
    if address := _pci(source):
        return address
    host = source.find("host")  # NBD without a name for the export
    if host is None:
        return None
    return host.get("socket") or f"{host.get('name', '')}:{host.get('port', '')}"


def _pci(source: ET.Element) -> str | None:
    """Return an NVMe disk's place on the bus, and its namespace unless it is the first."""
    address = source.find("address")
    where = None if address is None else pci_address(address)
    if where is None or source.get("namespace", "1") == "1":
        return where
    return f"{where}/{source.get('namespace')}"


def pci_address(address: ET.Element) -> str | None:
    """Return a place on the PCI bus as lspci shows it, None if the address is no such place."""
    try:
        domain, bus, slot, function = (
            int(address.get(part, "0"), 0) for part in ("domain", "bus", "slot", "function")
        )
    except ValueError:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def nic_facts(root: ET.Element) -> Iterator[Facts]:
    """Yield the facts of each network interface."""
    for nic in root.iterfind("devices/interface"):
        yield _nic(nic)


def _nic(nic: ET.Element) -> Facts:
    yield "target_device", attribute(nic, "target", "dev")
    yield "interface_type", nic.get("type")
    yield "source_bridge", attribute(nic, "source", "bridge")
    yield "source_network", attribute(nic, "source", "network")
    yield "source_portgroup", attribute(nic, "source", "portgroup")
    yield "source_device", attribute(nic, "source", "dev")
    yield "mac_address", attribute(nic, "mac", "address")
    yield "model_type", attribute(nic, "model", "type")
    yield "mtu_size", attribute(nic, "mtu", "size")
    yield "alias", attribute(nic, "alias", "name")
    yield "virtual_port_type", attribute(nic, "virtualport", "type")
    yield "virtual_interface", attribute(nic, "virtualport/parameters", "interfaceid")
    yield "virtual_port_profile", attribute(nic, "virtualport/parameters", "profileid")
    yield "vlan", ",".join(tag.get("id", "") for tag in nic.iterfind("vlan/tag"))


def nic_limits(root: ET.Element) -> Iterator[DeviceLimit]:
    """Yield the bandwidth that each interface may use, those of one kind together."""
    ways = {"receive": "inbound", "transmit": "outbound"}
    for (way, element), (name, unit) in product(ways.items(), _BANDWIDTH.items()):
        for nic in root.iterfind("devices/interface"):
            target = attribute(nic, "target", "dev")
            number = _number(attribute(nic, f"bandwidth/{element}", name))
            if target and number and (way, name) != ("transmit", "floor"):  # not one of libvirt's
                yield (f"limit_{way}_{name}", (("target_device", target),)), number * unit


def memory_backing(root: ET.Element) -> Facts:
    """Yield what the guest's memory is made of, nothing if the XML leaves it to libvirt."""
    backing = root.find("memoryBacking")
    if backing is None:
        return
    pages = backing.find("hugepages")
    if pages is not None:
        yield "huge_pages", "yes"
        sizes = {_size(page) for page in pages.iterfind("page")} - {0}
        yield "huge_page_bytes", ",".join(map(str, sorted(sizes)))
    yield "source_type", attribute(backing, "source", "type")
    yield "access_mode", attribute(backing, "access", "mode")
    yield "allocation_mode", attribute(backing, "allocation", "mode")
    yield "locked", None if backing.find("locked") is None else "yes"


def _size(page: ET.Element) -> int:
    return _number(page.get("size")) * _BYTES.get(page.get("unit", "KiB"), 0)


def attribute(element: ET.Element, path: str, name: str) -> str | None:
    """Return an attribute of the first element at a path, None without either."""
    found = element.find(path)
    return found.get(name) if found is not None else None

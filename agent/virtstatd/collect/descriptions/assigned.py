"""Devices of the host that a domain has for itself: PCI functions, mediated devices, USB, SCSI."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Final

from virtstatd.collect.descriptions.devices import Facts, attribute, pci_address


_PARTS: Final = ("bus", "device", "target", "unit", "port")
"""The attributes of an address on a bus that is not PCI, in their order."""

_PLACES: Final = ("wwpn", "dev")
_NAMES: Final = ("block", "char", "interface")
"""Attributes and elements of a source that has no address."""


def assigned(root: ET.Element) -> Iterator[Facts]:
    """Yield the facts of each such device; an interface that is one has a function with SR-IOV."""
    for device in root.iterfind("devices/hostdev"):
        yield _device(device, device.get("type"), "device")
    for nic in root.iterfind("devices/interface"):
        if nic.get("type") == "hostdev":
            yield _device(nic, attribute(nic, "source/address", "type") or "pci", "interface")


def _device(device: ET.Element, kind: str | None, use: str) -> Facts:
    source = device.find("source")
    yield "device", attribute(device, "alias", "name")
    yield "type", kind
    yield "use", use
    yield "address", _address(source) if source is not None else None
    yield "mdev_uuid", attribute(device, "source/address", "uuid")
    yield "model", device.get("model")
    yield "driver", attribute(device, "driver", "name")
    yield "product", _product(device)
    yield "mac_address", attribute(device, "mac", "address")


def _address(source: ET.Element) -> str | None:
    """Return where a device is on the host, in the form that its own tools use."""
    address = source.find("address")
    if address is not None and address.get("slot"):
        return pci_address(address)
    adapter = attribute(source, "adapter", "name")
    parts = [adapter, *(address.get(part) for part in _PARTS)] if address is not None else []
    if found := [part for part in parts if part]:
        return ":".join(found)
    place = next((source.get(name) for name in _PLACES if source.get(name)), None)
    return place or next((text for name in _NAMES if (text := source.findtext(name))), None)


def _product(device: ET.Element) -> str | None:
    """Return vendor and product of a USB device, as lsusb shows them."""
    vendor = attribute(device, "source/vendor", "id")
    product = attribute(device, "source/product", "id")
    if not vendor or not product:
        return None
    return f"{vendor.removeprefix('0x')}:{product.removeprefix('0x')}"

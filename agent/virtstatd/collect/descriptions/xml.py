"""The facts in the XML of a domain about it and its devices, as `*_info` series."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Final
from xml.parsers import expat

from virtstatd.catalog import Catalog
from virtstatd.model import Domain, Labels, Reading


XML_MAX_BYTES: Final = 1 << 20
"""A guest's owner may write megabytes of metadata; that must not cost the host's memory."""

DEPTH_MAX: Final = 512
"""Nesting depth; libvirt's own parser accepts 256, and embeds the metadata in its own elements."""

_NOVA: Final = re.compile(r"(\{http://openstack\.org/xmlns/libvirt/nova/[^}]*\})instance", re.ASCII)
"""Nova's element, for any version of its namespace."""

_LIMIT: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
"""A number of libvirt's, which fits into 63 bits."""

_PLACES: Final = ("file", "dev", "dir", "path", "name")
"""The attributes of a disk's source with its location; no source has two of them."""

Facts = Iterator[tuple[str, str | None]]


class Undescribable(ValueError):  # noqa: N818 - a property of the XML
    """XML that is too large, malformed or not libvirt's; the message says which."""


class Describer:
    """Turns a domain's XML into readings whose labels describe the domain and its devices."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def readings(self, domain: Domain, root: ET.Element) -> tuple[Reading, ...]:
        """Describe a domain; absent facts are absent labels."""
        borne = dict(domain.labels)  # the domain's labels are on every series: none may occur twice
        known = _present(_domain(domain, root))
        rows = [
            ("domain", tuple((name, value) for name, value in known if name not in borne)),
            *(("disk", _present(disk)) for disk in _disks(root)),
            *(("nic", _present(_nic(nic))) for nic in root.iterfind("devices/interface")),
        ]
        if nova := _present(_nova(root)):
            rows.append(("openstack", nova))
        values = dict.fromkeys(rows, 1) | dict(_disk_limits(root))
        shape = self._catalog.shape("domain", list(values))
        return (Reading(domain, shape, tuple(values.values())),)


def parsed_xml(xml: str) -> ET.Element:
    """
    Parse XML that is not trusted; a tag with a namespace is written `{uri}tag`.

    Raises `Undescribable` if it is too large, too deep, malformed or has a document type, which
    libvirt never writes and an attacker might.
    """
    if len(xml) > XML_MAX_BYTES:
        raise Undescribable(f"XML of {len(xml)} characters is larger than {XML_MAX_BYTES}")
    tree = _Tree()
    try:
        tree.parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise Undescribable(f"malformed XML: {error}") from None
    return tree.builder.close()


class _Tree:
    """
    Builds a tree from what expat finds.

    Expat does not resolve namespaces here: it would reject an undeclared prefix, which libvirt lets
    a guest's owner write and returns unchanged.
    """

    def __init__(self) -> None:
        self.builder = ET.TreeBuilder()
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.builder.data
        self._open: list[tuple[str, Mapping[str, str]]] = []

    def _refuse(self, *_: object) -> None:
        raise Undescribable("XML with a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= DEPTH_MAX:
            raise Undescribable(f"XML with more than {DEPTH_MAX} elements within each other")
        spaces = self._open[-1][1] if self._open else {}
        if declared := {key: uri for key, uri in attributes.items() if key.startswith("xmlns")}:
            spaces = {**spaces, **declared}
        prefix, colon, local = name.rpartition(":")
        uri = spaces.get(f"xmlns{colon}{prefix}")
        tag = f"{{{uri}}}{local}" if uri else name
        self._open.append((tag, spaces))
        self.builder.start(tag, attributes)

    def _end(self, _: str) -> None:
        self.builder.end(self._open.pop()[0])


def _present(labels: Facts) -> Labels:
    return tuple((name, value) for name, value in labels if value)


def _domain(domain: Domain, root: ET.Element) -> Facts:
    kind = root.find("os/type")
    yield "uuid", domain.uuid
    yield "type", root.get("type")
    yield "os_type", kind.text if kind is not None else None
    yield "os_type_arch", kind.get("arch") if kind is not None else None
    yield "os_type_machine", kind.get("machine") if kind is not None else None
    yield "title", root.findtext("title")
    yield "partition", root.findtext("resource/partition")


def _disks(root: ET.Element) -> Iterator[Facts]:
    for disk in root.iterfind("devices/disk"):
        if disk.find("target") is not None:
            yield _disk(disk)


def _disk_limits(root: ET.Element) -> Iterator[tuple[tuple[str, Labels], int]]:
    """Yield the limits that are set of each disk, those of one kind together."""
    for unit in "bytes", "iops":
        for way in "total", "read", "write":
            key = f"limit_{way}_{'bytes' if unit == 'bytes' else 'requests'}"
            for disk in root.iterfind("devices/disk"):
                target = _attribute(disk, "target", "dev")
                text = disk.findtext(f"iotune/{way}_{unit}_sec", "").strip()
                if target and _LIMIT.fullmatch(text) and int(text):
                    yield (key, (("target_device", target),)), int(text)


def _disk(disk: ET.Element) -> Facts:
    yield "target_device", _attribute(disk, "target", "dev")
    yield "device", disk.get("device", "disk")
    yield "disk_type", disk.get("type")
    yield "target_bus", _attribute(disk, "target", "bus")
    yield "driver_name", _attribute(disk, "driver", "name")
    yield "driver_type", _attribute(disk, "driver", "type")
    yield "driver_cache", _attribute(disk, "driver", "cache")
    yield "driver_discard", _attribute(disk, "driver", "discard")
    yield "source_file", _place(disk.find("source"))
    yield "source_protocol", _attribute(disk, "source", "protocol")
    yield "data_store", _place(disk.find("source/dataStore/source"))
    yield "serial", disk.findtext("serial")


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
    if address is None:
        return None
    try:
        domain, bus, slot, function = (
            int(address.get(part, "0"), 0) for part in ("domain", "bus", "slot", "function")
        )
    except ValueError:
        return None
    first = source.get("namespace", "1") == "1"
    where = f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
    return where if first else f"{where}/{source.get('namespace')}"


def _nic(nic: ET.Element) -> Facts:
    yield "target_device", _attribute(nic, "target", "dev")
    yield "interface_type", nic.get("type")
    yield "source_bridge", _attribute(nic, "source", "bridge")
    yield "source_network", _attribute(nic, "source", "network")
    yield "mac_address", _attribute(nic, "mac", "address")
    yield "model_type", _attribute(nic, "model", "type")
    yield "mtu_size", _attribute(nic, "mtu", "size")
    yield "virtual_interface", _attribute(nic, "virtualport/parameters", "interfaceid")


def _nova(root: ET.Element) -> Facts:
    for instance in root.iterfind("metadata/*"):
        if found := _NOVA.fullmatch(instance.tag):
            space = found[1]
            yield "instance_name", instance.findtext(f"{space}name")
            yield "instance_id", root.findtext("uuid")
            yield "flavor_name", _attribute(instance, f"{space}flavor", "name")
            for tag in ("user", "project"):
                owner = instance.find(f"{space}owner/{space}{tag}")
                if owner is not None:
                    yield f"{tag}_name", owner.text
                    yield f"{tag}_id", owner.get("uuid")
            return


def _attribute(element: ET.Element, path: str, name: str) -> str | None:
    found = element.find(path)
    return found.get(name) if found is not None else None

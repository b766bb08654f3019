"""What the XML of a domain says of it and its devices, as `*_info` series."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from virtstatd.catalog import Catalog
from virtstatd.model import Domain, Labels, Reading


XML_MAX_BYTES = 1 << 20
"""A guest's owner may write megabytes of metadata; they are not worth the memory of the host."""

NOVA = "{http://openstack.org/xmlns/libvirt/nova/1.1}"
NOVA_OLD = "{http://openstack.org/xmlns/libvirt/nova/1.0}"


class Undescribable(ValueError):  # noqa: N818 - a property of the XML
    """XML that is too large, malformed or not libvirt's; the message says which."""


class Describer:
    """Turn a domain's XML into readings whose labels say what the domain and its devices are."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def readings(self, domain: Domain, root: ET.Element) -> tuple[Reading, ...]:
        """Describe a domain; absent facts are absent labels."""
        borne = dict(domain.labels)  # those are on every series: none may occur twice
        known = _present(_domain(domain, root))
        rows = [
            ("domain", tuple((name, value) for name, value in known if name not in borne)),
            *(("disk", _present(disk)) for disk in _disks(root)),
            *(("nic", _present(nic)) for nic in _nics(root)),
        ]
        if nova := _present(_nova(root)):
            rows.append(("openstack", nova))
        shape = self._catalog.shape("domain", list(dict.fromkeys(rows)))
        return (Reading(domain, shape, (1,) * len(shape.series)),)


def parsed_xml(xml: str) -> ET.Element:
    """
    Parse XML that is not trusted.

    Raises `Undescribable` where it is too large, malformed or carries a document type, which
    libvirt never writes and an attacker might.
    """
    if len(xml) > XML_MAX_BYTES:
        raise Undescribable(f"XML of {len(xml)} characters is larger than {XML_MAX_BYTES}")
    if "<!DOCTYPE" in xml:
        raise Undescribable("XML with a document type")
    try:
        return ET.fromstring(xml)  # noqa: S314 - without a document type there are no entities
    except ET.ParseError as error:
        raise Undescribable(f"malformed XML: {error}") from None


def _present(labels: Iterator[tuple[str, str | None]]) -> Labels:
    return tuple((name, value) for name, value in labels if value)


def _domain(domain: Domain, root: ET.Element) -> Iterator[tuple[str, str | None]]:
    kind = root.find("os/type")
    yield "uuid", domain.uuid
    yield "type", root.get("type")
    yield "os_type", kind.text if kind is not None else None
    yield "os_type_arch", kind.get("arch") if kind is not None else None
    yield "os_type_machine", kind.get("machine") if kind is not None else None
    yield "title", root.findtext("title")
    yield "partition", root.findtext("resource/partition")


def _disks(root: ET.Element) -> Iterator[Iterator[tuple[str, str | None]]]:
    for disk in root.iterfind("devices/disk"):
        if disk.find("target") is not None:
            yield _disk(disk)


def _disk(disk: ET.Element) -> Iterator[tuple[str, str | None]]:
    yield "target_device", _attribute(disk, "target", "dev")
    yield "disk_type", disk.get("type")
    yield "target_bus", _attribute(disk, "target", "bus")
    yield "driver_name", _attribute(disk, "driver", "name")
    yield "driver_type", _attribute(disk, "driver", "type")
    yield "driver_cache", _attribute(disk, "driver", "cache")
    yield "driver_discard", _attribute(disk, "driver", "discard")
    source = disk.find("source")
    if source is not None:
        places = ("file", "dev", "dir", "name", "volume")
        yield "source_file", next((source.get(p) for p in places if source.get(p)), None)
        yield "source_protocol", source.get("protocol")
    yield "serial", disk.findtext("serial")


def _nics(root: ET.Element) -> Iterator[Iterator[tuple[str, str | None]]]:
    for nic in root.iterfind("devices/interface"):
        if nic.find("target") is not None:
            yield _nic(nic)


def _nic(nic: ET.Element) -> Iterator[tuple[str, str | None]]:
    yield "target_device", _attribute(nic, "target", "dev")
    yield "interface_type", nic.get("type")
    yield "source_bridge", _attribute(nic, "source", "bridge")
    yield "source_network", _attribute(nic, "source", "network")
    yield "mac_address", _attribute(nic, "mac", "address")
    yield "model_type", _attribute(nic, "model", "type")
    yield "mtu_size", _attribute(nic, "mtu", "size")
    yield "virtual_interface", _attribute(nic, "virtualport/parameters", "interfaceid")


def _nova(root: ET.Element) -> Iterator[tuple[str, str | None]]:
    for space in (NOVA, NOVA_OLD):
        instance = root.find(f"metadata/{space}instance")
        if instance is None:
            continue
        owner = {tag: instance.find(f"{space}owner/{space}{tag}") for tag in ("user", "project")}
        yield "instance_name", instance.findtext(f"{space}name")
        yield "instance_id", root.findtext("uuid")
        yield "flavor_name", _attribute(instance, f"{space}flavor", "name")
        for tag, element in owner.items():
            if element is not None:
                yield f"{tag}_name", element.text
                yield f"{tag}_id", element.get("uuid")
        return


def _attribute(element: ET.Element, path: str, name: str) -> str | None:
    found = element.find(path)
    return found.get(name) if found is not None else None

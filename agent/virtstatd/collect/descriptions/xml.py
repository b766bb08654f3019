"""The facts in the XML of a domain about it and its devices, as `*_info` series."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final
from xml.parsers import expat

from virtstatd.catalog import Catalog
from virtstatd.collect.descriptions.assigned import assigned
from virtstatd.collect.descriptions.devices import (
    Facts,
    disk_facts,
    memory_backing,
    nic_facts,
    nic_limits,
    tuned_limits,
)
from virtstatd.collect.descriptions.guest_side import guest_side
from virtstatd.collect.descriptions.metadata import Metadata, MetadataOptions
from virtstatd.model import Domain, Labels, Reading, Series


XML_MAX_BYTES: Final = 1 << 20
"""A guest's owner may write megabytes of metadata; that must not cost the host's memory."""

DEPTH_MAX: Final = 512
"""Nesting depth; libvirt's own parser accepts 256, and embeds the metadata in its own elements."""


class Undescribable(ValueError):  # noqa: N818 - a property of the XML
    """XML that is too large, malformed or not libvirt's; the message says which."""


class Describer:
    """Turns a domain's XML into readings whose labels describe the domain and its devices."""

    def __init__(self, catalog: Catalog, metadata: MetadataOptions | None = None) -> None:
        self._catalog = catalog
        self._metadata = Metadata(metadata or MetadataOptions())
        self._metadata_field = catalog.line("domain", "metadata").field

    def readings(self, domain: Domain, root: ET.Element) -> tuple[Reading, ...]:
        """Describe a domain; absent facts are absent labels."""
        borne = dict(domain.labels)  # the domain's labels are on every series: none may occur twice
        known = _present(_domain(domain, root))
        rows: list[Series | tuple[str, Labels]] = [
            ("domain", tuple((name, value) for name, value in known if name not in borne)),
            *(("disk", _present(disk)) for disk in disk_facts(root)),
            *(("nic", _present(nic)) for nic in nic_facts(root)),
            *(("hostdev", _present(device)) for device in assigned(root)),
        ]
        if backing := _present(memory_backing(root)):
            rows.append(("memory_backing", backing))
        if nova := self._metadata.nova(root):
            rows.append(("openstack", nova))
        if labels := self._metadata.labels(domain, root):
            assert self._metadata_field  # noqa: S101 - it is an info line
            rows.append(Series(self._metadata_field, labels))
        values: dict[Series | tuple[str, Labels], int] = dict.fromkeys(rows, 1)
        values |= tuned_limits(root)
        values |= nic_limits(root)
        values |= guest_side(root)
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
        self._open: list[tuple[str, list[str]]] = []
        """The tag of each open element, and the prefixes that it has declared."""
        self._spaces: dict[str, list[str]] = {}
        """What each prefix means, the innermost last: a copy per element would cost gigabytes."""

    def _refuse(self, *_: object) -> None:
        raise Undescribable("XML with a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= DEPTH_MAX:
            raise Undescribable(f"XML with more than {DEPTH_MAX} elements within each other")
        declared = [key for key in attributes if key.startswith("xmlns")]
        for key in declared:
            self._spaces.setdefault(key, []).append(attributes[key])
        prefix, colon, local = name.rpartition(":")
        meant = self._spaces.get(f"xmlns{colon}{prefix}")
        tag = f"{{{meant[-1]}}}{local}" if meant and meant[-1] else name
        self._open.append((tag, declared))
        self.builder.start(tag, attributes)

    def _end(self, _: str) -> None:
        tag, declared = self._open.pop()
        for key in declared:
            self._spaces[key].pop()
        self.builder.end(tag)


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

"""
What clouds and owners write into a guest's XML, as labels.

All of it is written by strangers: nothing is trusted to be there, to be short or to be one line.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from virtstatd.model import Domain, Labels


VALUE_MAX: Final = 256
"""Characters of a label's value; a longer one ends with an ellipsis."""

ELEMENTS_MAX: Final = 256
"""Elements of a guest's metadata that are looked at; libvirt keeps one per name space."""

CHILDREN_MAX: Final = 1000
"""Elements that are looked at on each step of a path."""

Preset = Literal["nova", "ovirt", "opennebula", "kubevirt", "cloudstack", "libosinfo", "titles"]

LABEL_TITLE: Final = "a name of a label other than domain, uuid, index and le"
LABEL_PATTERN: Final = r"^(?!(?:__|(?:domain|uuid|index|le)\Z))[a-zA-Z_][a-zA-Z0-9_]{0,63}\Z"
PATH_TITLE: Final = "names of elements with / between them, an @attribute at the end, or nothing"
PATH_PATTERN: Final = r"^([^/@\s]+(/[^/@\s]+){0,15})?(@[^/@\s]+)?\Z"


class MetadataLabel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A label from an element of the metadata."""

    label: Annotated[str, Meta(description="The label.", title=LABEL_TITLE, pattern=LABEL_PATTERN)]
    namespace: Annotated[
        str,
        Meta(
            description="Name space of the element, with * at the end for any that begins so.",
            min_length=1,
            max_length=256,
        ),
    ]
    path: Annotated[
        str,
        Meta(
            description="Way from that element to the one with the value: owner/project@uuid.",
            title=PATH_TITLE,
            pattern=PATH_PATTERN,
        ),
    ] = ""


class MetadataOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels that clouds and owners write into the metadata of guests."""

    presets: Annotated[
        tuple[Preset, ...],
        Meta(
            description="Formats that are read: nova, ovirt, opennebula, kubevirt, cloudstack,"
            " libosinfo, and titles for title and description."
        ),
    ] = ("nova", "ovirt", "opennebula", "kubevirt", "cloudstack", "libosinfo", "titles")
    labels: Annotated[
        Annotated[tuple[MetadataLabel, ...], Meta(max_length=20)],
        Meta(
            description="More labels of libvirt_domain_metadata_info, at most 20, each as"
            ' { label = "tenant", namespace = "https://example.org/vm/*", path = "owner@name" }.'
        ),
    ] = ()


_Facts = Iterator[tuple[str, str | None]]

_PATHS: Final[dict[Preset, tuple[tuple[str, str, str], ...]]] = {
    "nova": (
        ("instance_name", "http://openstack.org/xmlns/libvirt/nova/*", "name"),
        ("flavor_name", "http://openstack.org/xmlns/libvirt/nova/*", "flavor@name"),
        ("user_name", "http://openstack.org/xmlns/libvirt/nova/*", "owner/user"),
        ("user_id", "http://openstack.org/xmlns/libvirt/nova/*", "owner/user@uuid"),
        ("project_name", "http://openstack.org/xmlns/libvirt/nova/*", "owner/project"),
        ("project_id", "http://openstack.org/xmlns/libvirt/nova/*", "owner/project@uuid"),
    ),
    "ovirt": (
        ("cluster_version", "http://ovirt.org/vm/1*", "clusterVersion"),
        ("tag", "http://ovirt.org/ovirtmap/tag/*", ""),
    ),
    "opennebula": (
        ("instance_name", "http://opennebula.org/xmlns/libvirt/*", "name"),
        ("user_name", "http://opennebula.org/xmlns/libvirt/*", "uname"),
        ("user_id", "http://opennebula.org/xmlns/libvirt/*", "uid"),
        ("project_name", "http://opennebula.org/xmlns/libvirt/*", "gname"),
        ("project_id", "http://opennebula.org/xmlns/libvirt/*", "gid"),
    ),
    "kubevirt": (("instance_id", "http://kubevirt.io*", "uid"),),
    "libosinfo": (("os", "http://libosinfo.org/xmlns/libvirt/domain/*", "os@id"),),
}
"""Of each preset its labels, with name space and path."""

_CLOUDS: Final[tuple[Preset, ...]] = ("nova", "ovirt", "opennebula", "kubevirt")
"""The presets that are one cloud each, known by their name spaces."""

_CLOUDSTACK_NAME: Final = re.compile(r"i-([0-9]{1,19})-([0-9]{1,19})-.*", re.ASCII | re.DOTALL)
"""An account's number and a guest's."""

_ONE_NAME: Final = re.compile(r"one-([0-9]{1,19})", re.ASCII)


class Metadata:
    """Reads the labels that the options want from the XML of guests."""

    def __init__(self, options: MetadataOptions) -> None:
        self._presets = frozenset(options.presets)
        self._own = [
            (each.label, _space(each.namespace), _way(each.path)) for each in options.labels
        ]
        self._known = {
            preset: [(label, _space(space), _way(path)) for label, space, path in paths]
            for preset, paths in _PATHS.items()
            if preset in self._presets
        }

    def nova(self, root: ET.Element) -> Labels:
        """Return what Nova wrote, under the labels of `openstack_info`."""
        if "nova" not in self._presets:
            return ()
        found = dict(_present(_read(_elements(root), self._known["nova"])))
        if not found and not self._wrote("nova", _elements(root)):
            return ()
        found["instance_id"] = _short(root.findtext("uuid"))
        order = "instance_name", "instance_id", "flavor_name", "user_name", "user_id"
        names = (*order, "project_name", "project_id")
        return tuple((name, found[name]) for name in names if found.get(name))

    def labels(self, domain: Domain, root: ET.Element) -> Labels:
        """Return all labels, each once: those of the configuration, of clouds, and of owners."""
        elements = _elements(root)
        found: dict[str, str] = {}
        for name, value in (*_read(elements, self._own), *self._of_presets(domain, root, elements)):
            if (text := _short(value)) and name not in found:
                found[name] = text
        borne = {name for name, _ in domain.labels}
        return tuple(sorted((name, text) for name, text in found.items() if name not in borne))

    def _of_presets(self, domain: Domain, root: ET.Element, elements: _Elements) -> _Facts:
        for preset in _CLOUDS:
            if self._wrote(preset, elements):
                yield "orchestrator", preset
                yield from _read(elements, self._known[preset])
                yield from _MORE[preset](domain)
        if "cloudstack" in self._presets and _is_cloudstack(root):
            yield "orchestrator", "cloudstack"
            yield from _cloudstack(domain, root)
        yield from _read(elements, self._known.get("libosinfo", ()))
        if "titles" in self._presets:
            yield "title", root.findtext("title")
            yield "description", root.findtext("description")

    def _wrote(self, preset: Preset, elements: _Elements) -> bool:
        spaces = {space for _, space, _ in self._known.get(preset, ())}
        return any(_within(uri, space) for uri, _ in elements for space in spaces)


_Elements = Sequence[tuple[str, ET.Element]]
"""The elements of a guest's metadata, each with its name space."""

_Space = tuple[str, bool]
"""A name space, and whether it is a beginning."""

_Way = tuple[tuple[str, ...], str]
"""Names of elements, and of an attribute."""


def _elements(root: ET.Element) -> _Elements:
    found = islice(root.iterfind("metadata/*"), ELEMENTS_MAX)
    return [(each.tag[1:].partition("}")[0], each) for each in found if each.tag[:1] == "{"]


def _space(namespace: str) -> _Space:
    return namespace.removesuffix("*"), namespace.endswith("*")


def _way(path: str) -> _Way:
    elements, _, attribute = path.partition("@")
    return tuple(elements.split("/")) if elements else (), attribute


def _within(uri: str, space: _Space) -> bool:
    name, any_version = space
    return uri.startswith(name) if any_version else uri == name


def _read(elements: _Elements, wanted: Sequence[tuple[str, _Space, _Way]]) -> _Facts:
    """Yield each label with what is at its place, of the first element that has it."""
    for label, space, (names, attribute) in wanted:
        for uri, element in elements:
            if not _within(uri, space):
                continue
            place = _at(element, names)
            if place is not None:
                yield label, place.get(attribute) if attribute else place.text
                break


def _at(element: ET.Element, names: Sequence[str]) -> ET.Element | None:
    """Return the first element on a way; names are compared without their name spaces."""
    found: ET.Element | None = element
    for name in names:
        if found is None:
            return None
        some = islice(found, CHILDREN_MAX)
        found = next((each for each in some if each.tag.rpartition("}")[2] == name), None)
    return found


def _present(facts: _Facts) -> Iterator[tuple[str, str]]:
    for name, value in facts:
        if text := _short(value):
            yield name, text


def _short(text: str | None) -> str:
    """Return a text as one line that is not long."""
    line = " ".join((text or "").split())
    return line if len(line) <= VALUE_MAX else line[: VALUE_MAX - 1] + "…"


def _id_of_one(domain: Domain) -> _Facts:
    """OpenNebula's number of a guest is in its name alone."""
    if found := _ONE_NAME.fullmatch(domain.name):
        yield "instance_id", found[1]


def _namespace_of_kubevirt(domain: Domain) -> _Facts:
    """KubeVirt calls a guest by its name space, an underscore, and its name."""
    space, underscore, name = domain.name.partition("_")
    if underscore:
        yield "project_name", space
        yield "instance_name", name


def _nothing(_: Domain) -> _Facts:
    return iter(())


_MORE: Final[dict[Preset, Callable[[Domain], _Facts]]] = {
    "nova": lambda domain: iter((("instance_id", domain.uuid),)),
    "ovirt": _nothing,
    "opennebula": _id_of_one,
    "kubevirt": _namespace_of_kubevirt,
}
"""What the name of a guest adds to the metadata."""


def _is_cloudstack(root: ET.Element) -> bool:
    """CloudStack writes no metadata, but calls itself the product in the guest's SMBIOS."""
    entries = islice(root.iterfind("sysinfo/system/entry"), ELEMENTS_MAX)
    return any(
        each.get("name") == "product" and (each.text or "").startswith("CloudStack")
        for each in entries
    )


def _cloudstack(domain: Domain, root: ET.Element) -> _Facts:
    if found := _CLOUDSTACK_NAME.fullmatch(domain.name):
        yield "user_id", found[1]
    yield "instance_id", domain.uuid
    yield "os", root.findtext("description")

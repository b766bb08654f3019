"""Storage pools: their state and space, their volumes, and which of these guests use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Final

import libvirt
from msgspec import Meta, Struct

from virtstatd.collect.descriptions.xml import Undescribable, parsed_xml
from virtstatd.collect.objects.collector import ObjectCollector, ObjectFacts, ObjectKind
from virtstatd.collect.parts import CollectorKind, Parts, PollSeconds
from virtstatd.hypervisor.aside import Aside
from virtstatd.model import Domain, Labels, Reading


NAME: Final = "pools"
GROUP: Final = "storage_pool"
RUNNING: Final = (libvirt.VIR_STORAGE_POOL_RUNNING, libvirt.VIR_STORAGE_POOL_DEGRADED)
"""States in which a pool's numbers are those of its last refresh; in others they are zeros."""

DISK: Final = "libvirt_domain_block_stats_info"

_Described = Iterable[tuple[Domain, tuple[Reading, ...]]]


class PoolsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Storage pools: state, space, volumes; one list, and some calls for each pool."""

    enabled: Annotated[
        bool,
        Meta(
            description="Read pools, without a refresh. With modular daemons libvirt starts"
            " virtstoraged for this, if it is installed."
        ),
    ] = True
    interval_seconds: PollSeconds = 60.0


class PoolStates:
    """Turns what libvirt says of pools into numbers; `names` are those of its states."""

    def __init__(self, names: Mapping[str, Mapping[str, str]]) -> None:
        self._names = names

    def read(self, connection: libvirt.virConnect, uuid: str) -> ObjectFacts | None:
        """Return the facts of a pool, from the memory of libvirt's daemon."""
        try:
            pool = connection.storagePoolLookupByUUIDString(uuid)
            state, *sizes = pool.info()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
                return None
            raise
        facts = ObjectFacts()
        known = self._names.get(str(state), {"state": str(state)})
        facts.numbers["state", tuple(known.items())] = state
        if state in RUNNING:
            for key, size in zip(("capacity", "allocation", "available"), sizes, strict=True):
                facts.numbers[key, ()] = size
            facts.take("volumes", pool.numOfVolumes)
        facts.take("autostart", pool.autostart)
        facts.take("persistent", pool.isPersistent)
        described = facts.ask("info", partial(pool.XMLDesc, 0))
        if described is not None:
            facts.numbers["info", (("uuid", uuid), *_described(described))] = 1
        return facts


def _listed(connection: libvirt.virConnect) -> dict[str, str]:
    return {pool.UUIDString(): pool.name() for pool in connection.listAllStoragePools(0)}


def _described(xml: str) -> Labels:
    """Return what a pool is, from its XML: its type, its path, and where its storage is."""
    try:
        root = parsed_xml(xml)
    except Undescribable:
        return ()

    def attribute(path: str, name: str) -> str:
        found = root.find(path)
        return found.get(name, "") if found is not None else ""

    host = attribute("source/host", "name")
    place = (
        attribute("source/dir", "path")
        or root.findtext("source/name", "")
        or attribute("source/device", "path")
    )
    facts = {
        "type": root.get("type", ""),
        "path": root.findtext("target/path", ""),
        "source": f"{host}:{place}" if host and place else host or place,
    }
    return tuple((name, text) for name, text in facts.items() if text)


def used_volumes(described: _Described) -> Iterator[tuple[str, str]]:
    """Yield where the disks of running guests are: a pool or a folder, and what is in it."""
    for _, readings in described:
        for reading in readings:
            for series in reading.shape.series:
                if series.field.family == DISK:
                    place = dict(series.labels).get("source_file", "")
                    pool, slash, volume = place.rpartition("/")
                    if slash and volume:
                        yield pool, volume


def add_used(
    described: _Described, found: Mapping[str, ObjectFacts], names: Mapping[str, str]
) -> None:
    """Add to each pool how many of its volumes running guests use, by path or by name."""
    used: dict[str, set[str]] = {}
    for place, volume in used_volumes(described):
        used.setdefault(place, set()).add(volume)
    for uuid, facts in found.items():
        for key, labels in list(facts.numbers):
            if key == "info":
                info = dict(labels)
                places = {names[uuid]}
                source = info.get("source", "").rpartition(":")[2]
                if not source.startswith("/"):  # a path on another host is none here
                    places.add(source)
                if path := info.get("path"):
                    places.add(str(PurePosixPath(path)))
                volumes = set().union(*(used.get(place, ()) for place in places if place))
                facts.numbers["volumes_in_use", ()] = len(volumes)


def pools(options: PoolsOptions, parts: Parts) -> ObjectCollector | None:
    """Build the collector, None if it is off."""
    if not options.enabled:
        return None
    hypervisor = parts.hypervisor
    return ObjectCollector(
        ObjectKind(
            NAME,
            GROUP,
            GROUP,
            _listed,
            PoolStates(parts.catalog.enums["pool_state"]).read,
            lambda found, names: add_used(hypervisor.inventory.domains(), found, names),
        ),
        parts.catalog,
        Aside(NAME, hypervisor.lanes.open_session, hypervisor.up),
        parts.log,
        interval_seconds=options.interval_seconds,
        deadline_seconds=hypervisor.deadline_seconds,
    )


KIND: Final = CollectorKind(NAME, pools, NAME, PoolsOptions)

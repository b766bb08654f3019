"""What the XML of a domain says of it and its devices, as `*_info` series, and its tunables."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from virtstatd.catalog import Catalog
from virtstatd.errors import Crowded, Disconnected, Overdue, VirtstatdError
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Session
from virtstatd.model import Batch, Domain, Labels, Reading
from virtstatd.polling.waiting import first_of
from virtstatd.sources.tunables import Parameters, Tunables, parameters


EMIT_SECONDS = 15.0
"""How often the descriptions are sent, changed or not: a reading does not live for ever."""

PAUSE_SECONDS = 0.1
"""How often changed domains are looked for, and how long it is from one domain's limits on."""

CHANGES_SECONDS = 1.0
"""How often changes are sent at most; those that come together travel together."""

AGAIN_SECONDS = 600.0
"""When a domain is read again at the latest: of a changed memory limit no event tells."""

XML_MAX_BYTES = 1 << 20
"""A guest's owner may write megabytes of metadata; they are not worth the memory of the host."""

T = TypeVar("T")

NOVA = "{http://openstack.org/xmlns/libvirt/nova/1.1}"
NOVA_OLD = "{http://openstack.org/xmlns/libvirt/nova/1.0}"


class Undescribable(ValueError):  # noqa: N818 - a property of the XML
    """XML that is too large, malformed or not libvirt's; the message says which."""


class Describer:
    """Turn a domain's XML into readings whose labels say what the domain and its devices are."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def readings(self, domain: Domain, xml: str) -> tuple[Reading, ...]:
        """
        Describe a domain; absent facts are absent labels.

        Raises `Undescribable` for XML that is too large, malformed or carries a document type,
        which libvirt never writes and an attacker might.
        """
        root = parsed(xml)
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


class DescriptionReader:
    """
    Read the XML and the limits of each domain once per change, and rarely else; send them.

    One domain at a time and never on the way of a poll: a domain whose XML cannot be had keeps its
    numbers. Limits are read at leisure, the latest change first: they cost libvirt forty times as
    much as the XML, and after a connect they are asked of everybody.
    """

    def __init__(
        self,
        inventory: Inventory,
        lanes: Lanes,
        describer: Describer,
        tunables: Tunables,
        emit: Callable[[Batch], None],
        log: FilteringBoundLogger,
        deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reads = 0
        self.failures = 0
        self._undescribed: set[str] = set()
        self._untuned: dict[str, Domain] = {}
        self._changed: set[str] = set()
        self._all_sent_at = self._sent_at = -EMIT_SECONDS
        self._again: list[tuple[float, str]] = []
        self._expected: set[str] = set()
        self._inventory = inventory
        self._lanes = lanes
        self._describer = describer
        self._tunables = tunables
        self._emit = emit
        self._log = log
        self._deadline = deadline_seconds
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Read and send until `stop`."""
        while not stop.is_set():
            self._look_again()
            await self.read_all(stop)
            await self.tune(stop, 1)
            now = self._clock()
            if now - self._all_sent_at >= EMIT_SECONDS:
                self._all_sent_at = self._sent_at = now
                self.send()
            elif self._changed and now - self._sent_at >= CHANGES_SECONDS:
                self._sent_at = now
                self.send(self._changed)
            await first_of(stop, seconds=PAUSE_SECONDS)

    async def read_all(self, stop: asyncio.Event) -> None:
        """Read what has changed."""
        while not stop.is_set() and not self._lanes.stuck:  # libvirt 11 asks the monitor for it
            domain = self._inventory.take_stale()
            if domain is None:
                break
            try:
                xml = await self._ask(partial(_xml, domain.uuid))
                self._inventory.describe(domain, self._describer.readings(domain, xml))
            except (Crowded, Disconnected, Overdue):
                self._inventory.change(domain.uuid)
                break
            except (VirtstatdError, Undescribable) as error:
                self.failures += 1
                if domain.uuid not in self._undescribed:
                    self._undescribed.add(domain.uuid)
                    self._log.warning("domain.undescribed", uuid=domain.uuid, reason=str(error))
            self.reads += 1
            self._changed.add(domain.uuid)
            self._untuned.pop(domain.uuid, None)  # to be the latest
            self._untuned[domain.uuid] = domain
            self._expect(domain.uuid)

    async def tune(self, stop: asyncio.Event, most: int) -> None:
        """Read the limits of a few domains; where that fails, again when the domain is due."""
        while most and self._untuned and not stop.is_set():
            most -= 1
            uuid, domain = self._untuned.popitem()
            try:
                of = await self._ask(partial(_parameters, uuid))
            except (Crowded, Disconnected):
                self._untuned[uuid] = domain
                break
            except VirtstatdError:
                continue
            self._inventory.tune(domain, self._tunables.readings(domain, of))
            self._changed.add(uuid)

    def send(self, of: Collection[str] | None = None) -> None:
        """Send the descriptions as they are known, of all domains or of some."""
        readings = self._inventory.descriptions(of)
        self._changed = set()
        self._emit(
            Batch(
                source="inventory",
                taken_at=time.time_ns(),
                readings=readings,
                groups=frozenset({"domain", "tunable"}),
                lifetime_seconds=2 * EMIT_SECONDS,
            )
        )

    async def _ask(self, question: Callable[[Session], T]) -> T:
        return await self._lanes.run(question, self._deadline, monitor=True, patient=True)

    def _expect(self, uuid: str) -> None:
        """Have a domain read again after a while, each at its own time."""
        if uuid not in self._expected:
            self._expected.add(uuid)
            due = self._clock() + AGAIN_SECONDS * random.uniform(0.5, 1)  # noqa: S311 - jitter
            heapq.heappush(self._again, (due, uuid))

    def _look_again(self) -> None:
        """Ask for what is due; a domain that has ended is forgotten by it."""
        while self._again and self._again[0][0] <= self._clock():
            _, uuid = heapq.heappop(self._again)
            self._expected.discard(uuid)
            self._inventory.change(uuid)


def _xml(uuid: str, session: Session) -> str:
    return str(session.domain(uuid).XMLDesc(0))


def _parameters(uuid: str, session: Session) -> Parameters:
    return parameters(session.domain(uuid))


def parsed(xml: str) -> ET.Element:
    """Parse XML that is not trusted; raise `Undescribable` saying what is wrong with it."""
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

"""
The bulk call: every group of many domains in one answer.

Runs on a lane's thread: asks, recognises the domains and decodes, so that the loop sees nothing
but finished readings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial

import libvirt

from virtstatd._fast.records import Identity
from virtstatd.catalog.decode import Decoder
from virtstatd.catalog.recipe import Value
from virtstatd.catalog.taking import SoundRecord, Taker
from virtstatd.collect.bulk.answer import BALLOON, BLOCK, MONITOR, Answer
from virtstatd.collect.bulk.control import OK, Control, Stalls, occupied
from virtstatd.collect.bulk.structures import Structures
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Session
from virtstatd.model import Domain


NOWAIT = 1 << 29
FLAGS: int = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | NOWAIT
"""Always: of an inactive domain libvirtd would open the image files with its lock held."""

BACKING: int = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING
"""Every layer of the disks' backing chains, which QEMU reports in the same answer."""

LOOKUPS = 10
"""So many new domains are looked up; a list of all is dearer than that on a host with many."""


class BulkCall:
    """Ask for the statistics of all running domains, or of some, and decode them."""

    def __init__(
        self,
        inventory: Inventory,
        decoder: Decoder,
        stalls: Stalls | None = None,
        *,
        backing_chains: bool = False,
        structures: Structures | None = None,
    ) -> None:
        self._inventory = inventory
        self._decoder = decoder
        self._structures = structures
        self._taker = Taker(decoder, structures.make) if structures else None
        self._stalls = stalls
        self._backing = BACKING if backing_chains else 0
        self._whole: dict[str, dict[int, int]] = {}
        inventory.on_gone(self._forget)

    def known(self) -> int:
        """Return how many domains are believed to run."""
        return len(self._inventory)

    def selects(self) -> bool:
        """Return whether guests may be left out, so that never all are polled."""
        return self._inventory.filters

    def uuids(self) -> list[str]:
        """Return the domains that it believes to run, without a call."""
        return self._inventory.uuids()

    def running(self, session: Session) -> list[str]:
        """Return the UUIDs of the running domains; answered even when all workers are stuck."""
        asked_at = time.monotonic()
        self._list(session)
        known = [
            uuid
            for uuid, domain in session.domains.items()
            if self._inventory.see(uuid, domain.name(), domain.ID()) is not None
        ]
        self._inventory.reconcile(session.domains.keys(), asked_at)
        return sorted(known)

    def everyone(self, session: Session, bits: int) -> Answer:
        """Ask for the groups in `bits` of every running domain, and confirm who runs."""
        asked_at = time.monotonic()
        if bits & MONITOR and self._stalled(self._inventory.uuids()):
            answer = self.some(session, bits, self.running(session))
        else:
            answer = Answer(time.time_ns())
            self._ask(answer, session, bits, None)
        self._inventory.reconcile(answer.seen | set(answer.stalled), asked_at)
        return answer

    def some(self, session: Session, bits: int, uuids: list[str]) -> Answer:
        """
        Ask for the groups in `bits` of these domains.

        Those that have vanished are missing from the answer, which is matched by UUID.
        """
        self._find(session, uuids)
        stalled = self._stalled(uuids) if bits & MONITOR else {}
        answer = Answer(time.time_ns(), stalled=stalled)
        well = [uuid for uuid in uuids if uuid not in stalled]
        for those, groups in ((well, bits), (stalled, bits & ~MONITOR)):
            domains = [session.domains[uuid] for uuid in those if uuid in session.domains]
            if domains and groups:
                self._ask(answer, session, groups, domains)
        for uuid in stalled:
            if known := self._inventory.get(uuid):
                answer.domains[uuid] = known
        return answer

    def held(self, session: Session, uuids: list[str]) -> Answer:
        """
        Report which of these domains have a monitor that was occupied for long; asks no monitor.

        Answered even when all workers are stuck.
        """
        self._find(session, uuids)
        answer = Answer(time.time_ns())
        for uuid in uuids:
            known, handle = self._inventory.get(uuid), session.domains.get(uuid)
            control = _control(handle) if known and handle else None
            if known and control and occupied(control):
                answer.domains[uuid] = known
                answer.partial[uuid] = control
                answer.seen.add(uuid)
        return answer

    def states(self, session: Session, uuids: list[str]) -> Answer:
        """
        Ask for the states of these domains, one by one: for a driver without the bulk call.

        Their CPU time, vCPUs and memory come with them where the driver has them.
        """
        self._find(session, uuids)
        answer = Answer(time.time_ns())
        for uuid in uuids:
            known, handle = self._inventory.get(uuid), session.domains.get(uuid)
            if known is None or handle is None:
                continue
            with suppress(libvirt.libvirtError, ValueError):  # it has ended
                state, reason = handle.state()
                record = {"state.state": state, "state.reason": reason, **_info(handle)}
                answer.readings.extend(self._decoder.readings(known, record))
                answer.domains[uuid] = known
                answer.seen.add(uuid)
        return answer

    def name(self, uuid: str) -> str:
        """Return the name of a running domain, empty where it is not known."""
        known = self._inventory.get(uuid)
        return known.name if known else ""

    def _flags(self, bits: int) -> int:
        return FLAGS | (self._backing if bits & BLOCK else 0)

    def _stalled(self, uuids: Iterable[str]) -> dict[str, str]:
        if self._stalls is None:
            return {}
        known = (self._inventory.get(uuid) for uuid in uuids)
        return self._stalls.among(domain for domain in known if domain)

    def _find(self, session: Session, uuids: list[str]) -> None:
        """Get the handles that a session does not have yet: one by one, or all when many lack."""
        unknown = [uuid for uuid in uuids if uuid not in session.domains]
        stale = len(session.domains) > 2 * len(self._inventory) + LOOKUPS
        if len(unknown) > LOOKUPS or (unknown and stale):
            self._list(session)
            return
        for uuid in unknown:
            with suppress(libvirt.libvirtError):  # it has ended
                session.domains[uuid] = session.connection.lookupByUUIDString(uuid)

    @staticmethod
    def _list(session: Session) -> None:
        active = session.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        session.domains = {domain.UUIDString(): domain for domain in active}

    def _ask(
        self, answer: Answer, session: Session, bits: int, domains: list[libvirt.virDomain] | None
    ) -> None:
        """Ask for these domains, or for all, and take over each record."""
        connection, flags = session.connection, self._flags(bits)
        if self._structures and self._taker and isinstance(connection, libvirt.virConnect):
            with self._structures.records(connection, domains, bits, flags) as found:
                for at in range(len(found)):
                    identity = found.identity(at)
                    handle = partial(session.domain, identity[0])
                    sound = partial(self._taker.sound, records=found, at=at)
                    self._add(answer, bits, identity, sound, handle)
            return
        if domains is None:
            records = connection.getAllDomainStats(bits, flags)
        else:
            records = connection.domainListGetStats(domains, bits, flags)
        for handle, record in records:
            identity = handle.UUIDString(), handle.name(), handle.ID()
            sound = partial(self._sound, record=record)
            self._add(answer, bits, identity, sound, partial(_same, handle))

    def _sound(self, domain: Domain, record: Mapping[str, Value]) -> SoundRecord:
        return *self._decoder.sound(domain, record), record

    def _add(
        self,
        answer: Answer,
        bits: int,
        identity: Identity,
        sound: Callable[[Domain], SoundRecord],
        handle: Callable[[], libvirt.virDomain],
    ) -> None:
        """Take over the record of a domain, unless it is left out."""
        uuid = identity[0]
        answer.seen.add(uuid)
        domain = self._inventory.see(*identity)
        if domain is None:
            return
        answer.domains[uuid] = domain
        readings, fault, keys = sound(domain)
        answer.readings.extend(readings)
        if fault:  # one value costs itself alone
            answer.undecodable[uuid] = fault
        if bits & MONITOR:
            self._judge(answer, handle, uuid, keys, bits)

    def _judge(
        self,
        answer: Answer,
        handle: Callable[[], libvirt.virDomain],
        uuid: str,
        record: Collection[str],
        bits: int,
    ) -> None:
        """Find out whether a record lacks what the monitor reports, by signs or by its length."""
        sizes = self._whole.setdefault(uuid, {})
        lacks = stepped_over(record, bits)
        if lacks is None:
            lacks = len(record) < sizes.get(bits, 0)
        control = None
        if lacks:
            with suppress(libvirt.libvirtError):  # it has ended
                control = _control(handle())
            answer.partial[uuid] = control
        if control is None or control[0] == OK:
            sizes[bits] = len(record)  # a device may have gone

    def _forget(self, domain: Domain) -> None:
        self._whole.pop(domain.uuid, None)
        if self._taker:
            self._taker.forget(domain.uuid)


def _same(handle: libvirt.virDomain) -> libvirt.virDomain:
    return handle


def _control(handle: libvirt.virDomain) -> Control | None:
    """Ask what occupies the monitor: answered at once, by libvirtd's own workers for such calls."""
    try:
        state, details, milliseconds = handle.controlInfo()
    except libvirt.libvirtError:  # the domain has ended, or the driver does not know
        return None
    return state, details, milliseconds


def _info(handle: libvirt.virDomain) -> dict[str, int]:
    """Return what every driver can say of a domain besides its state, as the bulk call names it."""
    try:
        _, maximum, memory, vcpus, seconds = handle.info()
    except (libvirt.libvirtError, ValueError):
        return {}
    return {
        "cpu.time": seconds,
        "balloon.current": memory,
        "balloon.maximum": maximum,
        "vcpu.current": vcpus,
    }


def stepped_over(record: Collection[str], bits: int) -> bool | None:
    """
    Return whether NOWAIT stepped over a domain whose monitor was busy; None where nothing shows it.

    Libvirt says so by leaving out what the monitor would have reported: the resident size of a
    domain with a balloon record, the counters of a disk that it names. Other groups show nothing.
    """
    if bits & BALLOON and "balloon.current" in record:
        return "balloon.rss" not in record
    if bits & BLOCK and "block.0.backingIndex" in record:
        return "block.0.rd.reqs" not in record
    return None

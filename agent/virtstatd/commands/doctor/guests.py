"""What libvirt says of itself and of its guests, as far as it decides what can be known of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from virtstatd.collect.bulk.answer import POLLED
from virtstatd.collect.descriptions.xml import XML_MAX_BYTES
from virtstatd.commands.doctor.check import Check, named
from virtstatd.hypervisor.connection import version_text
from virtstatd.hypervisor.lanes import Session


ACTIVE: Final = 1
"""VIR_CONNECT_LIST_DOMAINS_ACTIVE."""

NOWAIT: Final = 1 << 29
"""VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT."""

PERIOD: Final = "for id in $(virsh list --uuid); do virsh dommemstat $id --period 10 --live; done"


@dataclass(slots=True)
class GuestFacts:
    """What libvirt says; names of guests are their owners'."""

    version: str = ""
    guests: list[tuple[str, str, int]] = field(default_factory=list)
    emulated: list[str] = field(default_factory=list)
    no_balloon: list[str] = field(default_factory=list)
    no_period: list[str] = field(default_factory=list)
    kvm: list[str] = field(default_factory=list)


def facts(session: Session) -> GuestFacts:
    """Read them, on a lane: versions, the active guests and what their XML says of the balloon."""
    connection = session.connection
    found = GuestFacts(version_text(connection.getLibVersion()))
    for domain in connection.listAllDomains(ACTIVE):
        with suppress(Exception):  # it has ended meanwhile
            found.guests.append((domain.UUIDString(), domain.name(), domain.ID()))
            text = domain.XMLDesc(0)
            if len(text) <= XML_MAX_BYTES:
                _read(found, domain.UUIDString(), domain.name(), ET.fromstring(text))  # noqa: S314 - libvirt's own
    return found


def _read(found: GuestFacts, uuid: str, name: str, root: ET.Element) -> None:
    if root.get("type") == "kvm":
        found.kvm.append(uuid)
    elif root.get("type") == "qemu":
        found.emulated.append(name)
    balloon = root.find("./devices/memballoon")
    if balloon is None or balloon.get("model") == "none":
        found.no_balloon.append(name)
        return
    stats = balloon.find("stats")
    if stats is None or stats.get("period", "0") == "0":
        found.no_period.append(name)


def kvm_statistics(session: Session, uuid: str) -> bool:
    """Return whether one guest has statistics of KVM's; its monitor is queried, which may hang."""
    domain = session.domain(uuid)
    records: list[tuple[Any, dict[str, Any]]] = session.connection.domainListGetStats(
        [domain], POLLED["vm"].bit, NOWAIT
    )
    return any(key.startswith("vm.") for _, record in records for key in record)


def guest_checks(found: GuestFacts) -> Iterator[Check]:
    """Yield what the guests lack for their numbers."""
    count = len(found.guests)
    if not count:
        yield Check("guests", "note", "none runs, so that what is known of one cannot be tried")
        return
    if found.no_period:
        who = f"{len(found.no_period)} of {count} guests: {named(found.no_period)}"
        text = f"no statistics period, so that used memory is not known, in {who}"
        yield Check("balloon", "missing", text, PERIOD)
    elif len(found.no_balloon) < count:
        yield Check("balloon", "ok", "every guest with a balloon reports its memory")
    if found.no_balloon:
        text = f"none in {len(found.no_balloon)} of {count} guests: {named(found.no_balloon)}"
        yield Check("balloon", "note", text, "virsh edit GUEST: <memballoon model='virtio'/>")
    if found.emulated:
        text = f"{len(found.emulated)} of {count} guests run without KVM: {named(found.emulated)}"
        yield Check("KVM", "note", text, _kvm_fix())


def kvm_check(*, counted: bool) -> Check:
    """Return whether KVM's statistics are there."""
    if counted:
        return Check("KVM", "ok", "guests have statistics of KVM's")
    text = "no guest has statistics of KVM's: exits, halts, page faults"
    fix = "they need libvirt 9.0, QEMU 7.1 and Linux 5.14, or later ones"
    return Check("KVM", "note", text, fix)


def _kvm_fix() -> str:
    if Path("/dev/kvm").exists():
        return "virsh edit GUEST: <domain type='kvm'>"
    return "modprobe kvm_intel or kvm_amd, and switch virtualisation on in the firmware"

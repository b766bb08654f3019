"""
What libvirt passes on of a guest agent's answers, made into rows of the catalog.

All of it may be a lie: texts are cut, impossible numbers are left out, devices beyond a limit are
left out, and all of that is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from virtstatd.model import Labels, Number


TEXT_MAX: Final = 200
"""Characters of a label; a path or a name of a user may be longer."""

BYTES_MAX: Final = 1 << 63
LOAD_MAX: Final = 1e6
OFFSET_MAX: Final = 86400
MILLISECONDS_MAX: Final = 1 << 53
"""Beyond these a number is none that a guest can have."""

AgentAnswer = Mapping[str, Any]
Entry = dict[str, Any]


@dataclass(slots=True)
class Said:
    """Rows of one group, a key of the catalog with labels and number; and what is left out."""

    rows: list[tuple[str, Labels, Number]] = field(default_factory=list)
    cut: int = 0
    """Devices beyond the limit."""

    impossible: int = 0
    """Numbers that cannot be."""

    unknown: int = 0
    """Values under keys that are not known."""

    def add(self, other: Said) -> None:
        """Append what another answer said."""
        self.rows += other.rows
        self.cut += other.cut
        self.impossible += other.impossible
        self.unknown += other.unknown

    def info(self, key: str, facts: Mapping[str, object]) -> None:
        """Add a row of facts, those without a text left out; none if no fact is left."""
        labels = tuple(
            (name, text(value)) for name, value in facts.items() if value not in ("", None)
        )
        if labels and (key, labels, 1) not in self.rows:
            self.rows.append((key, labels, 1))


def text(value: object) -> str:
    """Return a text of bounded length that can be encoded."""
    return str("" if value is None else value)[:TEXT_MAX].encode("utf-8", "replace").decode()


def said_filesystems(answer: AgentAnswer, most: int) -> Said:
    """Return size and use of each file system, by mount point."""
    said = Said(unknown=_unknown(answer, "fs", _FILESYSTEM))
    sizes: dict[Labels, tuple[int, int]] = {}
    for each in sorted(_entries(answer, "fs"), key=_mountpoint):
        size, used = each.get("total-bytes"), each.get("used-bytes")
        if size is None or used is None:
            continue  # the guest itself does not know
        if not 0 <= used <= size < BYTES_MAX or not size:
            said.impossible += 1
        elif len(sizes) < most:
            sizes[_filesystem(each)] = size, used
        else:
            said.cut += 1
    for at, key in enumerate(("size", "used")):
        said.rows += [(key, labels, numbers[at]) for labels, numbers in sizes.items()]
    return said


def _mountpoint(each: Entry) -> str:
    return str(each.get("mountpoint", ""))


def _filesystem(each: Entry) -> Labels:
    disks = {text(disk.get("alias")) for disk in _listed(each.get("disk"))} - {""}
    return (
        ("mountpoint", text(each.get("mountpoint"))),
        ("device", text(each.get("name"))),
        ("fstype", text(each.get("fstype"))),
        ("target_device", text(",".join(sorted(disks)))),
    )


def said_load(answer: AgentAnswer, _: int) -> Said:
    """Return the load averages."""
    said = Said(unknown=_unknown(answer, "load", {"1m", "5m", "15m"}))
    for minutes in ("1m", "5m", "15m"):
        value = answer.get(f"load.{minutes}")
        if value is None:
            continue
        if math.isfinite(value) and 0 <= value <= LOAD_MAX:
            said.rows.append((f"load_{minutes}", (), value))
        else:
            said.impossible += 1
    return said


def said_users(answer: AgentAnswer, most: int) -> Said:
    """Return how many users are logged in, and since when each is."""
    said = Said(unknown=_unknown(answer, "user", {"name", "domain", "login-time"}))
    sessions = [*_entries(answer, "user")]
    since: dict[Labels, int] = {}
    for each in sessions:
        at = each.get("login-time", 0)
        labels = ("user", text(each.get("name"))), ("user_domain", text(each.get("domain")))
        if not 0 < at < MILLISECONDS_MAX:
            said.impossible += 1
        elif labels in since or len(since) < most:
            since[labels] = min(at, since.get(labels, at))
        else:
            said.cut += 1
    said.rows.append(("users", (), len(sessions)))
    said.rows += [("login", labels, at) for labels, at in since.items()]
    return said


def said_system(answer: AgentAnswer, _: int) -> Said:
    """Return what the guest's operating system is."""
    said = Said(unknown=_unknown(answer, "os", _SYSTEM.keys()))
    said.info("os", {label: answer.get(f"os.{key}") for key, label in _SYSTEM.items()})
    return said


def said_timezone(answer: AgentAnswer, _: int) -> Said:
    """Return the guest's time zone."""
    said = Said(unknown=_unknown(answer, "timezone", {"name", "offset"}))
    said.info("timezone", {"timezone": answer.get("timezone.name")})
    offset = answer.get("timezone.offset")
    if offset is not None and abs(offset) <= OFFSET_MAX:
        said.rows.append(("timezone_offset", (), offset))
    elif offset is not None:
        said.impossible += 1
    return said


def said_hostname(answer: AgentAnswer, _: int) -> Said:
    """Return the guest's name for itself."""
    said = Said(unknown=sum(key != "hostname" for key in answer))
    said.info("hostname", {"hostname": answer.get("hostname")})
    return said


def said_disks(answer: AgentAnswer, most: int) -> Said:
    """Return the guest's disks and partitions, and which disk of the domain each is."""
    said = Said(unknown=_unknown(answer, "disk", _DISK))
    for each in sorted(_entries(answer, "disk"), key=lambda disk: str(disk.get("name", ""))):
        if len(said.rows) >= most:
            said.cut += 1
            continue
        facts = {
            "device": each.get("name"),
            "partition": "yes" if each.get("partition") else "no",
            "target_device": each.get("alias"),
            "serial": each.get("serial"),
            "guest_bus": each.get("guest_bus"),
        }
        said.info("disk", facts)
    return said


def said_interfaces(answer: AgentAnswer, most: int) -> Said:
    """Return the guest's interfaces, each of their addresses in a row of its own."""
    said = Said(unknown=_unknown(answer, "if", {"name", "hwaddr", "addr"}))
    for each in sorted(_entries(answer, "if"), key=lambda nic: str(nic.get("name", ""))):
        facts = {"interface": each.get("name"), "mac_address": each.get("hwaddr")}
        for address in [*_listed(each.get("addr"))] or [{}]:
            if len(said.rows) >= most:
                said.cut += 1
                continue
            more = {
                "ip_type": address.get("type"),
                "address": address.get("addr"),
                "prefix": address.get("prefix"),
            }
            said.info("interface", facts | more)
    return said


def said_drivers(answer: AgentAnswer, most: int) -> Said:
    """Return the drivers of the guest's devices, which agents in Windows report."""
    said = Said(unknown=_unknown(answer, "device", _DRIVER))
    for each in _entries(answer, "device"):
        if len(said.rows) >= most:
            said.cut += 1
            continue
        facts = {
            "driver": each.get("driverName"),
            "driver_version": each.get("driverVersion"),
            "pci_vendor": each.get("pciVendor"),
            "pci_device": each.get("pciDevice"),
        }
        said.info("driver", facts)
    return said


def _entries(answer: AgentAnswer, kind: str) -> Iterator[Entry]:
    """Yield what is said of each device of a kind, `fs.0.disk.1.alias` in dicts in each other."""
    tree: Entry = {}
    for key, value in answer.items():
        *path, leaf = key.split(".")
        at = tree
        for part in path:
            at = at.setdefault(part, {})
        at[leaf] = value
    yield from _listed(tree.get(kind))


def _listed(of: object) -> Iterator[Entry]:
    """Yield the numbered parts of a dict, in order."""
    if isinstance(of, dict):
        numbered = ((int(key), each) for key, each in of.items() if key.isdecimal())
        yield from (each for _, each in sorted(numbered, key=lambda pair: pair[0]))


def _unknown(answer: AgentAnswer, kind: str, known: Mapping[str, object] | set[str] | Any) -> int:
    """Return the number of values that this version does not know."""
    return sum(not _known(key.split("."), kind, known) for key in answer)


def _known(tokens: list[str], kind: str, known: Any) -> bool:
    first, *rest = tokens
    if first != kind or not rest:
        return False
    if rest[0].isdecimal() and len(rest) > 1:
        return rest[1] in known
    return rest[0] in known or rest == ["count"]


_FILESYSTEM: Final = frozenset(
    {"mountpoint", "name", "fstype", "total-bytes", "used-bytes", "disk"}
)
_DISK: Final = frozenset(
    {"name", "partition", "dependency", "serial", "alias", "guest_alias", "guest_bus"}
)
_DRIVER: Final = frozenset(
    {"driverName", "driverDate", "driverVersion", "idType", "pciVendor", "pciDevice"}
)
_SYSTEM: Final = {
    "id": "os_id",
    "name": "os_name",
    "pretty-name": "os_pretty_name",
    "version": "os_version",
    "version-id": "os_version_id",
    "variant": "os_variant",
    "variant-id": "os_variant_id",
    "machine": "machine",
    "kernel-release": "kernel_release",
    "kernel-version": "kernel_version",
}
"""Libvirt's names, and those of the labels."""

"""The weights, quotas and limits of a running domain on its host, as libvirt reports them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

import libvirt

from virtstatd.catalog import Catalog
from virtstatd.catalog.recipe import Value
from virtstatd.model import Domain, Labels, Number, Reading, Shape


LIVE: Final = 1
"""VIR_DOMAIN_AFFECT_LIVE: the values of the current run, not those for the next start."""

QUOTA_UNLIMITED: Final = 1 << 44
"""Microseconds, above libvirt's maximum; no quota is 2**64 / 1000 on cgroup v2 and -1 on v1."""

MEMORY_UNLIMITED: Final = (1 << 53) - 4096
"""KiB; the kernel rounds its largest number down to pages of up to 64 KiB."""

NUMA_MODES: Final = ("strict", "preferred", "interleave", "restrictive")
"""virDomainNumatuneMemMode, by number."""

QUOTAS: Final = ("vcpu", "emulator", "iothread", "global")

DEVICE_LIMITS: Final = {
    "device_weight": "blkio_device_weight",
    "device_read_iops_sec": "blkio_read_requests",
    "device_write_iops_sec": "blkio_write_requests",
    "device_read_bytes_sec": "blkio_read_bytes",
    "device_write_bytes_sec": "blkio_write_bytes",
}

SHAPES: Final = 1024
"""Kinds of domains that are remembered; each device and set of NUMA nodes makes new ones."""

Parameters = Mapping[str, Mapping[str, Value]]
"""By the function that reported them, since `weight` differs in meaning between two of them."""

LimitItem = tuple[str, Labels]


def parameters(handle: libvirt.virDomain) -> Parameters:
    """
    Read the parameters from libvirt; what this host or this driver does not report is left out.

    None of the calls takes the domain's job or queries its monitor: they read cgroups and libvirt's
    memory (qemu_driver.c), so that they work for a stuck guest too. Raises `libvirtError` if the
    connection is lost.
    """
    found: dict[str, Mapping[str, Value]] = {}
    for part, ask in (
        ("scheduler", handle.schedulerParametersFlags),
        ("memory", handle.memoryParameters),
        ("blkio", handle.blkioParameters),
        ("numa", handle.numaParameters),
    ):
        try:
            found[part] = ask(LIVE)
        except libvirt.libvirtError:
            if not handle.connect().isAlive():
                raise
    return found


class Tunables:
    """Turn libvirt's parameters into readings; a limit that is not set is absent."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._shape = lru_cache(SHAPES)(self._compiled)

    def readings(self, domain: Domain, of: Parameters) -> tuple[Reading, ...]:
        """Return one reading, or none for a domain of which nothing is known."""
        rows = list(_rows(of))
        if not rows:
            return ()
        shape, factors = self._shape(tuple((key, labels) for key, labels, _ in rows))
        values = tuple(n * factor for (_, _, n), factor in zip(rows, factors, strict=True))
        return (Reading(domain, shape, values),)

    def _compiled(self, items: tuple[LimitItem, ...]) -> tuple[Shape, tuple[int, ...]]:
        factors = tuple(self._catalog.line("tunable", key).factor for key, _ in items)
        return self._catalog.shape("tunable", items), factors


def _rows(of: Parameters) -> Iterator[tuple[str, Labels, Number]]:
    """Yield what is set, each key's rows together."""
    scheduler, memory, blkio = (of.get(part, {}) for part in ("scheduler", "memory", "blkio"))
    if shares := _number(scheduler, "cpu_shares"):
        yield "cpu_shares", (), shares
    for what in ("period", "quota"):
        for whom in QUOTAS:
            microseconds = _number(scheduler, f"{whom}_{what}")
            if 0 < microseconds < QUOTA_UNLIMITED:
                yield f"cpu_{what}", (("of", whom),), microseconds
    for limit in ("hard_limit", "soft_limit", "swap_hard_limit"):
        if 0 < (kib := _number(memory, limit)) < MEMORY_UNLIMITED:
            yield f"memory_{limit}", (), kib
    if weight := _number(blkio, "weight"):
        yield "blkio_weight", (), weight
    for name, key in DEVICE_LIMITS.items():
        for device, number in _devices(str(blkio.get(name, ""))):
            yield key, (("device", device),), number
    yield from _numa(of.get("numa", {}))


def _number(of: Mapping[str, Value], name: str) -> Number:
    value = of.get(name, 0)
    return 0 if isinstance(value, str) else value


def _devices(text: str) -> Iterator[tuple[str, int]]:
    """Read `/dev/sda,500,/dev/sdb,300`; 0 means no limit."""
    tokens = text.split(",")
    for device, number in dict(zip(tokens[::2], tokens[1::2], strict=False)).items():
        if number.isdecimal() and int(number):
            yield device, int(number)


def _numa(of: Mapping[str, Value]) -> Iterator[tuple[str, Labels, Number]]:
    mode, nodes = of.get("numa_mode"), of.get("numa_nodeset")
    if nodes and isinstance(mode, int) and 0 <= mode < len(NUMA_MODES):
        yield "numa", (("mode", NUMA_MODES[mode]), ("nodeset", str(nodes))), 1

"""Storage pools and networks of the host, and what libvirt keeps of each guest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtstatd.insight.document import Document
from virtstatd.insight.guests import D, share, whole
from virtstatd.insight.lookup import Lookup


POOL: Final = "libvirt_storage_pool"
NET: Final = "libvirt_network"


def definition_of(look: Lookup) -> Document:
    """Return what libvirt keeps of a guest besides its run; what is not known is null."""
    flags = {key: look.value(f"{D}_{key}") for key in ("autostart", "persistent", "managed_save")}
    counts = {key: whole(look.value(f"{D}_{key}")) for key in ("snapshots", "checkpoints")}
    return {key: None if flag is None else bool(flag) for key, flag in flags.items()} | counts


def pool_rows(look: Lookup) -> list[Document]:
    """Return what is known of each storage pool, by name."""
    states = {dict(labels)["storage_pool"]: dict(labels) for labels in look.labels(f"{POOL}_state")}
    infos = {dict(labels)["storage_pool"]: dict(labels) for labels in look.labels(f"{POOL}_info")}
    numbers = {
        key: _by_name(look, f"{POOL}_{key}", "storage_pool")
        for key in ("capacity_bytes", "allocation_bytes", "available_bytes", "volumes")
    }
    used = _by_name(look, f"{POOL}_volumes_in_use", "storage_pool")
    hung = _by_name(look, f"{POOL}_timed_out", "storage_pool")
    left = dict(pools_left(look))
    return [
        {
            "name": name,
            "state": states.get(name, {}).get("state"),
            "type": infos.get(name, {}).get("type"),
            "source": infos.get(name, {}).get("source"),
            "hangs": bool(hung[name]),
            **{key: whole(known.get(name)) for key, known in numbers.items()},
            "available_ratio": left.get(name),
            "volumes_in_use": whole(used.get(name)),
        }
        for name in sorted(hung)
    ]


def network_rows(look: Lookup) -> list[Document]:
    """Return what is known of each network, by name."""
    infos = {dict(labels)["network"]: dict(labels) for labels in look.labels(f"{NET}_info")}
    active = _by_name(look, f"{NET}_active", "network")
    ports = _by_name(look, f"{NET}_ports", "network")
    return [
        {
            "name": name,
            "active": bool(active[name]),
            "bridge": infos.get(name, {}).get("bridge"),
            "forward": infos.get(name, {}).get("forward"),
            "ports": whole(ports.get(name)),
        }
        for name in sorted(active)
    ]


def pools_left(look: Lookup) -> Iterator[tuple[str, float]]:
    """Yield each pool with a size, and the share of it that is free."""
    sizes = _by_name(look, f"{POOL}_capacity_bytes", "storage_pool")
    for name, free in _by_name(look, f"{POOL}_available_bytes", "storage_pool").items():
        left = share(free, sizes.get(name))
        if left is not None:
            yield name, left


def pools_hung(look: Lookup) -> dict[str, float]:
    """Return for each pool 1 if libvirt's answer about it is overdue, else 0."""
    return _by_name(look, f"{POOL}_timed_out", "storage_pool")


def _by_name(look: Lookup, family: str, label: str) -> dict[str, float]:
    return {dict(labels)[label]: number for labels, number in look.values(family)}

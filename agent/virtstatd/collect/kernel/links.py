"""
Counters of the guests' network interfaces: all of them in one pass over the kernel's table.

`/proc/PID/net/dev` of a guest's QEMU has the interfaces of the network namespace that the guest is
in, whichever namespace the agent is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from virtstatd.model import Reading


Link = tuple[bytes, bool]
"""An interface's name on the host, and whether the host sees it as the guest does."""

KEYS = tuple(f"{way}.{what}" for way in ("rx", "tx") for what in ("bytes", "pkts", "errs", "drop"))

_INFO = "libvirt_domain_interface_stats_info"
_WITHOUT = frozenset({"user", "vhostuser", "hostdev", "vdpa"})  # no device of the host's kernel
_RECEIVED = (0, 1, 2, 3)
_SENT = (8, 9, 10, 11)
_SWAPPED = (*_SENT, *_RECEIVED)  # what a tap receives, its guest has sent
_SHARED = (*_RECEIVED, *_SENT)


def links_of(described: Sequence[Reading]) -> tuple[Link, ...]:
    """Return the interfaces that a domain's description names."""
    return tuple(dict.fromkeys(_links(described)))


def _links(described: Sequence[Reading]) -> Iterator[Link]:
    for reading in described:
        for series in reading.shape.series:
            if series.field.family == _INFO:
                labels = dict(series.labels)
                name, kind = labels.get("target_device"), labels.get("interface_type")
                if name and kind not in _WITHOUT:
                    # macvtap: the device is the guest's own (virDomainNetTypeSharesHostView)
                    yield name.encode(), kind == "direct"


def link_table(text: bytes) -> dict[bytes, bytes]:
    """Return the rows of the kernel's table by the interfaces' names."""
    rows = {}
    for line in text.splitlines()[2:]:
        name, _, row = line.rpartition(b":")
        rows[name.lstrip()] = row
    return rows


def counters(row: bytes, *, shared: bool) -> tuple[int, ...]:
    """Return the counters of one row in the order of `KEYS`, as the guest sees them."""
    numbers = row.split()
    return tuple([int(numbers[at]) for at in (_SHARED if shared else _SWAPPED)])

"""A libvirt as collectors see it: its running domains, and the threads that call it."""

from __future__ import annotations

from dataclasses import dataclass

from virtstatd.collector import Up
from virtstatd.hypervisor.connection import Connection
from virtstatd.hypervisor.inventory import Inventory
from virtstatd.hypervisor.lanes import Lanes, Open
from virtstatd.hypervisor.processes import Processes


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """
    A libvirt as collectors see it.

    `processes` are those of its guests; if they cannot be seen from here it is None, and
    `elsewhere` says why. No collector polls more than `slice_domains` in a call, and each abandons
    a call after `deadline_seconds`. `open_read_write` opens a connection that could change guests:
    only a collector that the configuration allows to do so calls it.
    """

    up: Up
    inventory: Inventory
    lanes: Lanes
    connection: Connection
    processes: Processes | None
    elsewhere: str
    slice_domains: int
    deadline_seconds: float
    open_read_write: Open

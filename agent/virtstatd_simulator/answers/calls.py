"""What a procedure gets to work with, and the table's row for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from virtstatd_simulator.faults.faults import Fault
from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.guests.host import Host
from virtstatd_simulator.wire.connection import Connection, Payload
from virtstatd_simulator.wire.rpc import FROM_QEMU, FROM_RPC, INTERNAL, INVALID_OPERATION, RpcError
from virtstatd_simulator.wire.xdr import Reader


@dataclass(slots=True)
class Call:
    """One call of a client: its arguments, to be read in order, and what it may look at."""

    procedure: int
    arguments: Reader
    connection: Connection
    host: Host
    job_wait_seconds: float = 30.0
    faults: tuple[Fault, ...] = ()

    def guest(self) -> Guest:
        """Read a domain and look it up by its UUID, as libvirt does: its name may have changed."""
        return self.host.find(self.domain())

    def domain(self) -> bytes:
        """Read a domain and give its UUID."""
        self.arguments.take_string()
        found = self.arguments.take_fixed(16)
        self.arguments.take_int()
        return found

    def require_open(self) -> None:
        """Refuse what needs a hypervisor before one was opened."""
        if not self.connection.opened:
            raise RpcError(INTERNAL, FROM_RPC, "hypervisor connection not open")


def active_guest(call: Call) -> Guest:
    """Read a domain that must be running."""
    guest = call.guest()
    if not guest.active:
        raise RpcError(INVALID_OPERATION, FROM_QEMU, "domain is not running")
    return guest


Handler = Callable[[Call], "Payload | Coroutine[None, None, Payload]"]


@dataclass(frozen=True, slots=True)
class Procedure:
    """
    A row of the table: libvirt's name, who answers, and with what priority.

    `writes` are refused on a read-only connection; `early` may be called before a hypervisor was
    opened.
    """

    name: str
    handler: Handler
    urgent: bool = False
    writes: bool = False
    early: bool = False


async def breathe() -> None:
    """Let the loop look after the other clients."""
    await asyncio.sleep(0)

"""The inputs of a procedure, and a row of the table of procedures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.guests.host import Host
from virtstatd_simulator.wire.rpc import FROM_QEMU, FROM_RPC, INTERNAL, INVALID_OPERATION, RpcError
from virtstatd_simulator.wire.xdr import Reader


class Client(Protocol):
    """The client that calls, as far as procedures see or change it."""

    opened: bool
    readonly: bool
    callbacks: dict[int, tuple[int, bytes | None]]

    def new_callback(self, event: int, domain: bytes | None) -> int:
        """Register an event callback and return its number."""
        ...

    def start_keepalive(self) -> None:
        """Ping the client whenever it is silent."""
        ...

    def close_soon(self) -> None:
        """Close the connection after the answer."""
        ...


@dataclass(slots=True)
class Call:
    """
    One call of a client: its arguments, to be read in order, the client, and the host.

    `job_wait_seconds` is how long it may wait for the job of a guest. `vanishing` are the guests
    that end while it is answered, or their number.
    """

    procedure: int
    arguments: Reader
    client: Client
    host: Host
    job_wait_seconds: float = 30.0
    vanishing: int | frozenset[bytes] = 0

    def guest(self) -> Guest:
        """Read a domain and look it up by UUID, as libvirt does: its name may have changed."""
        return self.host.find(self.domain())

    def domain(self) -> bytes:
        """Read a domain and return its UUID."""
        self.arguments.take_string()
        found = self.arguments.take_fixed(16)
        self.arguments.take_int()
        return found

    def active_guest(self) -> Guest:
        """Read a domain that must be running."""
        guest = self.guest()
        if not guest.active:
            raise RpcError(INVALID_OPERATION, FROM_QEMU, "domain is not running")
        return guest

    def require_open(self) -> None:
        """Refuse a call that needs a hypervisor before one was opened."""
        if not self.client.opened:
            raise RpcError(INTERNAL, FROM_RPC, "hypervisor connection not open")


Answer = bytes | Sequence[bytes]
Handler = Callable[[Call], Answer | Coroutine[None, None, Answer]]


@dataclass(frozen=True, slots=True)
class Procedure:
    """
    Describes a procedure: libvirt's name, its handler and its priority.

    A read-only connection is refused one that `writes`; one that is `early` may be called before a
    hypervisor was opened.
    """

    name: str
    handler: Handler
    urgent: bool = False
    writes: bool = False
    early: bool = False


async def breathe() -> None:
    """Let the loop serve the other clients."""
    await asyncio.sleep(0)

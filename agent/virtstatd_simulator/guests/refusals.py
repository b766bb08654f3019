"""Errors in place of statistics: one guest of a call fails the call for all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from virtstatd_simulator.guests.guests import Guest
from virtstatd_simulator.wire.rpc import FROM_QEMU, FROM_RPC, RPC, SYSTEM_ERROR, RpcError


@dataclass(slots=True, eq=False)
class Refusal:
    """
    Refuses calls for statistics that include one of some guests and one of some groups.

    It applies `times` times, until it is cleared if None. With `too_large` the error is libvirt's
    refusal to send an answer that does not fit into a message.
    """

    guests: frozenset[bytes]
    groups: int
    times: int | None = 1
    too_large: bool = False

    def strike(self, asked: Iterable[Guest], groups: int) -> None:
        """Raise the error of a call that asks these guests for these groups, if it is refused."""
        culprit = next((guest for guest in asked if guest.uuid in self.guests), None)
        if culprit is None or not groups & self.groups or self.times == 0:
            return
        if self.times is not None:
            self.times -= 1
        if self.too_large:
            raise RpcError(RPC, FROM_RPC, "Unable to encode message payload")
        raise RpcError(SYSTEM_ERROR, FROM_QEMU, f"cannot read statistics of '{culprit.name}'")

"""
What libvirt lists of all its guests, running or not; runs on a lane.

Everything here is in the memory of libvirt's daemon: it asks no guest's monitor, takes no guest's
job and opens no image. States with their reasons come in one bulk call, and who has what in one
list each. Only snapshots and checkpoints are counted one guest at a time, where there are any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import libvirt

from virtstatd.hypervisor.lanes import Session


T = TypeVar("T")

LISTS: Final = {
    "persistent": 1 << 2,
    "autostart": 1 << 10,
    "managed_save": 1 << 8,
    "snapshots": 1 << 12,
    "checkpoints": 1 << 14,
}
"""The filter of `virConnectListAllDomains` that lists who has it."""

COUNTED: Final = ("snapshots", "checkpoints")
COUNTED_GUESTS: Final = 100
"""Guests whose snapshots or checkpoints are counted in a round, so that none takes long."""

STATE, REASON = "state.state", "state.reason"

Counts = Mapping[tuple[str, str], tuple[int, int]]
"""By `COUNTED` and UUID: the number, and the round in which it was counted."""


@dataclass(frozen=True, slots=True)
class ListedGuest:
    """A guest of libvirt's list: its number is negative where it does not run."""

    name: str
    number: int
    record: Mapping[str, int]

    @property
    def state(self) -> int | None:
        """The state as libvirt numbers it, None if it is not known."""
        return self.record.get(STATE)


@dataclass(slots=True)
class Listed:
    """
    What libvirt said, filled while it answers: what precedes a call that hangs is kept.

    `guests` are None until they are all listed. `sets` holds for each of `LISTS` who is in it,
    `counts` what was counted by it and UUID, and `refused` why libvirt did not answer, by the name
    of the call.
    """

    taken_at: int = 0
    version: int = 0
    guests: dict[str, ListedGuest] | None = None
    sets: dict[str, frozenset[str]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def list_states(session: Session, listed: Listed) -> None:
    """
    List all guests with their states, and who of them is persistent.

    A transient guest that ends is listed as one that does not run until libvirt has removed it.
    Nothing says when that is, so it is left out.
    """
    connection = session.connection
    listed.taken_at = time.time_ns()
    listed.version = connection.getLibVersion()
    try:
        records = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT or not connection.isAlive():
            raise
        records = [(handle, _state(handle)) for handle in connection.listAllDomains(0)]
    listed.guests = {
        handle.UUIDString(): ListedGuest(handle.name(), handle.ID(), record)
        for handle, record in records
    }
    if _list(session, listed, "persistent") is not None:
        kept = listed.sets["persistent"]
        listed.guests = {
            uuid: guest
            for uuid, guest in listed.guests.items()
            if guest.number >= 0 or uuid in kept
        }


def list_facts(
    session: Session,
    listed: Listed,
    round_number: int,
    known: Counts,
    wanted: Callable[[str, str], bool],
) -> None:
    """
    List who has what, and count for some of them; a list that is refused costs itself alone.

    `wanted` says by UUID and name whose snapshots are counted.
    """
    there: list[tuple[str, libvirt.virDomain]] = []
    for name in ("autostart", "managed_save", *COUNTED):
        handles = _list(session, listed, name)
        if handles is not None and name in COUNTED:
            there += [(name, each) for each in handles if wanted(each.UUIDString(), each.name())]
    for name, handle in _longest_ago(there, round_number, known):
        count = _tried(session, listed, f"{name} of a guest", partial(_count, name, handle))
        if count is not None:
            listed.counts[name, handle.UUIDString()] = count


def _list(session: Session, listed: Listed, name: str) -> list[libvirt.virDomain] | None:
    """List who has it; None where that is refused."""
    ask = partial(session.connection.listAllDomains, LISTS[name])
    handles = _tried(session, listed, name, ask)
    if handles is not None:
        listed.sets[name] = frozenset(handle.UUIDString() for handle in handles)
    return handles


def _longest_ago(
    there: Sequence[tuple[str, libvirt.virDomain]], round_number: int, known: Counts
) -> list[tuple[str, libvirt.virDomain]]:
    """Return those to count now: never counted first, then those counted longest ago."""

    def age(each: tuple[str, libvirt.virDomain]) -> int:
        name, handle = each
        _, counted = known.get((name, handle.UUIDString()), (0, -1))
        return counted - round_number

    return sorted(there, key=age)[:COUNTED_GUESTS]


def _count(name: str, handle: libvirt.virDomain) -> int:
    if name == "snapshots":
        return int(handle.snapshotNum(0))
    return len(handle.listAllCheckpoints(0))


def _state(handle: libvirt.virDomain) -> dict[str, int]:
    """Ask for one guest's state, for a driver without the bulk call."""
    try:
        state, reason = handle.state()
    except libvirt.libvirtError:  # it was undefined meanwhile
        return {}
    return {STATE: state, REASON: reason}


def _tried(session: Session, listed: Listed, name: str, ask: Callable[[], T]) -> T | None:
    """Ask, and note why there is no answer; raises where the connection was lost."""
    try:
        return ask()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        if not session.connection.isAlive():
            raise
        listed.refused[name] = error.get_error_message() or str(error)
    return None

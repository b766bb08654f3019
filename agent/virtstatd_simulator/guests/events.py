"""Domain events on the wire: one message per callback that asked for one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from virtstatd_simulator.guests.fields import Field
from virtstatd_simulator.wire.xdr import (
    pack_array,
    pack_hyper,
    pack_int,
    pack_optional,
    pack_string,
    pack_uhyper,
    pack_uint,
)


LIFECYCLE = 0
TUNABLE = 17
DEVICE_ADDED = 19
DEVICE_REMOVED = 15
METADATA_CHANGE = 23

# virDomainEventType, for LIFECYCLE
DEFINED, UNDEFINED, STARTED, SUSPENDED, RESUMED, STOPPED, SHUTDOWN = range(7)

_NUMBERS: dict[str, Callable[[int], bytes]] = {
    "i": pack_int,
    "u": pack_uint,
    "h": pack_hyper,
    "q": pack_uhyper,
}

Argument = int | str | None | list[Field]


class Wire(NamedTuple):
    """
    How an event travels: its procedure, and a letter per argument after callback and domain.

    i: int, u: unsigned, h: hyper, q: unsigned hyper, s: string, S: optional string, p: typed
    parameters, a: the address of a console, n: an array that is always empty; D is the domain, for
    events whose first argument precedes it.
    """

    procedure: int
    layout: str = ""


WIRE: dict[int, Wire] = {
    LIFECYCLE: Wire(318, "Dii"),
    1: Wire(319, "D"),  # reboot
    2: Wire(320, "Dh"),  # clock change
    3: Wire(321, "Di"),  # watchdog
    4: Wire(322, "Dssi"),  # I/O error
    5: Wire(323, "Diaasn"),  # graphics
    6: Wire(324, "Dssis"),  # I/O error with its reason
    7: Wire(325, "D"),  # control error
    8: Wire(326, "Dsii"),  # block job, by path
    9: Wire(327, "DSSsi"),  # disk change
    10: Wire(328, "Dsi"),  # tray change
    11: Wire(329, "iD"),  # wake-up
    12: Wire(330, "iD"),  # suspend
    13: Wire(331, "Dq"),  # balloon change
    14: Wire(332, "iD"),  # suspend to disk
    DEVICE_REMOVED: Wire(333, "Ds"),
    16: Wire(339, "Dsii"),  # block job, by target
    TUNABLE: Wire(346, "Dp"),
    18: Wire(348, "Dii"),  # guest agent
    DEVICE_ADDED: Wire(354, "Ds"),
    20: Wire(359, "Di"),  # migration iteration
    21: Wire(363, "Dp"),  # job completed
    22: Wire(367, "Ds"),  # device removal failed
    METADATA_CHANGE: Wire(379, "DiS"),
    24: Wire(385, "DsSqq"),  # block threshold
    25: Wire(423, "Diiu"),  # memory failure
    26: Wire(438, "Dsq"),  # memory device size
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a guest: libvirt's number of it and the callback's arguments."""

    id: int
    uuid: bytes
    domain: bytes
    arguments: Sequence[Argument] = ()

    def pack(self, callback: int) -> bytes:
        """Pack it for one callback; raises `ValueError` when the arguments do not fit the event."""
        blob = pack_int(callback)
        rest = iter(self.arguments)
        try:
            for letter in WIRE[self.id].layout:
                blob += self.domain if letter == "D" else _pack(letter, rest)
        except (KeyError, StopIteration, struct.error) as error:
            raise ValueError(f"event {self.id} with {self.arguments!r}") from error
        return blob


def _pack(letter: str, rest: Iterator[Argument]) -> bytes:
    if letter in "an":  # the simulator has no consoles
        return pack_int(2) + pack_string("") * 2 if letter == "a" else pack_uint(0)
    value = next(rest)
    if letter == "S" and (value is None or isinstance(value, str)):
        return pack_optional(value)
    if letter == "s" and isinstance(value, str):
        return pack_string(value)
    if letter == "p" and isinstance(value, list):
        return pack_params(value)
    if letter in _NUMBERS and isinstance(value, int):
        return _NUMBERS[letter](value)
    raise ValueError(f"{value!r} for {letter}")


def pack_params(fields: Sequence[Field]) -> bytes:
    """Pack an array of typed parameters."""
    return pack_array(f.pack_head() + f.pack_value() for f in fields)

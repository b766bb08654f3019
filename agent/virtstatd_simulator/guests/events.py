"""Domain events on the wire: one message per callback that asked for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from virtstatd_simulator.guests.fields import (
    INT,
    LLONG,
    RANGES,
    UINT,
    ULLONG,
    Field,
    is_integer,
    parse_field,
)
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
REBOOT = 1
TUNABLE = 17
METADATA_CHANGE = 23

# virDomainEventType, for LIFECYCLE
DEFINED, UNDEFINED, STARTED, SUSPENDED, RESUMED, STOPPED, SHUTDOWN = range(7)

_INTEGERS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "i": (INT, pack_int),
    "u": (UINT, pack_uint),
    "h": (LLONG, pack_hyper),
    "q": (ULLONG, pack_uhyper),
}
_NOUNS = {
    "s": "a text",
    "S": "a text or null",
    "p": "a list of [name, type, value]",
    **{
        letter: "an integer from {} to {}".format(*RANGES[t])
        for letter, (t, _) in _INTEGERS.items()
    },
}

Argument = int | str | None | Sequence[Field]


class Wire(NamedTuple):
    """
    Describes how an event travels: its procedure, and a letter per argument behind the domain.

    i: int, u: unsigned, h: hyper, q: unsigned hyper, s: string, S: optional string, p: typed
    parameters.
    """

    procedure: int
    layout: str = ""


# without those of consoles, of trays, of the clock and of guests that suspend themselves
WIRE: dict[int, Wire] = {
    LIFECYCLE: Wire(318, "ii"),
    REBOOT: Wire(319),
    3: Wire(321, "i"),  # watchdog
    4: Wire(322, "ssi"),  # I/O error
    6: Wire(324, "ssis"),  # I/O error with its reason
    7: Wire(325),  # control error
    8: Wire(326, "sii"),  # block job, by path
    9: Wire(327, "SSsi"),  # disk change
    13: Wire(331, "q"),  # balloon change
    15: Wire(333, "s"),  # device removed
    16: Wire(339, "sii"),  # block job, by target
    TUNABLE: Wire(346, "p"),
    18: Wire(348, "ii"),  # guest agent
    19: Wire(354, "s"),  # device added
    20: Wire(359, "i"),  # migration iteration
    21: Wire(363, "p"),  # job completed
    22: Wire(367, "s"),  # device removal failed
    METADATA_CHANGE: Wire(379, "iS"),
    24: Wire(385, "sSqq"),  # block threshold
    25: Wire(423, "iiu"),  # memory failure
    26: Wire(438, "sq"),  # memory device size
}


@dataclass(frozen=True, slots=True)
class Event:
    """Holds libvirt's number of an event, the guest's UUID and packed name, and arguments."""

    id: int
    uuid: bytes
    domain: bytes
    arguments: Sequence[Argument] = ()

    def pack(self, callback: int) -> bytes:
        """Pack it for one callback."""
        blob = pack_int(callback) + self.domain
        for letter, value in zip(WIRE[self.id].layout, self.arguments, strict=True):
            blob += _pack(letter, value)
        return blob


def _pack(letter: str, value: Argument) -> bytes:
    if letter in _INTEGERS:
        return _INTEGERS[letter][1](cast("int", value))
    if letter == "p":
        return pack_params(cast("Sequence[Field]", value))
    return pack_optional(cast("str | None", value)) if letter == "S" else pack_string(str(value))


def parse_arguments(event: int, values: Sequence[object]) -> list[Argument]:
    """Check the arguments of an event as JSON has them; raises `ValueError` with a sentence."""
    layout = WIRE[event].layout
    nouns = ", ".join(_NOUNS[letter] for letter in layout) or "nothing"
    if len(values) != len(layout) or not all(map(_fits, layout, values)):
        raise ValueError(f"must hold, for event {event}, {nouns}")
    return [
        _parsed(cast("list[tuple[str, int, object]]", value))
        if letter == "p"
        else cast("Argument", value)
        for letter, value in zip(layout, values, strict=True)
    ]


def _parsed(fields: Sequence[tuple[str, int, object]]) -> list[Field]:
    try:
        return [parse_field(*field) for field in fields]
    except ValueError as error:
        raise ValueError(f"hold a parameter that cannot be: {error}") from error


def _fits(letter: str, value: object) -> bool:
    if letter in _INTEGERS:
        return is_integer(value, *RANGES[_INTEGERS[letter][0]])
    if letter == "p":
        return isinstance(value, list) and all(
            isinstance(field, list)
            and len(field) == len(("name", "type", "value"))
            and isinstance(field[0], str)
            for field in value
        )
    return isinstance(value, str) or (letter == "S" and value is None)


def pack_params(fields: Sequence[Field]) -> bytes:
    """Pack an array of typed parameters."""
    return pack_array(f.pack_head() + f.pack_value() for f in fields)

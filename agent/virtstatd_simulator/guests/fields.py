"""
One statistic of a record: its name on the wire, its type, and where its number comes from.

Only its name decides which group a field belongs to and whether it needs the guest's job, so that
records captured from a real daemon follow the same rules as generated ones.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntFlag
from typing import Literal, TypeGuard

from virtstatd_simulator.guests.load import UNIT, Driver
from virtstatd_simulator.wire.xdr import (
    pack_double,
    pack_hyper,
    pack_int,
    pack_string,
    pack_uhyper,
    pack_uint,
)


INT, UINT, LLONG, ULLONG, DOUBLE, BOOLEAN, STRING = range(1, 8)
CODES = {INT: "i", UINT: "I", LLONG: "q", ULLONG: "Q", DOUBLE: "d", BOOLEAN: "i"}
RANGES = {
    INT: (-(1 << 31), (1 << 31) - 1),
    UINT: (0, (1 << 32) - 1),
    LLONG: (-(1 << 63), (1 << 63) - 1),
    ULLONG: (0, (1 << 64) - 1),
}


class Group(IntFlag):
    """Lists `virDomainStatsTypes`, in the order in which a record carries them."""

    STATE = 1
    CPU = 2
    BALLOON = 4
    VCPU = 8
    NET = 16
    BLOCK = 32
    PERF = 64
    IOTHREAD = 128
    MEMORY = 256
    DIRTYRATE = 512
    VM = 1024


EVERY_GROUP = 2047
GROUP_NAMES = {
    "state": Group.STATE,
    "cpu_total": Group.CPU,
    "balloon": Group.BALLOON,
    "vcpu": Group.VCPU,
    "interface": Group.NET,
    "block": Group.BLOCK,
    "perf": Group.PERF,
    "iothread": Group.IOTHREAD,
    "memory": Group.MEMORY,
    "dirtyrate": Group.DIRTYRATE,
    "vm": Group.VM,
}  # as `VIR_DOMAIN_STATS_*` and the options of `virsh domstats` have them
MONITOR_GROUPS = 2 | 4 | 8 | 32 | 128 | 512 | 1024  # any of them and the guest's job is taken

_GROUPS = {
    group.name.lower(): group for group in Group if group.name is not None
}  # the first word of every field's name

_WITHOUT_JOB = re.compile(
    r"""state\..* | cpu\.(time|user|system|cache\..*|energy\..*) | balloon\.(current|maximum)
    | vcpu\.(current|maximum|\d+\.(state|time|wait|delay)) | net\..*
    | block\.(count|\d+\.(name|path|backingIndex)) | perf\..* | memory\..*""",
    re.VERBOSE,
)

Slot = Literal["tap", "path"]


@dataclass(frozen=True, slots=True)
class Field:
    """
    A statistic, `base + rate * driver`, or the string `text`.

    With a `slot` the text belongs to the guest: the name of its tap device or the path of its
    image, number `base` of them.
    """

    name: str
    type: int
    base: int | float = 0
    rate: int = 0
    driver: Driver = Driver.CPU
    text: str | None = None
    slot: Slot | None = None

    @property
    def group(self) -> Group:
        """Return the group that this field is polled with."""
        return _GROUPS[self.name.partition(".")[0]]

    @property
    def has_group(self) -> bool:
        """Return whether a record can have this field."""
        return self.name.partition(".")[0] in _GROUPS

    @property
    def needs_job(self) -> bool:
        """Return whether libvirtd leaves the field out when it did not get the guest's job."""
        return _WITHOUT_JOB.fullmatch(self.name) is None

    @property
    def moves(self) -> bool:
        """Return whether the number changes from poll to poll."""
        return self.rate != 0

    def pack_head(self) -> bytes:
        """Pack name and type."""
        return pack_string(self.name) + pack_int(self.type)

    def pack_value(self) -> bytes:
        """Pack the value of a field that does not move."""
        if self.text is not None:
            return pack_string(self.text)
        if self.type == DOUBLE:
            return pack_double(self.base)
        number = int(self.base)
        if self.type in (INT, BOOLEAN):
            return pack_int(number)
        if self.type == UINT:
            return pack_uint(number)
        return pack_hyper(number) if self.type == LLONG else pack_uhyper(number)


def counter(name: str, per_second: float, driver: Driver = Driver.CPU) -> Field:
    """Make a counter that grows by `per_second` under full load."""
    return Field(name, ULLONG, 0, max(1, round(per_second)), driver)


def gauge(name: str, low: int, high: int) -> Field:
    """Make a gauge that swings between `low` and `high`."""
    return Field(name, ULLONG, low, high - low, Driver.WAVE)


def fixed(name: str, number: float, type_: int = ULLONG) -> Field:
    """Make a number that never changes."""
    return Field(name, type_, number)


def text(name: str, value: str) -> Field:
    """Make a string that every guest of the flavor has."""
    return Field(name, STRING, text=value)


def follows(name: str, driver: Driver, type_: int) -> Field:
    """Make a number that is the driver itself."""
    return Field(name, type_, 0, UNIT, driver)


def spoiled(field: Field, value: int | None) -> Field:
    """Return a field with an invalid value: this one, or NaN if None."""
    if value is None:
        return Field(field.name, DOUBLE, math.nan)
    return Field(field.name, LLONG, value)


def is_integer(value: object, low: int, high: int) -> TypeGuard[int]:
    """Return whether a value is an integer of a range; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def parse_field(name: str, type_: int, value: object) -> Field:
    """Make a field of given values; raises `ValueError` when type and value do not fit."""
    if not is_integer(type_, INT, STRING):
        raise ValueError(f"{name} has none of libvirt's types 1 to 7")
    if type_ == STRING and isinstance(value, str):
        return Field(name, type_, text=value)
    if type_ == DOUBLE and (isinstance(value, float) or is_integer(value, *RANGES[LLONG])):
        return Field(name, type_, float(value))
    if type_ == BOOLEAN and value in (0, 1):
        return Field(name, type_, int(value))
    if type_ in RANGES and isinstance(value, int):
        if type_ == UINT and -RANGES[INT][1] - 1 <= value < 0:  # so the binding gives large ones
            value += 1 << 32
        if is_integer(value, *RANGES[type_]):
            return Field(name, type_, value)
    raise ValueError(f"{name} has a value that does not fit type {type_}")

"""What the library in C does with libvirt's own structures, as the binding and `catalog` do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


Identity = tuple[str, str, int]
"""The UUID, the name and the number of a domain."""

TakePick = tuple[int, int, int]
"""The place of a number, -1 for the constant 1; `BIN_*`; and its factor, 0 for none."""

BIN_NONE, BIN_FIRST, BIN_NEXT, BIN_COUNT = range(4)
"""Whether a number is a bin of a histogram, which adds up those before it, or their sum."""

Values = tuple[tuple[int | float, ...], ...]
"""The numbers of each part of a plan."""


class Records(Protocol):
    """An answer of libvirt: a record for each domain, counted from 0."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def identity(self, at: int, /) -> Identity:
        """Return whose record it is."""
        ...

    def dictionary(self, at: int, /) -> dict[str, int | float | bool | str]:
        """Return a record exactly as the binding does."""
        ...

    def types(self, at: int, /) -> list[int]:
        """Return libvirt's types of a record's values, `VIR_TYPED_PARAM_*`."""
        ...

    def free(self) -> None:
        """Give the memory back; no record is left."""
        ...


class Libvirt(Protocol):
    """
    The functions of the libvirt that the binding has loaded.

    The interpreter is not locked during a call. Pointers are those of the binding's `c_pointer`,
    whose objects the caller keeps. A result of None is an error of libvirt, which is then the last
    one of this thread.
    """

    def all(self, connection: int, bits: int, flags: int, /) -> Records | None:
        """Call `virConnectGetAllDomainStats`."""
        ...

    def of(self, domains: list[int], bits: int, flags: int, /) -> Records | None:
        """Call `virDomainListGetStats`."""
        ...


class Take(Protocol):
    """
    A plan for records with the same names, types and fixed places.

    It is made of a layout (for each name libvirt's type, the letter that `catalog.decode` checks
    its value by, its length, and the name), the fixed places, and the picks of each part.
    """

    def take(self, records: Records, at: int, fixed: tuple[object, ...], /) -> Values | None:
        """
        Return the numbers of a record, None if it or one of them deviates.

        `fixed` are the values that it must have in the fixed places.
        """
        ...


LoadLibvirt = Callable[[str], Libvirt]
"""Finds the library of a name among those that are loaded; OSError if it is not usable."""

MakeTake = Callable[[bytes, tuple[int, ...], tuple[tuple[TakePick, ...], ...]], Take]
"""Makes a plan; ValueError or OverflowError if it cannot be one."""

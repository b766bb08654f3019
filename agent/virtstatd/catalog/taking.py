"""
Takes numbers from libvirt's own structures: the plans of `decode`, done in C.

A record goes through the decoder once, and whenever it deviates from its plan: other names, types
or fixed values, and numbers that need a second look. So there is one truth about each record.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat

from virtstatd._fast.records import (
    BIN_COUNT,
    BIN_FIRST,
    BIN_NEXT,
    BIN_NONE,
    MakeTake,
    Records,
    Take,
    TakePick,
)
from virtstatd.catalog.decode import Decoder, PlanPart, RecordPlan
from virtstatd.catalog.recipe import ONE, Value
from virtstatd.model import Domain, Reading, Shape


_TAKEN = 8
"""Plans of a domain, as many as the decoder has."""

_LAYOUTS = 1 << 10
"""Layouts that are shared by guests which are built alike."""

SoundRecord = tuple[tuple[Reading, ...], str, Collection[str]]
"""The readings of a record, its first invalid value in words, and its keys."""


@dataclass(frozen=True, slots=True, eq=False)
class _Taking:
    """A plan of the decoder, and the same in C if there is one."""

    plan: RecordPlan
    take: Take | None
    shapes: tuple[Shape, ...]
    keys: frozenset[str]


class Taker:
    """Takes the records of any number of domains, each from one thread at a time."""

    def __init__(self, decoder: Decoder, make: MakeTake) -> None:
        self._decoder = decoder
        self._make = make
        self._takings: dict[str, tuple[_Taking, ...]] = {}
        self._layout = lru_cache(_LAYOUTS)(_layout)
        self._keys = lru_cache(_LAYOUTS)(frozenset[str])

    def sound(self, domain: Domain, records: Records, at: int) -> SoundRecord:
        """Return a record's readings without invalid values, as `Decoder.sound` does."""
        for taking in self._takings.get(domain.uuid, ()):
            if taking.take and (parts := taking.take.take(records, at)) is not None:
                return tuple(map(Reading, repeat(domain), taking.shapes, parts)), "", taking.keys
        record = records.dictionary(at)
        readings, fault = self._decoder.sound(domain, record)
        if not fault:
            self._learn(domain.uuid, record, records.types(at))
        return readings, fault, record

    def forget(self, uuid: str) -> None:
        """Drop what is kept for a domain that has ended."""
        self._takings.pop(uuid, None)

    def _learn(self, uuid: str, record: dict[str, Value], types: list[int]) -> None:
        """Have the next record of this kind taken in C, unless this one deviated from that."""
        plan, known = self._decoder.plan(uuid, record), self._takings.get(uuid, ())
        if plan is None or any(taking.plan is plan for taking in known):
            return
        shapes = tuple(part.shape for part in plan.parts)
        taking = _Taking(plan, self._compiled(plan, record, types), shapes, self._keys(plan.keys))
        others = [each for each in known if each.plan.keys != plan.keys]
        self._takings[uuid] = (taking, *others[: _TAKEN - 1])

    def _compiled(
        self, plan: RecordPlan, record: dict[str, Value], types: list[int]
    ) -> Take | None:
        if len(types) != len(record):  # a name came twice
            return None
        values = list(record.values())
        fixed = [(at, values[at]) for at in plan.fixed_at]
        if any(isinstance(value, float) for _, value in fixed):
            return None
        parts = tuple(tuple(_picks(part, len(values))) for part in plan.parts)
        try:
            return self._make(
                self._layout(plan.keys, plan.codes, tuple(types)),
                tuple((at, value if isinstance(value, str) else int(value)) for at, value in fixed),
                parts,
            )
        except (ValueError, OverflowError):
            return None


def _layout(keys: tuple[str, ...], codes: str, types: tuple[int, ...]) -> bytes:
    """Return the names with their types and checks; ValueError if one is too long."""
    rows = zip(types, codes, map(str.encode, keys), strict=False)
    return b"".join(bytes((kind, ord(code), len(key))) + key for kind, code, key in rows)


def _picks(part: PlanPart, one: int) -> list[TakePick]:
    """Return what is taken for each number of a part; `one` is the place of the constant 1."""
    factors = dict(part.factors)
    bins = dict.fromkeys(range(len(part.picks)), BIN_NONE)
    for first, count in part.bins:
        bins.update(dict.fromkeys(range(first + 1, count), BIN_NEXT))
        bins |= {first: BIN_FIRST, count: BIN_COUNT}
    return [
        (ONE if place == one else place, bins[at], factors.get(at, 0))
        for at, place in enumerate(part.picks)
    ]

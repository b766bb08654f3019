"""
Takes numbers from libvirt's own structures: the plans of `decode`, done in C.

A record goes through the decoder once, and whenever it deviates from its plan: other names, types
or fixed values, and numbers that need a second look. So there is one truth about each record.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache, partial
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

_SHARED = 1 << 10
"""Plans that guests which are built alike share."""

SoundRecord = tuple[tuple[Reading, ...], str, Collection[str]]
"""The readings of a record, its first invalid value in words, and its keys."""


@dataclass(frozen=True, slots=True, eq=False)
class _Taking:
    """A plan of the decoder, and the same in C if there is one."""

    plan: RecordPlan
    fixed: tuple[object, ...]
    take: Take | None
    shapes: tuple[Shape, ...]
    keys: frozenset[str]


class Taker:
    """Takes the records of any number of domains, each from one thread at a time."""

    def __init__(self, decoder: Decoder, make: MakeTake) -> None:
        self._decoder = decoder
        self._takings: dict[str, tuple[_Taking, ...]] = {}
        # guests that are built alike share all but their shapes and fixed values
        self._made = lru_cache(_SHARED)(partial(_made, make))
        self._keys = lru_cache(_SHARED)(frozenset[str])

    def sound(self, domain: Domain, records: Records, at: int) -> SoundRecord:
        """Return a record's readings without invalid values, as `Decoder.sound` does."""
        for taking in self._takings.get(domain.uuid, ()):
            if taking.take and (numbers := taking.take.take(records, at, taking.fixed)) is not None:
                return tuple(map(Reading, repeat(domain), taking.shapes, numbers)), "", taking.keys
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
        values = list(record.values())
        take = None
        if len(types) == len(record):  # no name came twice
            picks = tuple([_picks(part, len(values)) for part in plan.parts])
            take = self._made(plan.keys, plan.codes, tuple(types), plan.fixed_at, picks)
        fixed = tuple([values[place] for place in plan.fixed_at])
        shapes = tuple([part.shape for part in plan.parts])
        taking = _Taking(plan, fixed, take, shapes, self._keys(plan.keys))
        others = [each for each in known if each.plan.keys != plan.keys]
        self._takings[uuid] = (taking, *others[: _TAKEN - 1])


def _made(
    make: MakeTake,
    keys: tuple[str, ...],
    codes: str,
    types: tuple[int, ...],
    fixed: tuple[int, ...],
    picks: tuple[tuple[TakePick, ...], ...],
) -> Take | None:
    """Return what takes the numbers, None if that is left to the decoder."""
    try:
        return make(_layout(keys, codes, types), fixed, picks)
    except (ValueError, OverflowError):
        return None


def _layout(keys: tuple[str, ...], codes: str, types: tuple[int, ...]) -> bytes:
    """Return the names with their types and checks; ValueError if one is too long."""
    rows = zip(types, codes, map(str.encode, keys), strict=False)
    return b"".join(bytes((kind, ord(code), len(key))) + key for kind, code, key in rows)


def _picks(part: PlanPart, one: int) -> tuple[TakePick, ...]:
    """Return what is taken for each number of a part; `one` is the place of the constant 1."""
    factors = dict(part.factors)
    bins = dict.fromkeys(range(len(part.picks)), BIN_NONE)
    for first, count in part.bins:
        bins.update(dict.fromkeys(range(first + 1, count), BIN_NEXT))
        bins |= {first: BIN_FIRST, count: BIN_COUNT}
    return tuple(
        [
            (ONE if place == one else place, bins[at], factors.get(at, 0))
            for at, place in enumerate(part.picks)
        ]
    )

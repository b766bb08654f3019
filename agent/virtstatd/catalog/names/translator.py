"""
Turns batches into what another tool would have: its names, labels and kinds, then all the rest.

What a shape becomes is compiled once, and once per guest where labels name the guest or come from
its description. Each reading becomes two: one with the tool's series, under a group of its own, and
one with the series that the tool does not have, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from weakref import WeakKeyDictionary

from virtstatd.catalog.names.compiling import Compiled, KnownFacts, translation
from virtstatd.catalog.names.dialect import Dialect, bare
from virtstatd.model import Batch, Domain, Field, Kind, Number, Reading, Shape


SECOND: Final = 10**9
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR

_Facts = dict[str, tuple[Mapping[str, str], ...]]


@dataclass(slots=True)
class _Guest:
    """What is known of a guest, or of the host: facts by metric, numbers, and what was compiled."""

    first: int
    seen: int
    id: int | None
    facts: _Facts = field(default_factory=dict)
    numbers: dict[str, tuple[Number, int]] = field(default_factory=dict)
    told: dict[str, Shape] = field(default_factory=dict)
    own: WeakKeyDictionary[Shape, Compiled] = field(default_factory=WeakKeyDictionary)
    domain: tuple[Domain, Domain] | None = None


class Translator:
    """
    Translate batches into the names of one tool.

    `name_of` returns the name of a metric as the page has it. `rest` says whether series that the
    tool does not have are kept. For `patience` seconds after a guest's first reading, series that
    take labels from its description wait for it; then they are shown without these labels.
    """

    def __init__(
        self,
        dialect: Dialect,
        name_of: Callable[[Field], str],
        *,
        rest: bool = True,
        patience: float = 0.0,
    ) -> None:
        self._dialect = dialect
        self._name_of = name_of
        self._rest = rest
        self._patience = round(patience * SECOND)
        self._families = frozenset(bare(each) for each in dialect.metrics) | {
            bare(each) for each in dialect.replaced
        }
        self._shared: WeakKeyDictionary[Shape, Compiled] = WeakKeyDictionary()
        self._rests: WeakKeyDictionary[Shape, Compiled] = WeakKeyDictionary()
        self._told: WeakKeyDictionary[Shape, _Facts] = WeakKeyDictionary()
        self._besides: WeakKeyDictionary[Shape, tuple[tuple[int, str], ...]] = WeakKeyDictionary()
        self._guests: dict[str | None, _Guest] = {}
        self._forgot_at = 0

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch under the tool's names; the same one again gives the same."""
        for reading in batch.readings:
            self._learn(reading, batch)
        readings = tuple(each for one in batch.readings for each in self._both(one, batch))
        self._forget(batch)
        groups = batch.groups | {self._group(each) for each in batch.groups}
        return replace(batch, readings=readings, groups=groups)

    def _group(self, group: str) -> str:
        return f"{group} as {self._dialect.name}"

    def _both(self, reading: Reading, batch: Batch) -> Iterator[Reading]:
        guest = self._guests[_uuid(reading.domain)]
        translated = self._translation(reading, guest, batch)
        if translated.shape:
            values = translated.values(reading.values, guest.numbers)
            yield Reading(self._domain(reading.domain, guest), translated.shape, values)
        if self._rest:
            rest = self._left(reading.shape)
            if rest.shape is reading.shape:
                yield reading
            elif rest.shape:
                yield Reading(reading.domain, rest.shape, rest.values(reading.values, {}))

    def _translation(self, reading: Reading, guest: _Guest, batch: Batch) -> Compiled:
        shape = reading.shape
        found = self._shared.get(shape) or guest.own.get(shape)
        if found is not None and found.holds(guest.numbers, batch.taken_at):
            return found
        waits = not guest.facts and batch.taken_at - guest.first < self._patience
        known = KnownFacts(
            labels=_of_guest(reading.domain),
            facts=guest.facts,
            numbers={n for n, (_, until) in guest.numbers.items() if until >= batch.taken_at},
            waits=waits,
        )
        made = translation(self._dialect, shape, known, self._name_of, self._group(shape.group))
        if not made.personal:
            self._shared[shape] = made
        elif not waits:
            guest.own[shape] = made
        return made

    def _left(self, shape: Shape) -> Compiled:
        """Return the series that the tool has no names for."""
        found = self._rests.get(shape)
        if found is None:
            at = [
                place
                for place, series in enumerate(shape.series)
                if bare(self._name_of(series.field)) not in self._families
            ]
            found = self._rests[shape] = Compiled.picking(shape, at)
        return found

    def _domain(self, domain: Domain | None, guest: _Guest) -> Domain | None:
        """Return a guest under the labels that the tool gives all of its series."""
        if domain is None:
            return None
        if guest.domain is None or guest.domain[0] is not domain:
            known = dict(_of_guest(domain))
            for tables in guest.facts.values():
                known |= tables[0] if len(tables) == 1 else {}
            given = {each.name: each.text(known) for each in self._dialect.labels}
            more = {n: v for n, v in domain.labels if n not in {"domain", *given}}
            labels = tuple((given | more).items())
            guest.domain = domain, replace(domain, labels=labels)
        return guest.domain[1]

    def _learn(self, reading: Reading, batch: Batch) -> None:
        """Take facts that other series get as labels, and numbers that others are computed with."""
        guest = self._guest(reading.domain, batch)
        shape = reading.shape
        facts = self._facts(shape)
        if facts and guest.told.get(shape.group) is not shape:
            guest.told[shape.group] = shape
            if guest.facts | facts != guest.facts:
                guest.facts |= facts
                guest.own.clear()
                guest.domain = None
        until = batch.taken_at + round(batch.lifetime_seconds * SECOND)
        for place, name in self._beside(shape):
            guest.numbers[name] = reading.values[place], until

    def _facts(self, shape: Shape) -> _Facts:
        found = self._told.get(shape)
        if found is None:
            found = {}
            for series in shape.series:
                if series.field.kind is Kind.INFO:
                    name = self._name_of(series.field)
                    if name in self._dialect.joined:
                        found[name] = (*found.get(name, ()), dict(series.labels))
            self._told[shape] = found
        return found

    def _beside(self, shape: Shape) -> tuple[tuple[int, str], ...]:
        found = self._besides.get(shape)
        if found is None:
            found = self._besides[shape] = tuple(
                (place, name)
                for place, series in enumerate(shape.series)
                if not series.labels
                and (name := self._name_of(series.field)) in self._dialect.beside
            )
        return found

    def _guest(self, domain: Domain | None, batch: Batch) -> _Guest:
        uuid, run = (domain.uuid, domain.id) if domain else (None, None)
        guest = self._guests.get(uuid)
        if guest is None or guest.id != run:
            guest = self._guests[uuid] = _Guest(batch.taken_at, batch.taken_at, run)
        guest.seen = max(guest.seen, batch.taken_at)
        return guest

    def _forget(self, batch: Batch) -> None:
        """Forget guests that ended, and those from which nothing came for a day."""
        for domain in batch.gone:
            guest = self._guests.get(domain.uuid)
            if guest and guest.id == domain.id:
                del self._guests[domain.uuid]
        if batch.taken_at - self._forgot_at > HOUR:
            self._forgot_at = batch.taken_at
            oldest = batch.taken_at - DAY
            self._guests = {u: each for u, each in self._guests.items() if each.seen >= oldest}


def _uuid(domain: Domain | None) -> str | None:
    return domain.uuid if domain else None


def _of_guest(domain: Domain | None) -> dict[str, str]:
    return {"domain": domain.name, "uuid": domain.uuid} if domain else {}

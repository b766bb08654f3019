"""
Remote write 2.0 without an object per number; 2.0-rc.4 is what it follows.

In this version texts are written once per request, in a table of symbols, and series refer to them
by number. Names, help, units, the sink's own labels and the short values of others are the
beginning of the table of every request, so that what refers to them is compiled once per shape, and
filled in again only when a shape's next reading is another domain's. Long values, and those beyond
a limit, have numbers of their own in each request, always written in as many bytes. A reading is
one call of `struct` then.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from virtstatd.formats.chunks import Chunk
from virtstatd.formats.lifetimes import Plan
from virtstatd.formats.naming import label_name, visible_bytes
from virtstatd.formats.numbers import Divisors, scaled
from virtstatd.formats.write1 import STALE, TIME, time_field
from virtstatd.formats.write2_template import (
    START,
    LabelNames,
    Vocabulary,
    Write2Template,
    symbol,
    write2_template,
)
from virtstatd.model import Labels, Number, Shape


VOCABULARY = 4096
"""Most symbols that requests begin with; above that they are collected again from none."""

CALLS = 10_000
"""Calls after which values are collected again from none, where some found no room."""


class SymbolTable:
    """The symbols of one request beside the vocabulary, and the templates they were filled into."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._references: dict[bytes, bytes] = {}
        self._filled: set[Write2Template] = set()

    def reference(self, text: bytes) -> bytes:
        """Return a reference to a symbol, always of three bytes."""
        found = self._references.get(text)
        if found is None:
            found = self._references[text] = _long(self._next)
            self._next += 1
        return found

    def fill(self, template: Write2Template) -> None:
        """Fill this request's references into a template that has any."""
        if template.dynamic and template not in self._filled:
            self._filled.add(template)
            own = [self.reference(text) for text in template.symbols]
            for place, piece in template.dynamic:
                parts = [part if isinstance(part, bytes) else own[part] for part in piece]
                template.arguments[place] = b"".join(parts)

    def symbols(self) -> bytes:
        """Return the encoded symbols, to be put behind the vocabulary."""
        return b"".join(map(symbol, self._references))


class Write2Encoder:
    """Encode readings as the time series of a Request, with templates for all live shapes."""

    def __init__(self, external: Labels) -> None:
        self._external = dict(external)
        self._table: SymbolTable | None = None
        self._forget()

    def items(self, plan: Plan, starts: Sequence[int]) -> list[Chunk]:
        """
        Return the chunks of the readings, then those of the stale markers.

        All is compiled before any is encoded. `starts` are the start times of each reading's
        counters in milliseconds, 0 where unknown.
        """
        self._table = None
        items: list[Chunk] = []
        for reading, start in zip(plan.readings, starts, strict=True):
            labels = reading.domain.labels if reading.domain else ()
            template = self._template(reading.shape, labels, started=start > 0)
            encode = functools.partial(
                self._encode,
                template,
                labels,
                self._references(labels),
                reading.values,
                template.divisors,
                plan.milliseconds,
                start,
            )
            items.append((len(reading.values), encode))
        for ended in plan.ended:
            template = self._compiled(Shape("", ended.series), _names(ended.labels), started=False)
            marks = (STALE,) * len(ended.series)  # not scaled, which would change their bits
            encode = functools.partial(
                self._encode,
                template,
                ended.labels,
                self._references(ended.labels),
                marks,
                None,
                ended.milliseconds,
                0,
            )
            items.append((len(marks), encode))
        return items

    def request(self, series: list[bytes]) -> bytes:
        """Return the request that holds all these time series, and begin another."""
        own = self._table.symbols() if self._table else b""
        self._table = None
        request = b"".join((self._vocabulary.symbols(), own, *series))
        self._calls += 1
        crowded = self._vocabulary.full and self._calls > CALLS
        if crowded or len(self._vocabulary) > VOCABULARY:
            self._forget()
        return request

    def _forget(self) -> None:
        self._calls = 0
        self._vocabulary = Vocabulary()
        self._known: dict[Labels, tuple[bytes | None, ...]] = {}
        self._templates: WeakKeyDictionary[Shape, dict[tuple[object, ...], Write2Template]] = (
            WeakKeyDictionary()
        )

    def _encode(
        self,
        template: Write2Template,
        labels: Labels,
        references: Sequence[bytes | None],
        values: Sequence[Number],
        divisors: Divisors | None,
        milliseconds: int,
        start: int,
    ) -> bytes:
        if self._table is None:
            self._table = SymbolTable(len(self._vocabulary))
        self._table.fill(template)
        arguments, stride = template.arguments, template.stride
        count = len(values)
        if template.filled != (labels, start):
            for place, known in enumerate(references):
                found = known or self._table.reference(_values(labels)[place])
                arguments[2 * place + 1 :: stride] = [found] * count
            arguments[stride - 1 :: stride] = [time_field(START, start)] * count
            template.filled = None if None in references else (labels, start)
        arguments[stride - 3 :: stride] = scaled(values, divisors)
        arguments[stride - 2 :: stride] = [time_field(TIME, milliseconds)] * count
        return template.layout.pack(*arguments)

    def _references(self, labels: Labels) -> tuple[bytes | None, ...]:
        """Return the references of a domain's values, None for those that a request has itself."""
        found = self._known.get(labels)
        if found is None:
            numbers = [self._vocabulary.value(text) for text in _values(labels)]
            found = tuple(None if number is None else _long(number) for number in numbers)
            if None not in found:
                self._known[labels] = found
        return found

    def _template(self, shape: Shape, labels: Labels, *, started: bool) -> Write2Template:
        templates = self._templates.get(shape)
        if templates is None:
            templates = self._templates[shape] = {}
        names = _names(labels)
        template = templates.get((names, started))
        if template is None:
            template = templates[names, started] = self._compiled(shape, names, started=started)
        return template

    def _compiled(self, shape: Shape, names: LabelNames, *, started: bool) -> Write2Template:
        return write2_template(shape, names, self._external, self._vocabulary, started=started)


@functools.lru_cache(maxsize=4096)
def _names(labels: Labels) -> LabelNames:
    """Return the names of a domain's labels, and of those that have a value, sorted."""
    named = {label_name(name): value for name, value in labels}
    return LabelNames(frozenset(named), tuple(sorted(name for name in named if named[name])))


@functools.lru_cache(maxsize=4096)
def _values(labels: Labels) -> tuple[bytes, ...]:
    """Return the values of a domain's labels in the order of their names."""
    named = {label_name(name): value for name, value in labels}
    return tuple(visible_bytes(value) for _, value in sorted(named.items()) if value)


def _long(number: int) -> bytes:
    """Return a number in three bytes: varints may have leading zeros."""
    return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))

"""
The content of a file of names: what another tool calls the numbers that the agent has too.

`labels` are on every series of a guest. Under `[metrics]` there is a line per metric, named as
Prometheus has it:

- `kind`, and `help` where that of the agent's own metric does not fit.
- `from`: the agent's own metrics that it is made of, by their names on the page; the same name
  where there is none.
- `labels`: those of the series, each a name, or a name and what it is filled with:
  `bus={target_bus}`. In braces are labels of the agent's series, of the guest (`domain`, `uuid`),
  and of the info metrics in `join` and `need` that are about the same device. Without the facts in
  `need` there is no series.
- `where`, `unless`: values of these labels that series must have, or must not have.
- `how`: a name in `formulas.py`, for a number that is computed, with those of the metrics in `with`
  beside it. Of several series that get the same labels, `sum` adds all, else the first is taken.
- `shift`, `divide`: powers of ten, and the number that it is divided by.
- `host`: it is about no guest.

`[missing]` are metrics of the tool that the agent has no numbers for, each with the reason.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from virtstatd.catalog.names.formulas import FORMULAS
from virtstatd.errors import ConfigError
from virtstatd.model import Field, Kind


SUFFIXES = ("_total", "_info")
_UNITS = ("bytes", "seconds", "percent")


@dataclass(frozen=True, slots=True)
class LabelRecipe:
    """One label: its name, what it is filled with, and the labels that this names."""

    name: str
    template: str
    needs: frozenset[str]

    def text(self, known: Mapping[str, str]) -> str:
        """Return the value, with nothing in place of labels that are not known."""
        return self.template.format_map({each: known.get(each, "") for each in self.needs})


@dataclass(frozen=True, slots=True)
class OtherMetric:
    """One metric of another tool, and how it is made of the agent's own."""

    field: Field
    sources: tuple[str, ...]
    labels: tuple[LabelRecipe, ...]
    join: tuple[str, ...]
    need: tuple[str, ...]
    where: Mapping[str, tuple[str, ...]]
    unless: Mapping[str, tuple[str, ...]]
    how: str
    beside: tuple[str, ...]
    shift: int
    divide: int
    host: bool


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """The names of one tool: `replaced` are the agent's own that these stand for."""

    name: str
    about: str
    labels: tuple[LabelRecipe, ...]
    metrics: Mapping[str, OtherMetric]
    missing: Mapping[str, str]
    replaced: frozenset[str]
    joined: frozenset[str]
    beside: frozenset[str]


class _Metric(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["counter", "gauge"]
    sources: str | list[str] = msgspec.field(name="from", default="")
    help: str = ""
    labels: list[str] = []
    join: list[str] = []
    need: list[str] = []
    where: dict[str, list[str]] = {}
    unless: dict[str, list[str]] = {}
    how: str = ""
    beside: list[str] = msgspec.field(name="with", default=[])
    shift: int = 0
    divide: int = 1
    host: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    about: str
    metrics: dict[str, _Metric]
    labels: list[str] = []
    need: list[str] = []
    missing: dict[str, str] = {}


def read_dialect(name: str, text: str) -> Dialect:
    """Read a file; raises ConfigError with all of its faults."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError([f"{name}.toml: {error}"]) from None
    faults = [
        f"{name}.toml: {metric}: how: there is no {entry.how!r}"
        for metric, entry in file.metrics.items()
        if entry.how and entry.how not in FORMULAS
    ]
    both = file.metrics.keys() & file.missing.keys()
    faults += [f"{name}.toml: {each}: given and missing" for each in sorted(both)]
    if faults:
        raise ConfigError(faults)
    metrics = {metric: _other(metric, entry, file.need) for metric, entry in file.metrics.items()}
    several = metrics.values()
    return Dialect(
        name=name,
        about=file.about,
        labels=tuple(map(_label, file.labels)),
        metrics=metrics,
        missing=file.missing,
        replaced=frozenset(metrics) | {each.sources[0] for each in several if _renames(each)},
        joined=frozenset(name for each in several for name in (*each.join, *each.need)),
        beside=frozenset(name for each in several for name in each.beside),
    )


def bare(name: str) -> str:
    """Return the name of a family as OpenMetrics has it; no page has two of one name."""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _other(name: str, entry: _Metric, need: list[str]) -> OtherMetric:
    sources = [entry.sources] if isinstance(entry.sources, str) else entry.sources
    return OtherMetric(
        field=_field(name, entry),
        sources=tuple(each or name for each in sources),
        labels=tuple(map(_label, entry.labels)),
        join=tuple(entry.join),
        need=(*need, *entry.need),
        where={label: tuple(values) for label, values in entry.where.items()},
        unless={label: tuple(values) for label, values in entry.unless.items()},
        how=entry.how,
        beside=tuple(entry.beside),
        shift=entry.shift,
        divide=entry.divide,
        host=entry.host,
    )


def _field(name: str, entry: _Metric) -> Field:
    """Return a field that is written under exactly this name."""
    base = name.removesuffix("_total") if entry.kind == "counter" else name
    prefix, _, rest = base.partition("_")
    unit = next((unit for unit in _UNITS if base.endswith(f"_{unit}")), "")
    return Field(prefix, rest, Kind(entry.kind), unit, entry.help)


def _label(text: str) -> LabelRecipe:
    name, _, template = text.partition("=")
    template = template or f"{{{name}}}"
    needs = frozenset(field for _, field, _, _ in string.Formatter().parse(template) if field)
    return LabelRecipe(name, template, needs)


def _renames(metric: OtherMetric) -> bool:
    """Return whether a metric is one of the agent's own under another name, and nothing more."""
    return len(metric.sources) == 1 and not (metric.how or metric.where or metric.need)

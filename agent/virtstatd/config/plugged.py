"""The `[[sink]]` and `[[collector]]` tables: classes found by entry point, built from options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from virtstatd.collector import CollectorPlugin
from virtstatd.config.options import (
    Fault,
    Option,
    build,
    faults_of_table,
    nearest,
    options,
    shown,
)
from virtstatd.config.plugins import Plugins
from virtstatd.config.tables import CollectorHead, OutletOptions, RouteOptions, SinkHead
from virtstatd.config.toml_lines import Path
from virtstatd.errors import VirtstatdError
from virtstatd.sink import Delivery, Sink


MAX_AGE_SECONDS = {"memory": 900.0, "spool": 86400.0}
SPOOL_BYTES_MIN = 1 << 20

TomlTable = dict[str, object]


class SinkConfig(Struct, frozen=True, kw_only=True):
    """One `[[sink]]`: name, what it gets, its outlet's options, and what its own options made."""

    index: int
    name: str
    type: str
    outlet: OutletOptions
    route: RouteOptions
    sink: Sink

    @property
    def delivery(self) -> Delivery:
        """The sink's delivery class."""
        return "spool" if self.outlet.spool_bytes else self.sink.delivery

    @property
    def max_age_seconds(self) -> float:
        """The maximum age of a waiting batch."""
        if self.outlet.max_age_seconds:
            return self.outlet.max_age_seconds
        own = MAX_AGE_SECONDS["spool" if self.outlet.spool_bytes else "memory"]
        return min(own, float(getattr(self.sink, "max_age_seconds", own)))


class CollectorConfig(Struct, frozen=True, kw_only=True):
    """One `[[collector]]`: its name, and the plug-in that its own options made."""

    name: str
    type: str
    silent_seconds: float
    plugin: CollectorPlugin


class Faulty(Exception):  # noqa: N818 - carries what is wrong with one table
    """An invalid table; `faults` says why."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults


@dataclass(frozen=True, slots=True)
class _Made:
    """One table of an array: the object that its type built from its options."""

    index: int
    path: Path
    name: str
    type: str
    table: TomlTable
    made: Any


def built_sinks(document: TomlTable, plugins: Plugins, faults: list[Fault]) -> list[SinkConfig]:
    """Build the sinks of the document, or add to the faults; without any, prometheus alone."""
    common = (*options(SinkHead), *options(OutletOptions), *options(RouteOptions))
    tables = document.get("sink") or [{"type": "prometheus"}]
    found: list[SinkConfig] = []
    for each in _built("sink", tables, common, plugins, faults):
        outlet = build(OutletOptions, _only(options(OutletOptions), each.table))
        if outlet.spool_bytes and each.made.delivery != "memory":
            text = f"a sink of class {each.made.delivery} has no use for a spool"
            faults.append(Fault((*each.path, "spool_bytes"), text))
        elif 0 < outlet.spool_bytes < SPOOL_BYTES_MIN:
            text = f"must be 0 or at least {SPOOL_BYTES_MIN}, is {outlet.spool_bytes}"
            faults.append(Fault((*each.path, "spool_bytes"), text))
        else:
            routed = _only(options(RouteOptions), each.table)
            for own in options(type(each.made)):  # an option of the sink's own is not the route's
                routed.pop(own.name, None)
            found.append(
                SinkConfig(
                    index=each.index,
                    name=each.name,
                    type=each.type,
                    outlet=outlet,
                    route=build(RouteOptions, routed),
                    sink=each.made,
                )
            )
    return found


def built_collectors(
    document: TomlTable, plugins: Plugins, taken: Iterable[str], faults: list[Fault]
) -> list[CollectorConfig]:
    """Build the collectors of other packages, or add to the faults; `taken` are names in use."""
    common = options(CollectorHead)
    own = set(taken)
    found: list[CollectorConfig] = []
    for each in _built("collector", document.get("collector", []), common, plugins, faults):
        if each.name in own:
            text = f"{shown(each.name)} is the name of a collector of the agent's own; give another"
            faults.append(Fault((*each.path, "name"), text))
        else:
            head = build(CollectorHead, _only(common, each.table))
            found.append(
                CollectorConfig(
                    name=each.name,
                    type=each.type,
                    silent_seconds=head.silent_seconds,
                    plugin=each.made,
                )
            )
    return found


def _built(
    array: str, tables: object, common: Sequence[Option], plugins: Plugins, faults: list[Fault]
) -> Iterator[_Made]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        faults.append(Fault((array,), f"must be an array of tables, write [[{array}]]"))
        return
    taken: dict[str, int] = {}
    for index, table in enumerate(tables):
        path: Path = (array, index)
        name = table.get("name") or table.get("type")
        if isinstance(name, str) and taken.setdefault(name, index) != index:
            text = f"{shown(name)} is the name of {array}[{taken[name]}] too; give each its own"
            faults.append(Fault((*path, "name"), text))
        try:
            made = _one(array, table, path, common, plugins)
        except Faulty as faulty:
            faults += faulty.faults
        else:
            kind = str(table["type"])
            yield _Made(index, path, str(table.get("name") or kind), kind, table, made)


def _one(
    array: str, table: TomlTable, path: Path, common: Sequence[Option], plugins: Plugins
) -> object:
    kind, names = table.get("type"), plugins.names()
    if not isinstance(kind, str) or kind not in names:
        only = {option.name: table[option.name] for option in common if option.name in table}
        wrong = list(faults_of_table(common, only, path))
        if isinstance(kind, str):
            text = f"unknown {array} type {shown(kind)}{nearest(kind, names)}"
            if not names:
                text += "; no package with a collector is installed"
            wrong.append(Fault((*path, "type"), text))
        raise Faulty(wrong)
    try:
        cls: type[object] = plugins.find(kind)
        own = options(cls)
    except VirtstatdError as error:
        raise Faulty([Fault((*path, "type"), str(error))]) from None
    except Exception as error:  # noqa: BLE001 - a plug-in is not our code
        text = f"the {array} {kind} cannot be used: {type(error).__name__}: {error}"
        raise Faulty([Fault((*path, "type"), text)]) from None
    if wrong := list(faults_of_table((*common, *own), table, path)):
        raise Faulty(wrong)
    try:
        return build(cls, _only(own, table))
    except Exception as error:  # noqa: BLE001 - as above
        option, colon, text = str(error).partition(": ")
        if colon and option in {each.name for each in own}:
            raise Faulty([Fault((*path, option), text)]) from None
        raise Faulty([Fault(path, str(error) or type(error).__name__)]) from None


def _only(wanted: Iterable[Option], table: TomlTable) -> TomlTable:
    return {option.name: table[option.name] for option in wanted if option.name in table}

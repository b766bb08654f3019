"""
The configuration: one TOML file, read as a whole, with all of its faults at once.

Nothing here opens a connection or a file other than the configuration itself, so a check never
disturbs the agent that runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from urllib.parse import urlsplit

from msgspec import Struct

from virtstatd.config.options import (
    Fault,
    Option,
    build,
    faults_of_table,
    faults_of_value,
    nearest,
    options,
    shown,
    unknown,
)
from virtstatd.config.plugins import find as find_sink
from virtstatd.config.plugins import names as sink_names
from virtstatd.config.tables import (
    GROUP_BITS,
    MONITORLESS,
    TABLES,
    Agent,
    Budget,
    CpuStats,
    Extra,
    Hypervisor,
    Labels,
    Local,
    Log,
    Monitor,
    OutletConfig,
    Poll,
    Pulse,
    SinkHead,
    Tier,
)
from virtstatd.config.toml_lines import Path, line_of, parsed, text_of
from virtstatd.errors import ConfigError, VirtstatdError
from virtstatd.sink import Delivery, Sink


__all__ = [
    "GROUP_BITS",
    "Agent",
    "Budget",
    "Config",
    "CpuStats",
    "Extra",
    "Hypervisor",
    "Labels",
    "Local",
    "Log",
    "Monitor",
    "OutletConfig",
    "Poll",
    "Pulse",
    "SinkConfig",
    "Tier",
    "load",
    "parse",
]

MAX_AGE_SECONDS = {"memory": 900.0, "spool": 86400.0}
SPOOL_BYTES_MIN = 1 << 20

Table = dict[str, object]
Find = Callable[[str], type[Sink]]
Names = Callable[[], Sequence[str]]


class SinkConfig(Struct, frozen=True, kw_only=True):
    """One `[[sink]]`: its name, its outlet's options, and the sink that its own options made."""

    name: str
    type: str
    outlet: OutletConfig
    sink: Sink

    @property
    def delivery(self) -> Delivery:
        """What is promised of this sink."""
        return "spool" if self.outlet.spool_bytes else self.sink.delivery

    @property
    def max_age_seconds(self) -> float:
        """How old a batch may get that waits."""
        if self.outlet.max_age_seconds:
            return self.outlet.max_age_seconds
        own = MAX_AGE_SECONDS["spool" if self.outlet.spool_bytes else "memory"]
        return min(own, float(getattr(self.sink, "max_age_seconds", own)))


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration, checked."""

    hypervisor: Hypervisor = Hypervisor()
    poll: Poll = Poll()
    cpu_stats: CpuStats = CpuStats()
    local: Local = Local()
    budget: Budget = Budget()
    labels: Labels = Labels()
    agent: Agent = Agent()
    log: Log = Log()
    sinks: tuple[SinkConfig, ...] = ()


def load(path: FilePath | None) -> Config:
    """
    Read a configuration file; None means the defaults.

    Raises `ConfigError` with one line per fault, all of them: `FILE:LINE: path: what is wrong`.
    """
    if path is None:
        return parse("", "defaults")
    return parse(text_of(path), str(path))


def parse(text: str, file: str, *, find: Find = find_sink, names: Names = sink_names) -> Config:
    """
    Read a configuration from its text; `file` is what its faults call it.

    `find` and `names` look up sink classes by their type. Raises `ConfigError` as `load` does.
    """
    document, lines = parsed(text, file)
    faults = [*_tables(document), *_uri(document), *_tiers(document)]
    sinks = _sinks(document, find, names, faults)
    if faults:
        located = sorted((line_of(lines, fault.path), str(fault)) for fault in faults)
        raise ConfigError([f"{file}:{line}: {fault}" for line, fault in located])
    return Config(
        hypervisor=build(Hypervisor, _inner(document, "hypervisor")),
        poll=build(Poll, _inner(document, "poll")),
        cpu_stats=build(CpuStats, _inner(document, "cpu_stats")),
        local=build(Local, _inner(document, "local")),
        budget=build(Budget, _inner(document, "budget")),
        labels=build(Labels, _inner(document, "labels")),
        agent=build(Agent, _inner(document, "agent")),
        log=build(Log, _inner(document, "log")),
        sinks=tuple(sinks),
    )


def _tables(document: Table) -> Iterator[Fault]:
    for name, value in document.items():
        if cls := TABLES.get(name):
            yield from faults_of_value(cls, value, (name,))
        elif name != "sink":
            yield unknown(name, value, (*TABLES, "sink"), ())


def _uri(document: Table) -> Iterator[Fault]:
    uri = _inner(document, "hypervisor").get("uri")
    if not isinstance(uri, str) or not uri:
        return
    path: Path = ("hypervisor", "uri")
    if not uri.isprintable() or " " in uri:
        yield Fault(path, "must not contain blanks or control characters")
    elif not _SCHEME.match(uri):
        yield Fault(path, f"must be a libvirt URI such as qemu:///system, is {shown(uri)}")
    else:
        try:
            _ = urlsplit(uri).port
        except ValueError:
            yield Fault(path, "the address or port is not valid")


_SCHEME = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?://")


def _tiers(document: Table) -> Iterator[Fault]:
    """Hold each group to one tier, and the pulse to groups that cannot block."""
    homes: dict[str, tuple[Path, bool]] = {}  # of each group, and whether the file wrote it
    empty = 0
    for option in options(Poll):
        listed = _inner(document, "poll", option.name).get("groups")
        written = isinstance(listed, list)
        groups = listed if isinstance(listed, list) else list(getattr(option.default, "groups", ()))
        empty += not groups
        for index, group in enumerate(groups):
            if not isinstance(group, str) or group not in GROUP_BITS:
                continue
            here: Path = ("poll", option.name, "groups", index)
            there, there_written = homes.get(group, ((), False))
            if option.name == "pulse" and group not in MONITORLESS:
                text = f"pulse may hold only {', '.join(MONITORLESS)}"
                yield Fault(here, f"{group} needs each guest's monitor, which can block; {text}")
            elif not there:
                homes[group] = (here, written)
            elif there[1] == option.name:
                yield Fault(here, f"{group} is listed twice")
            elif written and there_written:
                yield Fault(here, f"{group} is in poll.{there[1]} too; keep it in one tier")
            else:
                at, other = (here, there[1]) if written else (there, option.name)
                text = f"list the groups of poll.{other} without it"
                yield Fault(at, f"{group} is in poll.{other} by default; {text}")
    if empty == len(options(Poll)):
        yield Fault(("poll",), "every tier is off; list a group in one of them")


def _sinks(document: Table, find: Find, names: Names, faults: list[Fault]) -> list[SinkConfig]:
    """Build the sinks of the document, or add to the faults."""
    tables = document.get("sink") or [{"type": "prometheus"}]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        faults.append(Fault(("sink",), "must be an array of tables, write [[sink]]"))
        return []
    sinks: list[SinkConfig] = []
    taken: dict[str, int] = {}
    for index, table in enumerate(tables):
        path: Path = ("sink", index)
        name = table.get("name") or table.get("type")
        if isinstance(name, str) and taken.setdefault(name, index) != index:
            text = f"{shown(name)} is the name of sink[{taken[name]}] too; give each its own"
            faults.append(Fault((*path, "name"), text))
        try:
            sinks.append(_sink(table, path, find, names))
        except _Faulty as faulty:
            faults += faulty.faults
    return sinks


def _sink(table: Table, path: Path, find: Find, names: Names) -> SinkConfig:
    common = (*options(SinkHead), *options(OutletConfig))
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in names():
        only = {option.name: table[option.name] for option in common if option.name in table}
        wrong = list(faults_of_table(common, only, path))
        if isinstance(kind, str):
            wrong.append(
                Fault((*path, "type"), f"unknown sink type {shown(kind)}{nearest(kind, names())}")
            )
        raise _Faulty(wrong)
    try:
        cls = find(kind)
        own = options(cls)
    except VirtstatdError as error:
        raise _Faulty([Fault((*path, "type"), str(error))]) from None
    except Exception as error:  # noqa: BLE001 - a sink is not our code
        text = f"the sink {kind} cannot be used: {type(error).__name__}: {error}"
        raise _Faulty([Fault((*path, "type"), text)]) from None
    if wrong := list(faults_of_table((*common, *own), table, path)):
        raise _Faulty(wrong)
    try:
        sink = build(cls, _only(own, table))
    except Exception as error:  # noqa: BLE001 - as above
        option, colon, text = str(error).partition(": ")
        if colon and option in {each.name for each in own}:
            raise _Faulty([Fault((*path, option), text)]) from None
        raise _Faulty([Fault(path, str(error) or type(error).__name__)]) from None
    outlet = build(OutletConfig, _only(options(OutletConfig), table))
    if outlet.spool_bytes and sink.delivery != "memory":
        text = f"a sink of class {sink.delivery} has no use for a spool"
        raise _Faulty([Fault((*path, "spool_bytes"), text)])
    if 0 < outlet.spool_bytes < SPOOL_BYTES_MIN:
        text = f"must be 0 or at least {SPOOL_BYTES_MIN}, is {outlet.spool_bytes}"
        raise _Faulty([Fault((*path, "spool_bytes"), text)])
    return SinkConfig(name=str(table.get("name") or kind), type=kind, outlet=outlet, sink=sink)


class _Faulty(Exception):  # noqa: N818 - carries what is wrong with one sink
    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults


def _only(wanted: Iterable[Option], table: Table) -> Table:
    return {option.name: table[option.name] for option in wanted if option.name in table}


def _inner(document: Table, *names: str) -> Table:
    """Return a table within tables, empty where there is none or something else."""
    for name in names:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document

"""
The configuration: one TOML file, read as a whole, with all of its errors reported at once.

Nothing here opens a connection or a file other than the configuration itself, so a check never
disturbs a running agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from virtstatd.collect.bulk.answer import POLLED
from virtstatd.collect.bulk.options import PollOptions
from virtstatd.config import plugged
from virtstatd.config.copied import copied_faults
from virtstatd.config.kinds import OWN_NAMES
from virtstatd.config.options import Fault, build, faults_of_value, nearest, options, shown, unknown
from virtstatd.config.places import WebAddress, places_of
from virtstatd.config.plugged import CollectorConfig, SinkConfig, TomlTable
from virtstatd.config.plugins import COLLECTORS, SINKS, Plugins
from virtstatd.config.rules import rule_faults
from virtstatd.config.tables import (
    TABLES,
    AgentOptions,
    BudgetOptions,
    HypervisorOptions,
    LabelsOptions,
    LogOptions,
)
from virtstatd.config.toml_lines import Path, line_of, parsed, text_of
from virtstatd.errors import ConfigError
from virtstatd.hypervisor.filter import FilterOptions
from virtstatd.serving.options import WebOptions


__all__ = [
    "DEFAULT_FILE",
    "CollectorConfig",
    "Config",
    "Loaded",
    "SinkConfig",
    "load_config",
    "load_text",
    "parse_config",
    "read_config",
]

DEFAULT_FILE: Final = FilePath("/etc/virtstatd/virtstatd.toml")

ARRAYS: Final = ("sink", "collector")
MONITORLESS: Final = tuple(name for name, group in POLLED.items() if not group.monitor)


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration, checked; `collect` has the collectors' options by table."""

    hypervisor: HypervisorOptions = HypervisorOptions()
    budget: BudgetOptions = BudgetOptions()
    labels: LabelsOptions = LabelsOptions()
    filter: FilterOptions = FilterOptions()
    agent: AgentOptions = AgentOptions()
    log: LogOptions = LogOptions()
    web: WebOptions = WebOptions()
    places: tuple[WebAddress, ...] = ()
    collect: Mapping[str, Any]
    sinks: tuple[SinkConfig, ...] = ()
    collectors: tuple[CollectorConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, the text that it was read from, and the file; None is the defaults."""

    path: FilePath | None
    text: str
    config: Config

    @property
    def name(self) -> str:
        """The file's name in error messages."""
        return _name(self.path)

    def again(self) -> Loaded:
        """Read the same file again; a default file that did not exist before may exist now."""
        return read_config(self.path)

    def located(self, faults: Iterable[Fault]) -> list[str]:
        """Return faults as lines with the file and the line of each, as `ConfigError` has them."""
        return _located(parsed(self.text, self.name)[1], faults, self.name)


def read_config(path: FilePath | None) -> Loaded:
    """
    Read a configuration file; None is `DEFAULT_FILE`, or the defaults if it does not exist.

    Raises `ConfigError` as `load_config` does.
    """
    path = DEFAULT_FILE if path is None and _may_exist(DEFAULT_FILE) else path
    return load_text("" if path is None else text_of(path), path)


def load_text(text: str, path: FilePath | None) -> Loaded:
    """Read a configuration from a text that was read from that file before."""
    return Loaded(path, text, parse_config(text, _name(path)))


def load_config(path: FilePath | None) -> Config:
    """
    Read a configuration file; None means the defaults.

    Raises `ConfigError` with one line per fault, all of them: `FILE:LINE: path: what is wrong`.
    """
    return load_text("" if path is None else text_of(path), path).config


def parse_config(
    text: str, file: str, *, sinks: Plugins = SINKS, collectors: Plugins = COLLECTORS
) -> Config:
    """
    Read a configuration from its text; `file` is its name in error messages.

    `sinks` and `collectors` look up classes by their type. Raises `ConfigError` as `load_config`
    does.
    """
    document, lines = parsed(text, file)
    faults = [*_tables(document), *_uri(document), *_tiers(document)]
    found = plugged.built_sinks(document, sinks, faults)
    others = plugged.built_collectors(document, collectors, OWN_NAMES, faults)
    faults += rule_faults(_inner(document, "filter"))
    faults += _routed(found, (*OWN_NAMES, *(each.name for each in others)))
    faults += copied_faults(found, _metadata_labels(document), anything=bool(others))
    if faults:
        raise ConfigError(_located(lines, faults, file))
    tables: dict[str, Any] = {
        name: build(cls, _inner(document, name)) for name, cls in TABLES.items()
    }
    written = bool(_inner(document, "web"))
    places = places_of(tables["web"], [each.sink for each in found], faults, written=written)
    if faults:
        raise ConfigError(_located(lines, faults, file))
    return Config(
        hypervisor=tables.pop("hypervisor"),
        budget=tables.pop("budget"),
        labels=tables.pop("labels"),
        filter=tables.pop("filter"),
        agent=tables.pop("agent"),
        log=tables.pop("log"),
        web=tables.pop("web"),
        places=places,
        collect=tables,
        sinks=tuple(found),
        collectors=tuple(others),
    )


def _located(lines: Mapping[Path, int], faults: Iterable[Fault], file: str) -> list[str]:
    located = sorted((line_of(lines, fault.path), str(fault)) for fault in faults)
    return [f"{file}:{line}: {fault}" for line, fault in located]


def _name(path: FilePath | None) -> str:
    return "defaults" if path is None else str(path)


def _may_exist(path: FilePath) -> bool:
    """Return whether a file exists; if that cannot be determined, reading it reports why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _tables(document: TomlTable) -> Iterator[Fault]:
    for name, value in document.items():
        if cls := TABLES.get(name):
            yield from faults_of_value(cls, value, (name,))
        elif name not in ARRAYS:
            yield unknown(name, value, (*TABLES, *ARRAYS), ())


def _uri(document: TomlTable) -> Iterator[Fault]:
    uri = _inner(document, "hypervisor").get("uri")
    if not isinstance(uri, str) or not uri:
        return
    path: Path = ("hypervisor", "uri")
    if not uri.isprintable() or " " in uri:
        yield Fault(path, "must not contain blanks or control characters")
    elif not _SCHEME.match(uri):
        is_what = "" if "@" in uri else f", is {shown(uri)}"  # what may be a password is not shown
        yield Fault(path, f"must be a libvirt URI such as qemu:///system{is_what}")
    else:
        try:
            parts = urlsplit(uri)
            _ = parts.port
        except ValueError:
            yield Fault(path, "the address or port is not valid")
        else:
            if parts.password is not None:  # libvirt ignores it, and errors quote the URI
                yield Fault(
                    path, "a password belongs into libvirt's authentication file, auth.conf"
                )


_SCHEME = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?://")


def _tiers(document: TomlTable) -> Iterator[Fault]:
    """Check that each group is in one tier, and that no group of the pulse can block."""
    homes: dict[str, tuple[Path, bool]] = {}  # of each group, and whether the file wrote it
    empty = 0
    for option in options(PollOptions):
        listed = _inner(document, "poll", option.name).get("groups")
        written = isinstance(listed, list)
        groups = listed if isinstance(listed, list) else list(getattr(option.default, "groups", ()))
        empty += not groups
        for index, group in enumerate(groups):
            if not isinstance(group, str) or group not in POLLED:
                continue
            here: Path = ("poll", option.name, "groups", index)
            there, there_written = homes.get(group, ((), False))
            if option.name == "pulse" and POLLED[group].monitor:
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
    if empty == len(options(PollOptions)):
        yield Fault(("poll",), "every tier is off; list a group in one of them")


def _routed(sinks: Iterable[SinkConfig], collectors: Sequence[str]) -> Iterator[Fault]:
    """Yield the names of collectors that a sink wants and that are none."""
    for sink in sinks:
        for at, name in enumerate(sink.route.collectors):
            if name not in collectors:
                path: Path = ("sink", sink.index, "collectors", at)
                yield Fault(
                    path, f"no collector is called {shown(name)}{nearest(name, collectors)}"
                )


def _metadata_labels(document: TomlTable) -> Iterator[str]:
    """Yield the labels of the table `[metadata]`, except those at fault."""
    labels = _inner(document, "metadata").get("labels")
    for each in labels if isinstance(labels, list) else ():
        if isinstance(each, dict) and isinstance(each.get("label"), str):
            yield each["label"]


def _inner(document: TomlTable, *names: str) -> TomlTable:
    """Return a table within tables, empty if there is none or it is not a table."""
    for name in names:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document

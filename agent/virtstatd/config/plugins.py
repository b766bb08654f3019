"""Sinks by the name that the configuration gives them: entry points of the group below."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import get_args

import msgspec

from virtstatd.config import options as classes
from virtstatd.errors import ConfigError
from virtstatd.sink import Delivery, Sink


GROUP = "virtstatd.sinks"

PIP = Path(sys.prefix, "bin/pip")
"""That of the environment in which the agent runs, which is seldom the one on the path."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a sink for people to read; `default` is TOML, None where it must be given."""

    name: str
    type: str
    default: str | None
    description: str


def names() -> list[str]:
    """Return the types of all sinks that are installed, without importing one."""
    return sorted(entry_points(group=GROUP).names)


def find(type_name: str) -> type[Sink]:
    """
    Import the one sink of that type and return its class.

    Raises ConfigError with one sentence: which name was meant, what to install, what is wrong.
    """
    found = tuple(entry_points(group=GROUP, name=type_name))
    if not found:
        raise ConfigError([f"unknown sink type {type_name!r}, {_nearest(type_name)}"])
    entry = found[0]
    try:
        cls = entry.load()
    except ModuleNotFoundError as error:
        raise ConfigError([_missing(entry, error)]) from error
    except Exception as error:  # a sink is not our code
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError([f"the sink {type_name} cannot be imported: {cause}"]) from error
    if not (isinstance(cls, type) and getattr(cls, "delivery", None) in get_args(Delivery)):
        raise ConfigError([f"{entry.value} is no sink: it is not a class with a delivery"])
    if not callable(getattr(cls, "open", None)):
        raise ConfigError([f"{entry.value} is no sink: it has no open"])
    return cls


def extra(type_name: str) -> str:
    """Return what has to be installed for a sink of that type, nothing where it is there."""
    found = tuple(entry_points(group=GROUP, name=type_name))
    return _extra(found[0]) if found else ""


def options(cls: type[Sink]) -> list[Option]:
    """Return the options of a sink, in the order of their definition."""
    return [
        Option(each.name, classes.noun(each.kind), _toml(each.default), each.description)
        for each in classes.options(cls)
    ]


def _missing(entry: EntryPoint, error: ModuleNotFoundError) -> str:
    """Say what to install: the extra that has the sink's name, or the package that lacks."""
    extra = _extra(entry)
    package = f"'{extra}'" if extra else error.name or str(error)
    return (
        f"the sink {entry.name} needs the Python module {error.name}, which is not installed;"
        f" {PIP} install {package}"
    )


def _extra(entry: EntryPoint) -> str:
    """Return the extra that has the sink's name, nothing where there is none."""
    extras = (entry.dist and entry.dist.metadata.get_all("Provides-Extra")) or ()
    name = entry.name.replace("_", "-")  # as packaging tools write it, but the old ones
    return f"{entry.dist.name}[{name}]" if entry.dist and {name, entry.name} & {*extras} else ""


def _nearest(type_name: str) -> str:
    known = names()
    near = difflib.get_close_matches(type_name.casefold(), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _toml(value: object) -> str | None:
    """Render a default as TOML, whose scalars and arrays are JSON's; None where there is none."""
    if value is msgspec.NODEFAULT:
        return None
    if value is None:
        return ""
    return msgspec.json.encode(value).decode()

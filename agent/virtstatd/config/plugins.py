"""Sinks and collectors by the names that the configuration gives them: entry points."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, get_args

from virtstatd.errors import ConfigError
from virtstatd.runtime.installing import installing
from virtstatd.sink import Delivery


class Plugins:
    """The classes of one group of entry points; `check` returns what a class lacks, or ""."""

    def __init__(self, group: str, noun: str, check: Callable[[object], str]) -> None:
        self.group = group
        self._noun = noun
        self._check = check

    def names(self) -> list[str]:
        """Return the types of all installed classes, without importing one."""
        return sorted(entry_points(group=self.group).names)

    def find(self, type_name: str) -> type[Any]:
        """
        Import the one class of that type and return it.

        Raises ConfigError with one sentence: a similar name, what to install, or what is wrong.
        """
        found = tuple(entry_points(group=self.group, name=type_name))
        if not found:
            near = _nearest(type_name, self.names())
            raise ConfigError([f"unknown {self._noun} type {type_name!r}, {near}"])
        entry = found[0]
        try:
            cls = entry.load()
        except ModuleNotFoundError as error:
            raise ConfigError([self._missing(entry, error)]) from error
        except Exception as error:  # a plug-in is not our code
            cause = f"{type(error).__name__}: {error}"
            text = f"the {self._noun} {type_name} cannot be imported: {cause}"
            raise ConfigError([text]) from error
        if fault := self._check(cls):
            raise ConfigError([f"{entry.value} is no {self._noun}: {fault}"])
        return cls  # type: ignore[no-any-return]

    def needed(self, type_name: str) -> str:
        """Return what has to be installed for that type, "" if it is installed."""
        found = tuple(entry_points(group=self.group, name=type_name))
        return _extra(found[0]) if found else ""

    def _missing(self, entry: EntryPoint, error: ModuleNotFoundError) -> str:
        """Return what to install: the extra with the type's name, or the missing package."""
        extra = _extra(entry)
        return (
            f"the {self._noun} {entry.name} needs the Python module {error.name}, which is not"
            f" installed; {installing(extra or error.name or str(error))}"
        )


def _no_sink(cls: object) -> str:
    if not (isinstance(cls, type) and getattr(cls, "delivery", None) in get_args(Delivery)):
        return "it is not a class with a delivery"
    return "" if callable(getattr(cls, "open", None)) else "it has no open"


def _no_collector(cls: object) -> str:
    if not isinstance(cls, type):
        return "it is not a class"
    return "" if callable(getattr(cls, "open", None)) else "it has no open"


SINKS: Final = Plugins("virtstatd.sinks", "sink", _no_sink)
COLLECTORS: Final = Plugins("virtstatd.collectors", "collector", _no_collector)


def _extra(entry: EntryPoint) -> str:
    """Return the extra with the sink's name, "" if there is none."""
    extras = (entry.dist and entry.dist.metadata.get_all("Provides-Extra")) or ()
    name = entry.name.replace("_", "-")  # as packaging tools write it, but the old ones
    return f"{entry.dist.name}[{name}]" if entry.dist and {name, entry.name} & {*extras} else ""


def _nearest(type_name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(type_name.casefold(), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"

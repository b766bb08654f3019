"""The rooms of the agent, and who may import from whom."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import virtstatd


AGENT = Path(virtstatd.__file__).parent
SIMULATOR = "virtstatd_simulator"

ARROWS: dict[str, set[str]] = {
    "__main__": {"commands", "service"},
    "_fast": set(),
    "archive": {"errors", "formats", "model", "pipeline/spool"},
    "budget": {"collector", "errors", "hypervisor", "runtime"},
    "catalog": {"_fast", "errors", "model"},
    "collect": set(),
    "collect/bulk": {
        "_fast",
        "catalog",
        "collect/parts",
        "collect/tier",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/cpu_stats": {
        "catalog",
        "collect/parts",
        "collect/tier",
        "collect/turns",
        "collector",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/defined": {
        "catalog",
        "collect/parts",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/descriptions": {
        "catalog",
        "collect/parts",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/disk_errors": {
        "catalog",
        "collect/parts",
        "collect/tier",
        "collect/turns",
        "collector",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/guest_agent": {
        "catalog",
        "collect/parts",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/events": {"catalog", "collect/parts", "collector", "hypervisor", "model", "runtime"},
    "collect/jobs": {
        "catalog",
        "collect/events",
        "collect/parts",
        "collect/tier",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/kernel": {
        "_fast",
        "catalog",
        "collect/parts",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/objects": {
        "catalog",
        "collect/descriptions",
        "collect/parts",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
    },
    "collect/own": {"catalog", "collector", "model", "runtime", "virtstatd"},
    "collect/parts": {"catalog", "collector", "hypervisor", "model"},
    "collect/storage": {"catalog", "collect/parts", "collector", "model", "runtime"},
    "collect/tier": {"collector", "errors", "hypervisor", "runtime"},
    "collect/turns": {"collect/tier", "collector", "errors", "hypervisor", "model", "runtime"},
    "collector": {"errors", "model"},
    "commands": {
        "_fast",
        "catalog",
        "collect/bulk",
        "collect/descriptions",
        "collect/kernel",
        "collector",
        "config",
        "errors",
        "formats",
        "hypervisor",
        "insight",
        "model",
        "pipeline",
        "pipeline/spool",
        "runtime",
        "sending",
        "service",
        "serving",
        "sink",
        "virtstatd",
    },
    "config": {
        "catalog",
        "collect/bulk",
        "collect/parts",
        "collector",
        "errors",
        "hypervisor",
        "model",
        "runtime",
        "serving",
        "sink",
    },
    "errors": set(),
    "formats": {"_fast", "model"},
    "hypervisor": {"collector", "errors", "model", "runtime"},
    "insight": {"catalog", "model", "runtime"},
    "model": set(),
    "pipeline": {"catalog", "collector", "errors", "model", "sink"},
    "pipeline/spool": {"errors", "model", "pipeline", "runtime"},
    "runtime": {"_fast"},
    "sending": {"errors", "runtime", "virtstatd"},
    "service": {
        "budget",
        "catalog",
        "collect/bulk",
        "collect/own",
        "collect/parts",
        "collector",
        "config",
        "errors",
        "formats",
        "hypervisor",
        "insight",
        "model",
        "pipeline",
        "pipeline/spool",
        "runtime",
        "sending",
        "serving",
        "sink",
        "virtstatd",
    },
    "serving": {"errors", "formats", "insight", "model", "runtime", "sending"},
    "sink": {"errors", "model", "serving"},
    "sinks": {
        "archive",
        "catalog",
        "errors",
        "formats",
        "model",
        "runtime",
        "sending",
        "serving",
        "sink",
        "virtstatd",
    },
    "testing": {"collector", "config", "errors", "model", "pipeline", "sink"},
    "virtstatd": set(),
}
"""
What each room imports.

A room is a folder or a module at the top; in `collect/` each folder and each module is one, and so
is the folder `pipeline/spool/`.
"""

ALONE = {
    "_fast": set[str](),
    "errors": set[str](),
    "model": set[str](),
    "formats": {"_fast", "model", "errors"},
    "insight": {"catalog", "model", "runtime"},
    "runtime": {"_fast", "errors"},
}
"""Rooms that must not import anything else of ours, whatever `ARROWS` says."""

NEVER = {
    "collect": {"formats", "sending", "sinks"},
    "pipeline": {"formats", "sending", "sinks"},
    "sending": {"formats", "model", "sinks"},
}
"""Folders that must not import others, whatever `ARROWS` says."""

FORMATS_IMPORT = {
    *("__future__", "collections", "dataclasses", "datetime", "decimal", "fractions", "functools"),
    *("hashlib", "itertools", "json", "math", "operator", "re", "struct", "typing", "weakref"),
    "opentelemetry",
}
"""What formats are made of: no event loop, no file, no socket, no clock of the host."""

Name = tuple[str, ...]
"""A module within the agent: `("sinks", "kafka")`."""


@cache
def modules() -> dict[Name, ast.Module]:
    """Return the source of every module of the agent."""
    found: dict[Name, ast.Module] = {}
    for path in sorted(AGENT.rglob("*.py")):
        parts = path.relative_to(AGENT).with_suffix("").parts
        name = parts[:-1] if parts[-1] == "__init__" else parts
        found[name] = ast.parse(path.read_text(), str(path))
    return found


def imported(tree: ast.AST) -> Iterator[Name]:
    """Yield what is imported anywhere in a module: at its top, in functions, for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(each.name.split(".")) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for each in node.names:
                yield (*(node.module or "").split("."), each.name)


def room_of(name: Name) -> str:
    """Return the room of a module, `virtstatd` for the package itself."""
    deep = name[:1] == ("collect",) or name[:2] == ("pipeline", "spool")
    return "/".join(name[: 2 if deep else 1]) or "virtstatd"


def arrows() -> dict[str, set[str]]:
    """Return what each room imports of the agent, modules and what is in them alike."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules().items():
        room = room_of(name)
        found[room] |= set()
        for package, *parts in imported(tree):
            if package == "virtstatd":
                target = tuple(parts)
                while target not in modules():
                    target = target[:-1]
                found[room] |= {room_of(target)} - {room}
    return found


def foreign(tree: ast.AST) -> set[str]:
    """Return the packages that a module imports, but for the agent's own."""
    return {package for package, *_ in imported(tree)} - {"virtstatd"}


def exported(tree: ast.Module) -> Iterator[str]:
    """Yield the public classes, functions and names of types that a module defines at its top."""
    for node in tree.body:
        names: list[str] = []
        match node:
            case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                names = [name]
            case ast.Assign(targets):
                assigned = [each.id for each in targets if isinstance(each, ast.Name)]
                names = [each for each in assigned if not each.isupper()]
            case ast.AnnAssign(ast.Name(name)) if not name.isupper():
                names = [name]
        yield from (each for each in names if not each.startswith("_"))


def test_rooms_import_what_the_table_says_and_nothing_else():
    """Every import between rooms is in the table, and nothing is in it that nobody imports."""
    actual = arrows()
    more = {(a, b) for a, to in actual.items() for b in to} - {
        (a, b) for a, to in ARROWS.items() for b in to
    }
    fewer = {(a, b) for a, to in ARROWS.items() for b in to} - {
        (a, b) for a, to in actual.items() for b in to
    }
    assert not more, f"not allowed: {sorted(more)}"
    assert not fewer, f"allowed and gone: {sorted(fewer)}"
    assert actual.keys() == ARROWS.keys()


def test_no_circle_among_rooms():
    """Rooms can be put in an order in which each imports from those before it alone."""
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_table_itself_keeps_the_rules():
    """Formats know the model alone, bytes know no metric, the pipeline no sink, and so on."""
    for room, allowed in ALONE.items():
        assert ARROWS[room] <= allowed, room
    for room, targets in ARROWS.items():
        assert not targets & NEVER.get(room.split("/")[0], set()), room


def test_libvirt_is_imported_where_it_is_asked():
    """Only hypervisor/ and collect/ import libvirt's bindings."""
    rooms = {
        name[0] for name, tree in modules().items() if {"libvirt", "libvirtaio"} & foreign(tree)
    }
    assert rooms == {"collect", "hypervisor"}


def test_formats_are_pure():
    """Formats import named libraries alone and open no file."""
    for name, tree in modules().items():
        if name[:1] == ("formats",):
            assert foreign(tree) <= FORMATS_IMPORT, name
            calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert "open" not in {each.id for each in calls if isinstance(each, ast.Name)}, name


def test_the_simulator_is_named_by_commands_alone():
    """No room but commands/ imports the simulator or has its name in a text."""
    for name, tree in modules().items():
        if name[:1] != ("commands",):
            texts = [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            assert SIMULATOR not in foreign(tree), name
            assert not [text for text in texts if SIMULATOR in text], name


def test_no_two_exported_names_alike():
    """A name that one module exports is exported by no other module of the agent."""
    homes: dict[str, list[str]] = defaultdict(list)
    for name, tree in modules().items():
        for each in exported(tree):
            homes[each].append("/".join(name))
    alike = {each: found for each, found in homes.items() if len(found) > 1}
    assert not alike


def test_imports_are_seen_wherever_they_are():
    """An import within a function, or for types alone, is an arrow like any other."""
    tree = ast.parse(
        "if TYPE_CHECKING:\n    from virtstatd.sinks import kafka\n"
        "def f():\n    import virtstatd.sending.http as it\n"
    )
    assert set(imported(tree)) == {
        ("virtstatd", "sinks", "kafka"),
        ("virtstatd", "sending", "http"),
    }


def test_exported_are_definitions_and_not_imports():
    """Classes, functions and names of types count; imports, constants and private names do not."""
    tree = ast.parse(
        "from a import B\nCONSTANT = 1\n_Hidden = int\nKey = tuple[str, str]\n"
        "kind: type = int\nclass C: ...\ndef f(): ...\nasync def g(): ...\n"
    )
    assert list(exported(tree)) == ["Key", "kind", "C", "f", "g"]

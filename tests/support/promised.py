"""
What users rely on by name: metrics, options, keys of the API and events of the log, as lists.

`PYTHONPATH=agent:tests python -m support.promised` records the lists of today in
`tests/data/promised`, which is part of a release.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from virtstatd.catalog import shipped
from virtstatd.config.text import reference
from virtstatd.formats.naming import metric_name
from virtstatd.runtime.events import EVENTS
from virtstatd.serving.schema import api_schema


FOLDER = Path(__file__).parents[1] / "data" / "promised"

_HEADER = re.compile(r"(?:# )?\[+([\w.]+)\]+")
_OPTION = re.compile(r'# (\w+) = (?:"(\w*)")?')


def metrics() -> dict[str, set[str]]:
    """Return every metric, with its kind and unit, and the labels of its series."""
    found: dict[str, set[str]] = {}
    for line in shipped().fields:
        if line.field:
            name = f"{metric_name(line.field)} {line.field.kind} {line.field.unit or '-'}"
            found.setdefault(name, set()).update(line.labels)
    return found


def options() -> dict[str, set[str]]:
    """Return every table and type of sink, with its options."""
    found: dict[str, set[str]] = {}
    table = ""
    for line in reference().splitlines():
        if header := _HEADER.fullmatch(line):
            table = header[1]
        elif option := _OPTION.match(line):
            if option[1] == "type":
                table = f"sink.{option[2]}"
            else:
                found.setdefault(table, set()).add(option[1])
    return found


def api() -> dict[str, set[str]]:
    """Return every document of the API and every object in it, with its keys."""
    schema = api_schema()
    found = {f"/api/v1/{path}": {each["$ref"]} for path, each in schema["paths"].items()}
    for name, each in schema["$defs"].items():
        if "properties" in each:
            found[name] = set(each["properties"])
    return found


def events() -> dict[str, set[str]]:
    """Return every event of the log."""
    return {name: set() for name in EVENTS}


LISTS: dict[str, Callable[[], dict[str, set[str]]]] = {
    "metrics": metrics,
    "options": options,
    "api": api,
    "events": events,
}


def recorded(name: str) -> dict[str, set[str]]:
    """Return a list as it was recorded."""
    rows = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {
        key: set(parts.split()) for key, _, parts in (row.partition(": ") for row in rows if row)
    }


def record() -> None:
    """Record all lists."""
    for name, of in LISTS.items():
        rows = [f"{key}: {' '.join(sorted(parts))}\n" for key, parts in sorted(of().items())]
        (FOLDER / f"{name}.txt").write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    record()

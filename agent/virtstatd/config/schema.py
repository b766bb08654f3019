"""
A JSON schema of the configuration file, for editors: `virtstatd config --schema`.

`python -m virtstatd.config.schema > config/virtstatd.schema.json` writes the file that is shipped,
which knows the sinks of this package alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect

from virtstatd.config.options import Option, options, present
from virtstatd.config.plugins import COLLECTORS, SINKS, Plugins
from virtstatd.config.tables import TABLES, CollectorHead, OutletOptions, RouteOptions, SinkHead
from virtstatd.config.text import BUILT_IN, meaning, summary
from virtstatd.errors import ConfigError


DRAFT: Final = "http://json-schema.org/draft-07/schema#"
"""The newest draft that editors of TOML understand."""

JsonSchema = dict[str, Any]


def file_schema(
    sinks: Iterable[str] | None = None, collectors: Iterable[str] | None = None
) -> JsonSchema:
    """Return the schema of a file with these types of sinks and collectors, or all installed."""
    common = (*options(SinkHead), *options(OutletOptions), *options(RouteOptions))
    types = SINKS.names() if sinks is None else list(sinks)
    others = COLLECTORS.names() if collectors is None else list(collectors)
    properties = {name: _table(summary(cls), options(cls)) for name, cls in TABLES.items()}
    properties["sink"] = {
        "type": "array",
        "description": "Destinations of numbers: one table each, also several of one type.",
        "items": {"oneOf": [_plugin("sink", name, common, SINKS) for name in types]},
    }
    head = options(CollectorHead)
    properties["collector"] = {
        "type": "array",
        "description": "Collectors of other packages: one table each.",
        "items": {"oneOf": [_plugin("collector", name, head, COLLECTORS) for name in others]}
        if others
        else _open(_table(summary(CollectorHead), head)),
    }
    return {
        "$schema": DRAFT,
        "title": "virtstatd.toml",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": {"sink": _shared(common), "collector": _shared(head)},
    }


def _shared(common: Iterable[Option]) -> JsonSchema:
    return {"properties": {option.name: _option(option) for option in common}}


def _plugin(array: str, name: str, common: Iterable[Option], plugins: Plugins) -> JsonSchema:
    """Return the schema of the table of one type; what all types have is defined once."""
    try:
        cls = plugins.find(name)
        found = _table(summary(cls), options(cls))
    except ConfigError as error:  # a library is missing: its options cannot be read
        found = _open(_table(str(error), ()))
    head = {each.name: {"$ref": f"#/definitions/{array}/properties/{each.name}"} for each in common}
    head["type"] = {"const": name, "description": found["description"]}
    found["properties"] = head | found["properties"]
    found["required"].append("type")
    return found


def _open(table: JsonSchema) -> JsonSchema:
    return table | {"additionalProperties": True}


def _table(about: str, own: Sequence[Option]) -> JsonSchema:
    return {
        "type": "object",
        "description": about,
        "properties": {option.name: _option(option) for option in own},
        "required": [option.name for option in own if option.required],
        "additionalProperties": False,
    }


def _option(option: Option) -> JsonSchema:
    kind = option.kind
    if isinstance(kind, inspect.StructType):  # a table in a table, such as [poll.pulse]
        return _table(summary(kind.cls), options(kind.cls))
    (found,), parts = msgspec.json.schema_components(
        [present(option.hint)], ref_template="#/$defs/{name}"
    )
    found = dict(_inlined(found, parts))
    found["description"] = meaning(option)
    if not option.required:
        found["default"] = msgspec.to_builtins(option.default)
    return found


def _inlined(found: Any, parts: JsonSchema) -> Any:
    """Return a schema without references, and with patterns as every language reads them."""
    if isinstance(found, list):
        return [_inlined(each, parts) for each in found]
    if not isinstance(found, dict):
        return found
    if reference := found.get("$ref"):
        return _inlined(parts[reference.rpartition("/")[2]], parts)
    whole = {name: _inlined(each, parts) for name, each in found.items()}
    if "properties" in whole:
        del whole["title"]  # the name of a class
    if "pattern" in whole:
        whole["pattern"] = whole["pattern"].replace(r"\Z", "$")
    return whole


if __name__ == "__main__":
    shipped = file_schema(BUILT_IN, ())
    sys.stdout.write(json.dumps(shipped, indent=2, ensure_ascii=False) + "\n")

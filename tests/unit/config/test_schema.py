"""The JSON schema of the file: fresh, and as strict as `virtstatd check` where a schema can be."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from msgspec import inspect

from virtstatd.config.options import Option, faults_of_table, options
from virtstatd.config.plugins import SINKS
from virtstatd.config.schema import file_schema
from virtstatd.config.tables import TABLES, CollectorHead, OutletOptions, RouteOptions, SinkHead
from virtstatd.config.text import BUILT_IN, reference


CONFIG = Path(__file__).parents[3] / "config"
SHIPPED = json.loads(json.dumps(file_schema(BUILT_IN, ())))
VALID = Draft7Validator(SHIPPED)
COMMON = (*options(SinkHead), *options(OutletOptions), *options(RouteOptions))

Table = dict[str, Any]


def places() -> Iterator[tuple[str, tuple[Option, ...]]]:
    """Yield each table that has options, and these."""
    for name, cls in TABLES.items():
        yield name, options(cls)
        for option in options(cls):
            if isinstance(option.kind, inspect.StructType):
                yield f"{name}.{option.name}", options(option.kind.cls)
    for name in BUILT_IN:
        yield f"sink {name}", (*COMMON, *options(SINKS.find(name)))
    yield "collector", options(CollectorHead)


PLACES = dict(places())


def document(place: str, table: Table) -> Table:
    """Return a file in which that table is."""
    if place == "collector":
        return {"collector": [{"type": "a", **table}]}
    if place.startswith("sink "):
        known = {option.name: option for option in PLACES[place]}
        required = {each.name: "x" for each in known.values() if each.required}
        return {"sink": [{**required, "type": place.removeprefix("sink "), **table}]}
    for name in reversed(place.split(".")):
        table = {name: table}
    return table


def kinds(kind: inspect.Type) -> Iterator[inspect.Type]:
    """Yield the types that a value may have."""
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from kinds(each)
    else:
        yield kind.type if isinstance(kind, inspect.Metadata) else kind


def at_bounds(kind: inspect.Type) -> Iterator[tuple[object, bool]]:
    """Yield numbers at the bounds of a type and just beyond, and whether they are within."""
    if not isinstance(kind, inspect.IntType | inspect.FloatType):
        return
    step = 1 if isinstance(kind, inspect.IntType) else 0.001
    if kind.ge is not None:
        yield from ((kind.ge, True), (kind.ge - step, False))
    if kind.le is not None:
        yield from ((kind.le, True), (kind.le + step, False))
    if kind.gt is not None:
        yield kind.gt, False
    if kind.lt is not None:
        yield kind.lt, False


ODD: tuple[object, ...] = (True, -7, 2.5, "no such thing", ["x"], [7], {"x": 7}, [{"x": "y"}], "")
"""Values of every type that TOML has; most options accept few of them."""


def trials() -> Iterator[tuple[str, Option, object]]:
    """Yield every option with values that it may or may not have."""
    for place, own in PLACES.items():
        for option in own:
            if option.name == "type" or isinstance(option.kind, inspect.StructType):
                continue
            numbers = [value for kind in kinds(option.kind) for value, _ in at_bounds(kind)]
            for value in (*ODD, *numbers):
                yield place, option, value


def test_the_shipped_schema_is_current():
    """config/virtstatd.schema.json is what `python -m virtstatd.config.schema` prints."""
    assert json.loads((CONFIG / "virtstatd.schema.json").read_text()) == SHIPPED
    Draft7Validator.check_schema(SHIPPED)


def test_every_option_and_its_text_is_in_it():
    """An editor can describe each option, and knows its default."""
    for place, own in PLACES.items():
        found = SHIPPED["properties"]
        if place.startswith("sink "):
            among = found["sink"]["items"]["oneOf"]
            (found,) = (each for each in among if each["properties"]["type"]["const"] == place[5:])
        elif place == "collector":
            found = found["collector"]["items"]
        else:
            for name in place.split("."):
                found = found.get(name) or found["properties"][name]
        assert found["properties"].keys() == {option.name for option in own}
        assert ("type" in found["required"]) == place.startswith(("sink ", "collector"))
        for option in own:
            if option.name != "type" and not place.startswith("sink "):
                assert found["properties"][option.name]["description"]


@pytest.mark.parametrize("file", [*CONFIG.glob("examples/*.toml"), CONFIG / "virtstatd.toml"])
def test_what_is_shipped_is_valid(file: Path):
    """Every example, and the reference, are valid."""
    VALID.validate(tomllib.loads(file.read_text()))


def test_the_reference_with_all_options_is_valid():
    """The reference is valid too with every default written, as `virtstatd config` prints it."""
    lines = (line.removeprefix("# ") for line in reference().splitlines())
    found = tomllib.loads("\n".join(lines))

    assert len(found["sink"]) == len(BUILT_IN)
    VALID.validate(found)


def test_a_value_is_refused_by_both_or_by_neither():
    """Types, bounds, values and forms of every option are those of the check of the agent."""
    wrong, refused = [], 0
    for place, option, value in trials():
        table = {option.name: value}
        own = {each.name: each for each in PLACES[place]}
        faults = list(faults_of_table([own[option.name]], table, ()))
        refused += bool(faults)
        if bool(faults) == VALID.is_valid(document(place, table)):
            wrong.append((place, option.name, value, [str(each) for each in faults]))
    assert not wrong
    assert refused > 1000


def test_bounds_are_tried():
    """The values that are tried hold the bounds of each number, and what is just beyond."""
    for own in PLACES.values():
        for option in own:
            for kind in kinds(option.kind):
                for value, within in at_bounds(kind):
                    assert bool(list(faults_of_table([option], {option.name: value}, ()))) != within


@pytest.mark.parametrize(
    "text",
    [
        "[pol]",
        "level = 1",
        "[log]\nlevle = 'info'",
        "[poll.pulse]\ninterval = 1",
        "[poll.puls]",
        "[[sink]]\ntype = 'kafka'\nurl = 'x'",
        "[[sink]]\ntype = 'kafak'",
        "[[sink]]\nname = 'x'",
        "[sink]\ntype = 'null'",
        "[[collector]]\nname = 'x'",
        "[[filter.include]]\nnmae = 'x'",
    ],
)
def test_unknown_names_are_refused(text: str):
    """A table or an option that does not exist is an error in the editor already."""
    assert not VALID.is_valid(tomllib.loads(text))


def test_installed_sinks_are_known():
    """What the command prints has all types of sinks that are installed."""
    among = file_schema()["properties"]["sink"]["items"]["oneOf"]
    assert {each["properties"]["type"]["const"] for each in among} == set(SINKS.names())

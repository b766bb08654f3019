"""The dashboards: importable, described, and about series that exist."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from virtstatd.catalog import load
from virtstatd.catalog.profiles import profile
from virtstatd.commands.dashboards import UNITS, classic, read


CONFIG = Path(__file__).parents[3] / "config"
SOURCES = sorted((CONFIG / "grafana").glob("*.toml"))
RECORDED = set(re.findall(r"record: (\S+)", (CONFIG / "prometheus" / "recording.yml").read_text()))
NAME = re.compile(r"\b(?:(?:libvirt|virtstatd)_\w+|(?:instance|domain|storage):[\w:]+)")
VARIABLE = re.compile(r"\$\{?(\w+)")
BUILT_IN = {"__rate_interval", "datasource"}
RULES = ("alerts", "recording")


def panels(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that show something."""
    return [each for each in model["panels"] if each["type"] != "row"]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Tell whether two places on the grid have a cell in common."""
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
class TestEachDashboard:
    """Each file of config/grafana."""

    def test_is_what_its_source_says(self, source: Path):
        """The JSON is what `make generated` writes now."""
        assert source.with_suffix(".json").read_text() == classic(read(source))

    def test_has_panels_that_a_person_understands(self, source: Path):
        """Each has a title of its own, a description, a unit, a legend and the chosen source."""
        model = json.loads(classic(read(source)))
        several = panels(model)
        assert several
        assert len({each["title"] for each in several}) == len(several)
        assert model["schemaVersion"] == 39
        for panel in several:
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS.values()
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all(each["legendFormat"] != "__auto" for each in panel["targets"])
        assert model["templating"]["list"][0]["type"] == "datasource"

    def test_has_ids_and_places_of_their_own(self, source: Path):
        """No two panels share an id or a cell, and none leaves the grid."""
        several = json.loads(classic(read(source)))["panels"]
        assert len({each["id"] for each in several}) == len(several)
        places = [each["gridPos"] for each in several]
        assert not [pair for pair in combinations(places, 2) if overlap(*pair)]
        assert all(each["x"] + each["w"] <= 24 for each in places)

    def test_uses_the_variables_that_it_has(self, source: Path):
        """Each variable is used by each panel, and none is used that is not there."""
        dashboard = read(source)
        names = {each.name for each in dashboard.variable}
        for query in dashboard.queries:
            assert set(VARIABLE.findall(query)) - BUILT_IN == names
        asked = VARIABLE.findall(" ".join(each.query for each in dashboard.variable))
        assert {*asked} <= names

    def test_has_rows_without_gaps(self, source: Path):
        """The panels of each row fill it from left to right, so that no hole is left."""
        widths: dict[tuple[int, int], int] = {}
        for panel in panels(json.loads(classic(read(source)))):
            place = panel["gridPos"]
            key = (place["y"], place["h"])
            widths[key] = widths.get(key, 0) + place["w"]
        assert {key: width for key, width in widths.items() if width != 24} == {}

    def test_asks_for_series_that_exist(self, source: Path):
        """Every name is in the catalog or in the recording rules, and rates fit any interval."""
        families = {line.field.family for line in load().fields if line.field}
        queries = read(source).queries
        named = {name for query in queries for name in NAME.findall(query)}
        ours = {re.sub("_(total|bucket|count|sum)$", "", name) for name in named if ":" not in name}
        assert ours <= families
        assert {name for name in named if ":" in name} <= RECORDED
        assert not [each for each in queries if re.search(r"\[(?!\$__rate_interval)|irate", each)]


def test_the_profile_lean_is_enough_for_dashboards_and_rules():
    """Every metric that they name is in the profile `lean`, as its documentation says."""
    texts = [query for source in SOURCES for query in read(source).queries]
    texts += [(CONFIG / "prometheus" / f"{name}.yml").read_text() for name in RULES]
    expressions = re.sub(r"(runbook|summary|finding|dashboard): .*", "", " ".join(texts))
    named = {name for name in NAME.findall(expressions) if ":" not in name}
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in named}
    patterns = profile("lean")
    assert not [each for each in families if not any(fnmatchcase(each, p) for p in patterns)]


def test_a_mistake_in_a_source_is_named(tmp_path: Path):
    """A panel with an unknown unit or an unknown word is an error that says where."""
    text = SOURCES[0].read_text()
    file = tmp_path / "wrong.toml"
    file.write_text(text.replace('unit = "ratio"', 'unit = "percent"', 1))
    with pytest.raises(msgspec.ValidationError, match=r"row\[0\]\.panel\[0\]\.unit|\$\.row"):
        read(file)

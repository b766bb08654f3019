"""The bill of materials, made as for a release: the network and some minutes are needed."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest


TOP = Path(__file__).parents[2]


@pytest.mark.soak
def test_the_bill_of_materials_has_every_library_with_its_licence(tmp_path: Path):
    """It names all that pyproject.toml asks for and the page's libraries, each with a licence."""
    subprocess.run([TOP / ".ci" / "sbom", tmp_path], check=True)
    bill = json.loads((tmp_path / "virtstatd.cdx.json").read_text())
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    named = {re.sub(r"[-_.]+", "-", each["name"]).casefold() for each in bill["components"]}
    wanted = {re.split(r"[\[<>=; ]", each)[0].replace("_", "-").casefold() for each in asked}
    assert wanted | {"uplot", "lit-html"} <= named
    rows = [line.split("\t") for line in (tmp_path / "licences.txt").read_text().splitlines()]
    assert {each["name"] for each in bill["components"]} == {name for name, _, _ in rows}
    assert all(licence for _, _, licence in rows)

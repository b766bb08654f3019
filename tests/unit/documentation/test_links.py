"""The READMEs as files: current, short, and linked to what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.markdown import anchors, by_hand, name_of, prose, text_of
from virtstatd.commands.reference import MAKERS, PART, TOP, documents, renewed


LINES = {
    "README.md": 200,
    "CONTRIBUTING.md": 80,
    "SECURITY.md": 80,
    "CHANGELOG.md": 250,
    "agent/README.md": 620,
    "agent/virtstatd/catalog/README.md": 200,
    "agent/virtstatd/serving/README.md": 180,
    "agent/virtstatd/sinks/README.md": 180,
    "config/README.md": 320,
    "config/consumers/README.md": 40,
    "config/grafana/README.md": 100,
    "config/prometheus/README.md": 140,
    "systemd/README.md": 180,
    "tests/README.md": 130,
    "tests/template_collector/README.md": 30,
    "tests/template_sink/README.md": 30,
}
"""Most lines of each file; only the first two count what is generated."""

WHOLE = {"README.md", "CONTRIBUTING.md"}


@pytest.mark.parametrize("file", documents(), ids=name_of)
def test_each_file_is_short(file: Path):
    """Every file of documentation has a limit of lines, and keeps to it."""
    name = name_of(file)
    text = text_of(file) if name in WHOLE else by_hand(file)

    assert len(text.splitlines()) < LINES[name]


@pytest.mark.parametrize("file", documents(), ids=name_of)
def test_generated_parts_are_current(file: Path):
    """Tables and sections that come from the code are what `make generated` writes now."""
    assert renewed(text_of(file), file.parent) == text_of(file), "run: make generated"


def test_every_part_is_in_some_file():
    """What can be generated stands somewhere, once, except the table of sinks."""
    used = [found["name"] for file in documents() for found in PART.finditer(text_of(file))]

    assert set(used) == set(MAKERS)
    assert {name for name in used if used.count(name) > 1} == {"sinks"}


@pytest.mark.parametrize("file", documents(), ids=name_of)
def test_every_link_leads_somewhere(file: Path):
    """A link leads to a file of the repository, and to a heading of it if it names one."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        there = target.exists() and target.is_relative_to(TOP)
        if not there or (anchor and anchor not in anchors(target)):
            dead.append(link)

    assert not dead


def test_every_file_can_be_reached():
    """From the main README links lead to every other file of documentation."""
    found, waiting = set[Path](), [TOP / "README.md"]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for link in re.findall(r"\]\(([^)#\s]+)", prose(file)):
            target = (file.parent / link).resolve()
            target = target / "README.md" if target.is_dir() else target
            if target.suffix == ".md" and target.exists():
                waiting.append(target)

    assert set(documents()) == found

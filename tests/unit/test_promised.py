"""Names that users rely on stay: of metrics, options, keys of the API, and events."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from support.promised import FOLDER, LISTS, recorded


CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def announced(name: str) -> dict[str, str]:
    """Return what was announced to go, with what to use instead."""
    file = tomllib.loads((FOLDER / "announced.toml").read_text(encoding="utf-8"))
    return {key: str(text) for key, text in file[name].items()}


def gone(before: dict[str, set[str]], now: dict[str, set[str]]) -> set[str]:
    """Return what is no longer there: whole entries, and parts of entries as `entry.part`."""
    whole = {key for key in before if key not in now}
    parts = {
        f"{key}.{part}"
        for key, each in before.items()
        if key in now
        for part in each
        if part not in now[key]
    }
    return whole | parts


@pytest.mark.parametrize("name", LISTS)
def test_nothing_goes_unannounced(name: str):
    """A name, kind, unit, label, option or key that is gone or changed was announced."""
    missing = {
        each
        for each in gone(recorded(name), LISTS[name]())
        if each.split()[0] not in announced(name)
    }
    assert not missing, "announce it in CHANGELOG.md and tests/data/promised/announced.toml"


@pytest.mark.parametrize("name", LISTS)
def test_what_is_announced_is_in_the_changelog(name: str):
    """Users read of each removal what to use instead."""
    parts = re.split(r"(?m)^### ", CHANGELOG.read_text(encoding="utf-8"))
    told = "".join(part for part in parts if part.startswith(("Deprecated", "Removed")))
    for each, instead in announced(name).items():
        assert f"`{each}`" in told
        assert instead.endswith(".")


@pytest.mark.parametrize("name", LISTS)
def test_a_release_records_what_is_new(name: str):
    """When nothing waits for a release, everything that there is was recorded."""
    text = CHANGELOG.read_text(encoding="utf-8")
    unreleased = text.partition("## [Unreleased]")[2].partition("\n## [")[0]
    if not unreleased.strip():
        assert recorded(name) == LISTS[name](), "run python -m support.promised"


def test_a_change_is_seen():
    """A name that is gone, another kind or unit, and a label that is gone are all found."""
    before = {"a gauge bytes": {"x", "y"}, "b counter -": set(), "c gauge -": {"z"}}
    now = {
        "a gauge bytes": {"x", "new"},
        "b gauge -": set(),
        "c gauge -": {"z"},
        "d gauge -": set(),
    }
    assert gone(before, now) == {"a gauge bytes.y", "b counter -"}

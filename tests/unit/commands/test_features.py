"""What other tools have, and where this one has it: no row is empty, and every name exists."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatchcase

from virtstatd.catalog import load
from virtstatd.commands.reference import FEATURES
from virtstatd.config.text import reference
from virtstatd.formats.naming import metric_name


TABLES = tomllib.loads(FEATURES.read_text())
ROWS = [row for rows in TABLES.values() for row in rows]


def options() -> set[str]:
    """Return every option as TABLE.OPTION; those of sinks are `sink.OPTION`."""
    known, table = set(), ""
    for line in reference().splitlines():
        if head := re.fullmatch(r"(?:# \[)?\[([a-z_.]+)\]\]?", line):
            table = head[1]
        elif option := re.match(r"# ([a-z_0-9]+) = ", line):
            known.add(f"{table}.{option[1]}")
    return known


def test_each_feature_has_its_place_here():
    """Every one of the 84 rows names a metric, an option, or says what it is."""
    assert len(ROWS) == len({row["feature"] for row in ROWS}) == 84
    for row in ROWS:
        assert row.get("metrics") or row.get("options") or row.get("text"), row


def test_names_of_the_table_exist():
    """Metrics are in the catalog, options in the reference file."""
    metrics = {metric_name(line.field) for line in load().fields if line.field}
    for row in ROWS:
        for pattern in row.get("metrics", ()):
            assert any(fnmatchcase(name, pattern) for name in metrics), pattern
        assert {*row.get("options", ())} <= options(), row

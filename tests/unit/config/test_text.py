"""The generated documentation of the configuration: complete, current and true."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

from virtstatd.config.file import load_config, parse_config
from virtstatd.config.options import options
from virtstatd.config.plugins import SINKS
from virtstatd.config.tables import TABLES, OutletOptions, RouteOptions, SinkHead
from virtstatd.config.text import BUILT_IN, option_tables, reference, sink_sections


ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "config" / "virtstatd.toml"


def uncommented() -> str:
    """Return the shipped file with every option in force."""
    lines = SHIPPED.read_text().splitlines()
    return "\n".join(line.removeprefix("# ") for line in lines)


def test_the_shipped_file_is_current() -> None:
    """config/virtstatd.toml is what `python -m virtstatd.config.text` prints."""
    assert SHIPPED.read_text() == reference()


def test_the_shipped_file_changes_nothing() -> None:
    """As it is shipped, the file is the defaults."""
    assert load_config(SHIPPED) == load_config(None)


def test_what_the_shipped_file_shows_is_the_default() -> None:
    """With every comment taken away, the file still is the defaults, and each sink its own."""
    config = parse_config(uncommented(), "virtstatd.toml")
    defaults = load_config(None)
    assert config.sinks[0] == defaults.sinks[0]
    assert [each.type for each in config.sinks] == list(BUILT_IN)
    for each in config.sinks:
        assert each.sink == SINKS.find(each.type)()
        assert each.outlet == OutletOptions()
    assert (config.hypervisor, config.collect) == (defaults.hypervisor, defaults.collect)
    assert (config.labels, config.agent, config.log) == (
        defaults.labels,
        defaults.agent,
        defaults.log,
    )


def test_every_option_is_shown_and_described() -> None:
    """No option of any table or built-in sink is missing, and each has its sentence."""
    document = tomllib.loads(uncommented())
    for name, cls in TABLES.items():
        assert set(document[name]) == {option.name for option in options(cls)}
    for tier in options(TABLES["poll"]):
        shown = set(document["poll"][tier.name])
        assert shown == {option.name for option in options(type(tier.default))}
    common = {
        option.name for cls in (SinkHead, RouteOptions, OutletOptions) for option in options(cls)
    }
    for index, table in enumerate(document["sink"]):
        own = {option.name for option in options(SINKS.find(table["type"]))}
        assert set(table) == own | (common if index == 0 else {"type"})
    lines = SHIPPED.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if line.startswith("# ") and not line.startswith(("# [", "# type")):
            assert above.startswith("## ")
            assert above.endswith(".")


def test_every_sink_that_is_packed_is_documented() -> None:
    """The sinks of the reference are the entry points of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(BUILT_IN) == set(project["entry-points"]["virtstatd.sinks"])


def test_the_tables_for_readers_name_every_option() -> None:
    """The tables of READMEs hold every option of the reference with its default."""
    tables = option_tables() + sink_sections()
    for line in SHIPPED.read_text().splitlines():
        if line.startswith("# ") and " = " in line and not line.startswith("# type"):
            name, default = line.removeprefix("# ").split(" = ", 1)
            assert f"| `{name}` | `{default}` |" in tables

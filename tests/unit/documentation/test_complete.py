"""What the program has is documented, and what the documentation names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from support.insight import World
from support.markdown import by_hand, commands, name_of, text_of
from virtstatd.catalog import load
from virtstatd.catalog.names import TOOLS, dialect
from virtstatd.commands.cli import main
from virtstatd.commands.manual import pages
from virtstatd.commands.reference import MAKERS, TOP, documents
from virtstatd.config.options import options
from virtstatd.config.plugins import SINKS
from virtstatd.config.tables import TABLES
from virtstatd.formats.naming import metric_name
from virtstatd.runtime.events import EVENTS
from virtstatd.serving.api import Api
from virtstatd.serving.schema import api_schema


CATALOG = text_of(TOP / "agent/virtstatd/catalog/README.md")
SINKS_PAGE = text_of(TOP / "agent/virtstatd/sinks/README.md")
SERVING = text_of(TOP / "agent/virtstatd/serving/README.md")
CONFIGURATION = text_of(TOP / "config/README.md")
RUNBOOK = text_of(TOP / "systemd/README.md")


def leaves(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield each command that can be typed, with its whole name."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found
            yield from leaves(found, f"{name} {each}".strip())
    else:
        yield name, command


def test_every_event_is_in_the_runbook():
    """Each event of the log has a row with its meaning and what to do."""
    for name, event in EVENTS.items():
        assert f"| `{name}` | {event.level} | {event.meaning}" in RUNBOOK


def test_every_command_is_shown():
    """A file shows each command, and its manual page each of its options."""
    shown = {line for _, line in commands("virtstatd")}
    manual = pages()["virtstatd.1"].replace("\\-", "-")
    for name, command in leaves(main):
        if name not in ("run", "simulate"):  # for the unit, and for tests of other programs
            assert any(line.startswith(f"virtstatd {name}") for line in shown), name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
                assert parameter.opts[0] in manual, f"{name} {parameter.opts[0]}"


def test_every_option_of_the_file_is_described():
    """Each option has a row with its meaning: those of sinks on their page, others on one."""
    for cls in TABLES.values():
        for option in options(cls):
            assert f"| `{option.name}` |" in CONFIGURATION or f".{option.name}]`" in CONFIGURATION
    for name in SINKS.names():
        section = SINKS_PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        for option in options(SINKS.find(name)):
            assert f"`{option.name}`" in section, (name, option.name)


def test_every_field_is_described_with_its_labels():
    """Each line of the catalog that becomes a series is in its group's table, labels included."""
    for line in load().fields:
        assert line.field
        section = CATALOG.partition(f"\n### {line.group}\n")[2].partition("\n### ")[0]
        labels = ", ".join(f"`{label}`" for label in line.labels)
        row = f"| `{metric_name(line.field)}` | {line.field.kind.value} | {line.field.unit} |"
        assert f"{row} {labels} | {line.field.help}" in section, line.key


def test_every_route_and_key_of_the_api_is_described():
    """Each path has its row, and each key of each object is listed."""
    for path in {route.path for route in Api(World().insight, 1).routes()} - {"/api/"}:
        assert f"| `{path}" in SERVING, path
    for name, each in api_schema()["$defs"].items():
        row = re.search(rf"^\| `{name.removesuffix('Json')}` \|.*$", SERVING, re.MULTILINE)
        assert row
        assert not [key for key in each["properties"] if f"`{key}`" not in row[0]]


def test_metrics_that_are_named_exist():
    """Texts, excerpts and queries of all files use names that the agent gives."""
    known = {metric_name(line.field) for line in load().fields if line.field}
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "count", "sum")}
    known |= {name for tool in TOOLS for name in dialect(tool).metrics}
    known |= {"virtstatd_webhook", "virtstatd_thermal", "virtstatd_simulator", "virtstatd_samples"}
    for file in documents():
        if name_of(file) == "CHANGELOG.md":  # it names what was removed
            continue
        text = re.sub(r"virtstatd_\*\.deb", "", by_hand(file))
        named = set(re.findall(r"\b(?:libvirt|virtstatd)_\w*[a-z](?![\w{.\[(])", text))
        assert not named - known, name_of(file)


def test_every_event_that_is_named_exists():
    """An event in a text is one that the agent logs."""
    areas = "|".join({name.partition(".")[0] for name in EVENTS} - {"agent", "file", "web"})
    for file in documents():
        if name_of(file) not in ("CHANGELOG.md", "agent/README.md"):
            named = set(re.findall(rf"`((?:{areas})\.[a-z_]+)`", by_hand(file)))
            assert not {each for each in named if each not in EVENTS}, name_of(file)


def test_parts_have_makers():
    """A part that no maker knows is a spelling mistake, which renewing would not notice."""
    for file in documents():
        for name in re.findall(r"<!-- (\w+): generated -->", text_of(file)):
            assert name in MAKERS

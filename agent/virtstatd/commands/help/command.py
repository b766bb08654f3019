"""The commands that explain: `help`, and `config`, `events`, `fields` and `sinks`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Final, Literal

import click

from virtstatd import catalog
from virtstatd.catalog import profiles
from virtstatd.catalog.names import TOOLS, dialect, dialect_table
from virtstatd.commands.cli import fail
from virtstatd.commands.help import topics
from virtstatd.commands.help.blocks import HelpBlock, columns, laid_out
from virtstatd.config.schema import file_schema
from virtstatd.config.text import plain_tables, reference, sink_text
from virtstatd.errors import ConfigError
from virtstatd.formats.naming import metric_name
from virtstatd.pipeline.picking import Globs


SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


@click.command("help", context_settings=SETTINGS)
@click.argument("topic", default="", shell_complete=lambda _, __, word: _completed(word))
@click.pass_context
def help(context: click.Context, topic: str) -> None:  # noqa: A001 - the command's name
    """Explain TOPIC: a command, table, sink, option, event or field."""
    if not topic:
        say(topics.topics())
        return
    try:
        if found := topics.exact(topic):
            say(found)
            return
    except ConfigError as error:  # a sink whose library is not installed
        fail(str(error), 1)
    group = context.find_root().command
    if isinstance(group, click.Group) and (command := group.get_command(context, topic)):
        click.echo(command.get_help(click.Context(command, context.parent, topic)))
        return
    if found := topics.named_like(topic):
        say(found)
        return
    known = [*topics.names_of_topics(), *(group.commands if isinstance(group, click.Group) else ())]
    near = difflib.get_close_matches(topic.casefold(), known, n=1)
    then = f"did you mean {near[0]}?" if near else "`virtstatd help` lists the topics"
    fail(f"no topic {topic!r}, {then}", 1)


@click.command(context_settings=SETTINGS)
@click.argument("word", default="")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "table", "markdown"]),
    default="text",
    show_default=True,
    help="What to print: text of the terminal's width, or a table with a row for each.",
)
@click.option(
    "--profile",
    type=click.Choice(["full", "lean"]),
    default="full",
    show_default=True,
    help="Print only what a sink with this `profile` gets.",
)
@click.option(
    "--names",
    type=click.Choice(["virtstatd", *TOOLS]),
    default="virtstatd",
    show_default=True,
    help="Print the names that a sink with these `names` gives.",
)
def fields(word: str, form: str, profile: str, names: str) -> None:
    """Print every statistic, or those with WORD in their line."""
    kept = Globs(() if profile == "full" else profiles.profile(profile))
    known = catalog.shipped()
    if form == "text" and names != "virtstatd":
        found: list[HelpBlock] = [*topics.name_entries(names, word)]
    else:
        lines = known.listed(word, lambda field: kept(metric_name(field)))
        found = [topics.field_entry(line) for line in lines]
    if form == "text" and found:
        say(found)
        return
    table: Literal["text", "markdown"] = "markdown" if form == "markdown" else "text"
    if names != "virtstatd":
        text = dialect_table(dialect(names), word, table)
    else:
        text = known.table(table, word, lambda field: kept(metric_name(field)))
    if not text:
        fail(f"no {_statistic(names)} has {word!r} in its line", 1)
    click.echo(text, nl=False)


def _statistic(names: str) -> str:
    return "statistic" if names == "virtstatd" else f"metric of {names}"


@click.command(context_settings=SETTINGS)
@click.argument("word", default="")
def events(word: str) -> None:
    """Explain the events of the log, or those with WORD in them."""
    found = list(topics.events_topic(word))
    if not found:
        fail(f"no event has {word!r} in its name", 1)
    say(found)


@click.command(context_settings=SETTINGS)
@click.argument("name", required=False)
def sinks(name: str | None) -> None:
    """Print the types of sinks, or the options of the type NAME."""
    try:
        say(topics.sink_type(name) if name else topics.sinks_topic())
    except ConfigError as error:
        fail(str(error), 1)


@click.command(context_settings=SETTINGS)
@click.argument("parts", nargs=-1)
@click.option("--schema", is_flag=True, help="Print a JSON schema of the file, for editors.")
def config(parts: tuple[str, ...], *, schema: bool) -> None:
    """
    Print the configuration with every option and its default.

    PARTS are tables and types of sinks; without them it is the whole file.
    """
    if schema:
        click.echo(json.dumps(file_schema(), indent=2, ensure_ascii=False))
        return
    click.echo("\n".join(map(_part, parts)) if parts else reference(), nl=False)


def _part(name: str) -> str:
    found = [part.text for part in plain_tables() if name in (part.name, part.name.split(".")[0])]
    if found:
        return "\n".join(found)
    try:
        return sink_text(name, common=False)
    except ConfigError as error:
        fail(f"no table [{name}]; {error}", 1)


def say(blocks: Iterable[HelpBlock]) -> None:
    """Print blocks in the width of the terminal."""
    click.echo(laid_out(blocks, columns()), nl=False)


def _completed(word: str) -> list[str]:
    return [each for each in topics.names_of_topics() if each.startswith(word)]

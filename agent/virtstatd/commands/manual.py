"""
Write the manual pages: `python -m virtstatd.commands.manual DIRECTORY`.

`virtstatd(1)`, `virtstatd.toml(5)` and `virtstatd-fields(7)` come from the commands, the options
and the catalog, so that no text is written twice.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final

import click

from virtstatd import __version__, catalog
from virtstatd.commands.cli import main
from virtstatd.commands.help import topics
from virtstatd.commands.help.blocks import Explained, Heading, HelpBlock, Paragraph
from virtstatd.config.file import DEFAULT_FILE
from virtstatd.config.text import BUILT_IN
from virtstatd.errors import ConfigError


ABOUT: Final = "statistics of every libvirt guest, in bulk"
EXITS: Final = {
    "0": "Success.",
    "1": "The command found something wrong, or could not do what it was for.",
    "2": "The command line is wrong; of `status`: something hurts.",
    "78": "The configuration is wrong. The service does not start again by itself.",
}


def roff(text: str) -> str:
    """Return text as roff shows it: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def prose(text: str) -> str:
    """Return a text with names in backquotes in bold."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(
        f"\\fB{roff(each)}\\fR" if at % 2 else roff(each) for at, each in enumerate(parts)
    )


def page(name: str, section: int, about: str, body: Iterator[str]) -> str:
    """Return a page; its body has roff's macros."""
    head = f'.TH "{name.upper()}" "{section}" "" "virtstatd {__version__}" "virtstatd"'
    return "\n".join([head, ".SH NAME", f"{roff(name)} \\- {roff(about)}", *body]) + "\n"


def _commands_page() -> Iterator[str]:
    """Yield the body of virtstatd(1)."""
    yield from (".SH SYNOPSIS", ".B virtstatd", "COMMAND [OPTIONS] [ARGUMENTS]")
    yield from (
        ".SH DESCRIPTION",
        prose(
            "One process per host asks libvirt for the statistics of all guests in bulk, over a"
            " read-only connection, and sends them to sinks. `virtstatd run` is what the"
            " service runs; the other commands are for people."
        ),
    )
    yield ".SH COMMANDS"
    yield from _commands(main, "")
    yield ".SH EXIT STATUS"
    for status, text in EXITS.items():
        yield from (".TP", f".B {status}", prose(text))
    yield ".SH LOG EVENTS"
    yield prose(
        "Each line of the log has the name of an event; `journalctl -u virtstatd -g NAME` finds it."
    )
    yield from _written(topics.events_topic())
    yield ".SH FINDINGS"
    yield from _written(topics.findings_topic())
    yield ".SH DELIVERY"
    yield from _written(topics.delivery_topic())
    yield from (".SH FILES", ".TP", f".I {roff(str(DEFAULT_FILE))}", "The configuration.")
    yield from (".TP", ".I /var/lib/virtstatd", "Spools and archives.")
    yield from (
        ".SH SEE ALSO",
        ".BR virtstatd.toml (5),",
        ".BR virtstatd\\-fields (7),",
        ".BR virsh (1)",
    )


def _commands(group: click.Group, before: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        words = f"{before}{name}"
        if isinstance(command, click.Group):
            yield from _commands(command, f"{words} ")
            continue
        context = click.Context(command, info_name=words)
        usage = " ".join(command.collect_usage_pieces(context))
        yield f".SS {roff(words)} {roff(usage)}"
        for paragraph in re.split(r"\n\s*\n", (command.help or "").strip()):
            yield from (".PP", prose(" ".join(paragraph.replace("\b", "").split())))
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record and record[1]:
                yield from (".TP", f".B {roff(record[0])}", prose(record[1]))


def _options_page() -> Iterator[str]:
    """Yield the body of virtstatd.toml(5)."""
    yield ".SH DESCRIPTION"
    yield from _written(topics.config_topic())
    yield ".SH TABLES"
    for name in topics.table_names():
        yield from _written(topics.table(name))
    yield ".SH SINKS"
    for name in BUILT_IN:
        with suppress(ConfigError):  # not all of Debian's releases have the libraries of all sinks
            yield from _written(topics.sink_type(name))
    yield from (".SH SEE ALSO", ".BR virtstatd (1)")


def _fields_page() -> Iterator[str]:
    """Yield the body of virtstatd-fields(7)."""
    yield from (".SH DESCRIPTION", "Every series that can appear, by group of statistics.")
    for group, lines in groupby(catalog.shipped().fields, key=lambda line: line.group):
        yield f".SH {roff(group.upper())}"
        yield from _written(map(topics.field_entry, lines))
    yield from (".SH SEE ALSO", ".BR virtstatd (1)")


def _written(blocks: Iterable[HelpBlock]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading():
                yield f".SS {prose(block.text)}"
            case Paragraph():
                yield from (".PP", prose(block.text))
            case Explained():
                facts = f"({block.facts}) " if block.facts else ""
                yield from (".TP", f".B {roff(block.term)}", prose(facts + block.text))
                if block.action:
                    yield from (".br", prose(block.action))


def pages() -> dict[str, str]:
    """Return all pages by file name."""
    return {
        "virtstatd.1": page("virtstatd", 1, ABOUT, _commands_page()),
        "virtstatd.toml.5": page(
            "virtstatd.toml", 5, "configuration of virtstatd", _options_page()
        ),
        "virtstatd-fields.7": page("virtstatd-fields", 7, "series of virtstatd", _fields_page()),
    }


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        (directory / file).write_text(text, encoding="utf-8")

"""The manual pages: complete, and nothing in a text is read as a request of roff."""

from __future__ import annotations

import click

from virtstatd.catalog import load
from virtstatd.commands.cli import main
from virtstatd.commands.manual import pages, prose, roff
from virtstatd.config.options import options
from virtstatd.config.tables import TABLES
from virtstatd.formats.naming import metric_name
from virtstatd.runtime.events import EVENTS


PAGES = pages()
REQUESTS = {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".BR", ".I", ".br"}


def test_every_command_and_event_is_described():
    """Each command has a section with its options, and each event of the log its meaning."""
    text = PAGES["virtstatd.1"]
    for name in main.list_commands(click.Context(main)):
        assert f".SS {roff(name)} " in text
    for name, event in EVENTS.items():
        assert f".B {roff(name)}\n" in text
        assert prose(event.meaning) in text


def test_every_option_and_every_series_is_described():
    """Nothing that the file or the page can have is missing."""
    for cls in TABLES.values():
        for option in options(cls):
            assert roff(option.name) in PAGES["virtstatd.toml.5"]
    for line in load().fields:
        if line.field:
            assert f".B {roff(metric_name(line.field))}\n" in PAGES["virtstatd-fields.7"]


def test_no_text_is_a_request():
    """Every line that begins with a dot is one of ours, and no escape is left to texts."""
    for text in PAGES.values():
        begun = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
        assert begun <= REQUESTS
    assert roff(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert roff("\\fB'`-") == "\\efB\\(aq\\(ga\\-"

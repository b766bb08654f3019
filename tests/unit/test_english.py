"""Texts that people read at once: no word or form that they stumble over, no endless sentence."""

from __future__ import annotations

import click
import pytest

from support.english import SOURCES, WORDS_MAX, Text, prose, sentences, stumbles, too_long
from virtstatd.commands.cli import main


@pytest.mark.parametrize("source", SOURCES)
def test_no_reader_stumbles(source: str):
    """No text has a word or a form of the list; there are no exceptions."""
    texts = list(SOURCES[source]())
    assert len(texts) > 30
    assert not [f"{text.where}: {each}" for text in texts for each in stumbles(text)]


@pytest.mark.parametrize("source", SOURCES)
def test_sentences_are_short(source: str):
    """A sentence that users read has no more than 30 words."""
    texts = (text for text in SOURCES[source]() if text.read)
    assert not [f"{text.where}: {each}" for text in texts for each in too_long(text.text)]


def test_lists_of_commands_are_whole():
    """In 80 columns each command is described by a whole sentence."""
    spool = main.get_command(click.Context(main), "spool")
    for command in (main, spool):
        assert isinstance(command, click.Group)
        context = click.Context(command, info_name="virtstatd", terminal_width=78)
        text = command.get_help(context).replace("[ARGS]...", "")
        assert "..." not in text
        assert max(map(len, text.splitlines())) <= 80


def test_a_sentence_ends_where_it_ends():
    """Points within names, numbers and abbreviations end nothing; code counts as one word."""
    text = (
        'Set `a = 1. B`, e.g. 1.5 s. Then run `x`. See [the file](a/b.c) v1.2. 5 % is "much." So.'
    )
    assert [len(each.split()) for each in sentences(text)] == [5, 3, 4, 4, 1]
    assert list(sentences("One\ntwo.\n\nThree")) == ["One two.", "Three"]
    long = " ".join(["word"] * WORDS_MAX)
    assert not list(too_long(f"{long}. {long} `some code` - /"))[1:]
    assert list(too_long(f"{long} more.")) == [f"{long} more."]


def test_blocks_of_markdown():
    """Items, headings and cells are texts of their own; fenced code and comments are none."""
    text = "# A\nb\nc\n- d\n  e\n1. f\n| g | h |\n|---|---|\n```\ni\n```\n<!-- j -->\nk"
    found = [each for _, each in prose(text)]
    assert [each.strip() for each in found if each.strip("- |")] == [
        *("A", "b\nc", "d\ne", "f", "g", "h", "k"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("Whoever asks is told.", "Guests are never asked.", "It gives way for ever.", "mends it"),
        *("`reason` says why.", "Beside that, it wins.", "Each look pays."),
    ],
)
def test_stumbles_are_found(text: str):
    """The list finds what it is for, in any case, and not in code."""
    assert list(stumbles(Text("here", text)))
    assert not list(stumbles(Text("here", f"`{text.replace('`', '')}` works.")))

"""`virtstatd help`: what can be explained, in the width of any terminal."""

from __future__ import annotations

import re
import sys

import click
import pytest
from click.testing import CliRunner, Result

from support.terminal import terminal
from virtstatd.catalog import shipped
from virtstatd.commands.cli import main
from virtstatd.commands.help.blocks import Explained, laid_out
from virtstatd.commands.help.topics import (
    events_topic,
    exact,
    findings_topic,
    names_of_topics,
    topics,
)
from virtstatd.config.options import options
from virtstatd.config.plugins import SINKS
from virtstatd.config.tables import TABLES
from virtstatd.insight.findings import FINDINGS
from virtstatd.runtime.events import EVENTS


WORDS = ["interval_seconds", "domain.unresponsive", "steal_peak", "vcpu_delay", "budget"]
WANTED = {"config", "sinks", "delivery", "fields", "events", "findings", "steal", "names"}


def asked(*args: str, columns: int = 80) -> Result:
    """Run a command with its output in a pipe."""
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(main, args, prog_name="virtstatd")


def test_all_topics_are_listed():
    """The list has the guides, each table of the configuration, and each type of sink."""
    text = asked("help").stdout

    assert set(names_of_topics()) >= WANTED | TABLES.keys() | set(SINKS.names())
    for name in names_of_topics():
        assert re.search(rf"\b{name}\b", text)


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_texts_fit(columns: int):
    """No line is wider than the terminal, but for a name or a link that cannot be broken."""
    for topic in ("", *names_of_topics(), *WORDS):
        done = asked("help", *filter(None, [topic]), columns=columns)
        assert done.exit_code == 0, topic
        assert "\x1b" not in done.stdout
        for line in done.stdout.splitlines():
            assert len(line) <= columns or " " not in line.strip(), line


@pytest.mark.parametrize(
    "command",
    [["fields"], ["fields", "--names", "kumina"], ["events"], ["sinks"], ["sinks", "otlp"]],
)
def test_lists_fit(command: list[str]):
    """What the other commands list fits 80 columns."""
    done = asked(*command)
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_tables_have_all_options():
    """The topic of a table has each of its options with its default."""
    for name, cls in TABLES.items():
        text = click.unstyle(laid_out(exact(name), 200))
        for option in options(cls):
            assert f"\n{option.name} = " in text or f"[{name}.{option.name}]" in text


def test_events_and_findings_are_complete():
    """Nothing that the agent logs or finds lacks its explanation."""
    assert [each.term for each in events_topic() if isinstance(each, Explained)] == list(EVENTS)
    assert [each.term for each in findings_topic() if isinstance(each, Explained)] == [
        each.name for each in FINDINGS
    ]


def test_a_word_finds_names():
    """What is no topic finds every option, event, finding and field with the word in its name."""
    text = asked("help", "steal_peak").stdout
    assert "Findings" in text
    assert "libvirt_domain_steal_peak_ratio" in text
    assert "[poll.pulse]" in asked("help", "interval_seconds").stdout
    assert "virsh" in asked("help", "disk_latency").stdout


def test_a_command_is_explained_by_its_help():
    """`virtstatd help check` is `virtstatd check --help`."""
    assert asked("help", "check").stdout == asked("check", "--help").stdout


@pytest.mark.parametrize(
    ("word", "then"),
    [("kafak", "kafka"), ("confg", "config"), ("stael", "steal"), ("chek", "check")],
)
def test_a_near_topic_is_suggested(word: str, then: str):
    """An unknown word ends with 1, on standard error, and with the topic that was meant."""
    done = asked("help", word)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"no topic {word!r}, did you mean {then}?\n"


def test_a_sink_without_its_library(monkeypatch: pytest.MonkeyPatch):
    """A sink whose library is not installed is answered by what to install, here and elsewhere."""
    monkeypatch.delitem(sys.modules, "virtstatd.sinks.kafka", raising=False)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    for command in (["help", "kafka"], ["sinks", "kafka"], ["config", "kafka"]):
        done = asked(*command)
        assert (done.exit_code, done.stdout) == (1, "")
        assert re.search(
            r"needs the Python module aiokafka, which is not installed; \S", done.stderr
        )


def test_nothing_near():
    """A word that resembles nothing gets the way to the list."""
    assert asked("help", "qqqq").stderr == "no topic 'qqqq', `virtstatd help` lists the topics\n"


def test_a_terminal_has_bold_names():
    """In a terminal of 80 columns the names are bold, and no line is broken by its edge."""
    with terminal("help", "budget", columns=80, lines=40) as seen:
        assert seen.ended() == 0
        lines = [line for line in seen.lines if line]
        assert (
            lines
            == laid_out(exact("budget"), 80)
            .replace("\x1b[1m", "")
            .replace("\x1b[0m", "")
            .replace("\n\n", "\n")
            .splitlines()
        )
        assert b"\x1b[1mhost_cpu_percent" in seen.drawn


def test_parts_of_the_configuration():
    """`virtstatd config` prints parts that can be copied, and names what does not exist."""
    assert asked("config", "kafka").stdout.startswith("## Produce")
    assert "[poll.extra]" in asked("config", "poll", "log").stdout
    wrong = asked("config", "kafak")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr == "no table [kafak]; unknown sink type 'kafak', did you mean kafka?\n"


def test_fields_of_a_group():
    """The name of a group finds its fields, also where no field has it in its name."""
    known = shipped()
    for group in {line.group for line in known.fields}:
        assert {line.group for line in known.listed(group)} >= {group}


def test_topics_have_a_word_about_them():
    """Each guide of the list has a few words beside its name."""
    entries = [each for each in topics() if isinstance(each, Explained)]
    assert {each.term for each in entries} == WANTED
    assert all(each.facts for each in entries)

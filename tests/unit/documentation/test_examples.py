"""What the READMEs show can be copied: configurations, queries and commands."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from support.markdown import blocks, commands, text_of
from support.servers import needs
from virtstatd.commands.cli import main
from virtstatd.commands.reference import TOP
from virtstatd.config.file import parse_config
from virtstatd.runtime.events import EVENTS
from virtstatd_simulator.command import simulate


CONFIGURATIONS = [(at, text) for at, text in blocks("toml") if not at.startswith("tests/template_")]
QUERIES = list(blocks("promql"))
SHOWN = sorted({line for _, line in commands("virtstatd")})

PLACES = {"FILE": "config/virtstatd.toml", "NAME": "jsonl", "TOPIC": "steal", "WORD": "libvirt"}
"""What stands for the words in capitals that a text shows."""

RUN_HERE = ("check", "config", "events", "fields", "help", "sinks", "spool list")
"""Commands that need neither root nor network nor a hypervisor."""

RUN_BY = {
    "demo": "integration/test_demo.py",
    "doctor": "integration/test_doctor.py",
    "once": "integration/test_cli.py",
    "partitions": "lab/test_local_partitions.py",
    "password": "unit/serving/test_passwords.py",
    "run": "integration/test_cli.py",
    "spool drain": "integration/test_spool_command.py",
    "spool remove": "integration/test_spool_command.py",
    "status": "lab/test_what_hurts.py",
    "top": "lab/test_what_hurts.py",
}
"""Tests that run the other ones."""


@pytest.mark.parametrize(("at", "text"), CONFIGURATIONS, ids=[at for at, _ in CONFIGURATIONS])
def test_each_configuration_is_good(at: str, text: str):
    """What a file shows of a configuration passes the check."""
    parse_config(text, at)


@needs("promtool")
def test_queries_are_good(tmp_path: Path):
    """What the files show of PromQL is understood by Prometheus."""
    queries = [each for _, block in QUERIES for each in block.split("\n\n")]
    rules = [{"record": f"q:{number}", "expr": each} for number, each in enumerate(queries)]
    file = tmp_path / "rules.json"  # which is YAML
    file.write_text(json.dumps({"groups": [{"name": "documentation", "rules": rules}]}))

    assert queries
    subprocess.run(["promtool", "check", "rules", file], check=True, capture_output=True)


def typed(line: str) -> list[str]:
    """Return the arguments of a command as a person would type them."""
    words = shlex.split(line.split(" | ", maxsplit=1)[0], comments=True)[1:]
    return [str(TOP / PLACES[word]) if word == "FILE" else PLACES.get(word, word) for word in words]


def found(arguments: list[str]) -> tuple[str, click.Command, list[str]]:
    """Return the command that is meant, with its name and what follows."""
    command: click.Command = main
    name = ""
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        each = command.get_command(click.Context(command), arguments[0])
        assert each, f"there is no command {arguments[0]}"
        command, name, arguments = each, f"{name} {arguments[0]}".strip(), arguments[1:]
    return name, simulate if name == "simulate" else command, arguments


@pytest.mark.parametrize("line", SHOWN)
def test_each_command_is_one(line: str):
    """Commands, their options and arguments are real ones."""
    name, command, arguments = found(typed(line))
    if not isinstance(command, click.Group) and arguments:
        command.make_context(name, arguments, resilient_parsing="--help" in arguments)


@pytest.mark.parametrize("line", SHOWN)
def test_each_command_is_run(line: str, tmp_path: Path):
    """What can be run without root, network and hypervisor is run; another test runs the rest."""
    arguments = typed(line)
    name, command, _ = found(arguments)
    if name in RUN_HERE:
        done = CliRunner(env={"STATE_DIRECTORY": str(tmp_path)}).invoke(main, arguments)
        assert done.exit_code == 0, done.output
    elif not isinstance(command, click.Group) and name != "simulate":
        assert name.split()[0] in text_of(TOP / "tests" / RUN_BY[name])


@pytest.mark.parametrize("line", sorted({line for _, line in commands("make")}))
def test_each_target_of_make_is_one(line: str):
    """Targets are in the Makefile, and so are variables that they take."""
    makefile = text_of(TOP / "Makefile")
    for word in shlex.split(line)[1:]:
        variable, equals, _ = word.partition("=")
        pattern = rf"^{variable} \?=" if equals else rf"^{word}:"
        assert re.search(pattern, makefile, re.MULTILINE), word


def test_each_module_that_is_run_exists():
    """`python -m NAME` names a module."""
    for at, line in commands("python", ".venv/bin/python"):
        _, *words = shlex.split(line)
        if words:
            assert words[0] == "-m", at
            assert importlib.util.find_spec(words[1]), at


def test_each_event_that_is_looked_for_exists():
    """`journalctl -g` looks for events that the agent logs."""
    for at, line in commands("journalctl"):
        for word in re.findall(r"-g (\S+)", line):
            assert word == "EVENT" or any(name.startswith(word) for name in EVENTS), at

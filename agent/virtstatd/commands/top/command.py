"""The command `virtstatd top`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from virtstatd.commands.api import AgentApi, ApiError, Endpoint, Unreachable
from virtstatd.commands.options import agent_options
from virtstatd.commands.top.frame import table_rows
from virtstatd.commands.top.screen import draws, fits_ascii_only, print_frame, show
from virtstatd.commands.top.source import Answers, looked, wanted
from virtstatd.commands.top.state import Shown, TopView


DOCUMENTS: Final = ("host", "findings", "guests", "agent")
ONCE_HEIGHT: Final = 100_000
"""A page without an end: all guests are printed."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@agent_options
@click.option(
    "--interval",
    type=click.FloatRange(0.5, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two polls; below 3 an agent's live stream is followed instead.",
)
@click.option("--sort", default="", help="Column to sort by, `-` before it for the largest first.")
@click.option("--filter", "words", default="", help="Filter words, as in `steal>5 project:x`.")
@click.option("--alone", is_flag=True, help="Use no agent: run the collectors here, read only.")
@click.option("--once", is_flag=True, help="Print what hurts and all guests once, as text.")
@click.option("--json", "as_json", is_flag=True, help="Print the documents once, as JSON.")
def top(
    endpoint: Endpoint,
    path: Path | None,
    interval: float,
    sort: str,
    words: str,
    *,
    elsewhere: bool,
    alone: bool,
    once: bool,
    as_json: bool,
) -> None:
    """
    Show the host, its findings and its guests, second by second.

    The numbers are those of a running agent: that of the configuration, of `--host`, or at `--url`.
    Where none runs on this host, and with `--alone`, its collectors run within this command.
    """
    terminal = os.environ.get("TERM", "")
    ascii_only = fits_ascii_only(terminal, sys.stdout.encoding or "ascii")
    view = TopView(sort=sort, filter=words, ascii_only=ascii_only)
    try:
        with _answering(endpoint, path, elsewhere, alone, once=once or as_json) as source:
            if as_json:
                click.echo(json.dumps({each: source.document(each) for each in DOCUMENTS}))
            elif once:
                _print(source, view, ONCE_HEIGHT)
            elif sys.stdin.isatty() and sys.stdout.isatty() and draws(terminal):
                show(source, view, interval)
            else:
                _print_on(source, view, interval)
    except ApiError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        pass


@contextmanager
def _answering(
    endpoint: Endpoint,
    path: Path | None,
    elsewhere: bool,  # noqa: FBT001 - the command's
    alone: bool,  # noqa: FBT001 - as above
    *,
    once: bool,
) -> Iterator[Answers]:
    """Have an agent answer, or the collectors where none runs here and none was named."""
    source: Answers = AgentApi(endpoint)
    if not alone:
        try:
            source.document("host")
        except Unreachable:
            if elsewhere:
                raise
            alone = True
        except ApiError:
            if once:
                raise
    if not alone:
        try:
            yield source
        finally:
            source.close()
        return
    from virtstatd.commands.top.alone import Alone  # libvirt, and most of the agent
    from virtstatd.config.file import read_config
    from virtstatd.errors import ConfigError
    from virtstatd.runtime import logs

    try:
        config = read_config(path).config
    except ConfigError as error:
        raise ApiError("\n".join(error.faults)) from error
    with logs.opened("error", config.log.format) as opened:
        source = Alone(config, opened.log, once=once)
        try:
            yield source
        finally:
            source.close()


def _print_on(source: Answers, view: TopView, interval: float) -> None:
    """Print a frame each interval, where nothing can be drawn."""
    lines = shutil.get_terminal_size().lines
    while True:
        _print(source, view, lines)
        click.echo()
        time.sleep(interval)


def _print(source: Answers, view: TopView, height: int) -> None:
    width = shutil.get_terminal_size((100, 24)).columns
    seen = looked(source, wanted(view, width, table_rows(view, height)), Shown(where=source.where))
    if not seen.host:
        raise ApiError(seen.fault)
    click.echo(print_frame(seen, view, width, height))

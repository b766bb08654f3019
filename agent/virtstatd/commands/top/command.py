"""The command `virtstatd top`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import Any, Final

import click

from virtstatd.commands.api import AgentApi, ApiError, Endpoint
from virtstatd.commands.options import agent_options
from virtstatd.commands.top.frame import table_rows
from virtstatd.commands.top.screen import draws, fits_ascii_only, print_frame, show
from virtstatd.commands.top.source import Answers, looked, wanted
from virtstatd.commands.top.state import Shown, View


DOCUMENTS: Final = ("host", "findings", "guests", "agent")
ONCE_HEIGHT: Final = 100_000
"""A page without an end: all guests are printed."""


@click.command()
@agent_options
@click.option("--interval", type=click.FloatRange(0.5, 3600), default=1.0, show_default=True)
@click.option("--sort", default="", help="Column to sort by, `-` before it for the largest first.")
@click.option("--filter", "words", default="", help="Filter words, as in `steal>5 project:x`.")
@click.option("--once", is_flag=True, help="Print what hurts and all guests once, as text.")
@click.option("--json", "as_json", is_flag=True, help="Print the documents once, as JSON.")
def top(
    endpoint: Endpoint,
    interval: float,
    sort: str,
    words: str,
    *,
    once: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """
    Show the host, what hurts and the guests in the terminal, second by second.

    A running agent is asked: the one of the configuration, of `--host`, or at `--url`.
    """
    source: Answers = AgentApi(endpoint)
    terminal = os.environ.get("TERM", "")
    ascii_only = fits_ascii_only(terminal, sys.stdout.encoding or "ascii")
    view = View(sort=sort, filter=words, ascii_only=ascii_only)
    try:
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
    finally:
        source.close()


def _print_on(source: Answers, view: View, interval: float) -> None:
    """Print a frame each interval, where nothing can be drawn."""
    lines = shutil.get_terminal_size().lines
    while True:
        _print(source, view, lines)
        click.echo()
        time.sleep(interval)


def _print(source: Answers, view: View, height: int) -> None:
    width = shutil.get_terminal_size((100, 24)).columns
    seen = looked(source, wanted(view, width, table_rows(view, height)), Shown(where=source.where))
    if not seen.host:
        raise ApiError(seen.fault)
    click.echo(print_frame(seen, view, width, height))

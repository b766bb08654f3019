"""One line that says how far a command is, at a terminal; elsewhere nothing is said."""

from __future__ import annotations

import os
import sys

import click


CLEAR = "\r\x1b[K"


class Progress:
    """Say on standard error what is under way, each time in place of what was said before."""

    def __init__(self, *, wanted: bool = True) -> None:
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        self._shown = wanted and sys.stderr.isatty() and not dumb

    def say(self, what: str) -> None:
        """Say what is under way."""
        if self._shown:
            click.echo(f"{CLEAR}... {what}", nl=False, err=True)

    def clear(self) -> None:
        """Take the line away, before something is printed."""
        if self._shown:
            click.echo(CLEAR, nl=False, err=True)

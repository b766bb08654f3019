"""The command `virtstatd doctor`."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
import uvloop

from virtstatd.commands.doctor.check import Check, check_lines
from virtstatd.commands.doctor.run import all_checks
from virtstatd.commands.progress import Progress
from virtstatd.config.file import DEFAULT_FILE
from virtstatd.runtime import logs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help=f"Configuration file; without it {DEFAULT_FILE}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as a list of JSON.")
def doctor(path: Path | None, *, as_json: bool) -> None:
    """
    Report what the agent can and cannot see here, and what helps.

    Everything is read, nothing is changed; destinations are connected to, and nothing is sent
    there. Exits with 1 if something is missing.
    """
    progress = Progress(wanted=not as_json)
    found: list[Check] = []

    async def run() -> None:
        with logs.opened("error", "auto") as opened:
            async for check in all_checks(path, opened.log, progress.say):
                found.append(check)
                if not as_json:
                    progress.clear()
                    click.echo("\n".join(check_lines(check)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    missing = sum(check.state == "missing" for check in found)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found]))
    else:
        click.echo(f"{missing} missing" if missing else "nothing is missing")
    sys.exit(1 if missing else 0)

"""The command `virtstatd simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virtstatd.errors import StartError
from virtstatd_simulator.guests.flavors import VERSIONS
from virtstatd_simulator.guests.profiles import PROFILES
from virtstatd_simulator.options import MAX_CHURN, MAX_CPUS, MAX_DOMAINS, Options
from virtstatd_simulator.simulator import run


FILE = click.Path(path_type=Path)


def _release(_: click.Context, __: click.Parameter, value: str) -> int:
    return int(value)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--socket", type=FILE, required=True, help="Where clients connect.")
@click.option(
    "--domains", type=click.IntRange(0, MAX_DOMAINS), default=60, help="Guests to generate."
)
@click.option(
    "--profile", type=click.Choice(sorted(PROFILES)), default="mixed", help="Their hardware."
)
@click.option("--seed", type=int, default=1, help="The same seed gives the same guests.")
@click.option(
    "--libvirt",
    type=click.Choice([str(version) for version in VERSIONS]),
    default="9",
    callback=_release,
    help="The libvirt whose statistics there are.",
)
@click.option(
    "--metadata",
    type=click.Choice(["nova", "ovirt", "none"]),
    help="Whose metadata the guests carry, in place of the profile's.",
)
@click.option("--cpus", type=click.IntRange(1, MAX_CPUS), default=64, help="CPUs of the host.")
@click.option("--percpu/--no-percpu", default=True, help="Count CPU time per host CPU.")
@click.option("--readonly", is_flag=True, help="Behave as the read-only socket.")
@click.option("--control", type=FILE, help="A socket for commands at run time, JSON lines.")
@click.option("--script", type=FILE, help='Timed commands, one JSON object with "at" per line.')
@click.option("--replay", type=FILE, help="Records captured from a real daemon, as JSON.")
@click.option(
    "--churn-per-second",
    type=click.FloatRange(0, MAX_CHURN),
    default=0.0,
    help="Guests that end and start.",
)
@click.option(
    "--job-wait-seconds",
    type=click.FloatRange(0, 3600),
    default=30.0,
    help="How long a call waits for a guest that another one holds.",
)
def simulate(**options: Any) -> None:
    """
    Run the simulator alone: a libvirtd on a unix socket whose guests are made up.

    Any client of libvirt can connect to it. The first line of output is a JSON object with the URI
    to open. Ctrl-C ends it.
    """
    try:
        run(Options(**options))
    except StartError as error:
        raise click.ClickException(str(error)) from error

"""The command `virtstatd simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virtstatd.errors import StartError
from virtstatd_simulator.faults.verbs import rows
from virtstatd_simulator.guests.flavors import DEFAULT_RELEASE, MAX_GUESTS, VERSIONS
from virtstatd_simulator.guests.profiles import PROFILES
from virtstatd_simulator.options import MAX_CPUS, Options
from virtstatd_simulator.simulator import run


FILE = click.Path(path_type=Path)
PROTOCOL = """\
The socket of --control takes one JSON object per line and answers each by one. {"do": "hang",
"count": 2} gets {"ok": true, "domains": [...]}, a command that cannot be carried out {"ok": false,
"error": "..."} and changes nothing. Verbs and their arguments are:"""


class Simulate(click.Command):
    """Explains the control protocol below the options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the protocol and its verbs."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Control"):
            formatter.write_text(PROTOCOL)
            formatter.write_paragraph()
            formatter.write_dl(list(rows()))


def _release(_: click.Context, __: click.Parameter, value: str) -> int:
    return int(value)


@click.command(
    cls=Simulate,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option("--socket", type=FILE, required=True, help="Where clients connect.")
@click.option(
    "--domains",
    type=click.IntRange(0, MAX_GUESTS),
    default=60,
    help="Number of simulated guests.",
)
@click.option(
    "--profile", type=click.Choice(sorted(PROFILES)), default="mixed", help="Their hardware."
)
@click.option("--seed", type=int, default=1, help="The same seed gives the same guests.")
@click.option(
    "--libvirt",
    type=click.Choice([str(version) for version in VERSIONS]),
    default=str(DEFAULT_RELEASE),
    callback=_release,
    help="libvirt version to imitate.",
)
@click.option("--cpus", type=click.IntRange(1, MAX_CPUS), default=64, help="CPUs of the host.")
@click.option("--percpu/--no-percpu", default=True, help="Count CPU time per host CPU.")
@click.option("--control", type=FILE, help="A socket for commands at run time, see below.")
@click.option("--replay", type=FILE, help="Records captured from a real daemon, as JSON.")
@click.option(
    "--job-wait-seconds",
    type=click.FloatRange(0, 3600),
    default=30.0,
    help="How long a call waits for a guest that another call holds.",
)
def simulate(**options: Any) -> None:
    """
    Run a libvirtd with simulated guests on a unix socket.

    Clients of libvirt can list, describe and poll the guests: virsh, libvirt-python, virtstatd. The
    first line of output is a JSON object with the URI to open. Ctrl-C ends it.
    """
    try:
        run(Options(**options))
    except StartError as error:
        raise click.ClickException(str(error)) from error

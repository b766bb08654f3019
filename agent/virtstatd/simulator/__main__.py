"""`python -m virtstatd.simulator`: the simulator alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from virtstatd.errors import StartError
from virtstatd.simulator.flavors import VERSIONS
from virtstatd.simulator.options import Options
from virtstatd.simulator.profiles import PROFILES
from virtstatd.simulator.simulator import run


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, simulate, and give the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m virtstatd.simulator", description="A libvirtd stand-in on a unix socket."
    )
    add = parser.add_argument
    add("--socket", type=Path, required=True, help="where clients connect")
    add("--domains", type=int, default=60, help="how many guests to generate")
    add("--profile", choices=sorted(PROFILES), default="mixed", help="their hardware")
    add("--seed", type=int, default=1, help="the same seed gives the same guests")
    add("--libvirt", type=int, choices=sorted(VERSIONS), default=9, help="whose statistics")
    add("--metadata", choices=("nova", "ovirt", "none"), help="in place of the profile's")
    add("--cpus", type=int, default=64, help="CPUs of the host")
    add("--no-percpu", dest="percpu", action="store_false", help="no CPU time per host CPU")
    add("--readonly", action="store_true", help="behave as the read-only socket")
    add("--control", type=Path, help="a socket for commands at run time, JSON lines")
    add("--script", type=Path, help='timed commands, one JSON object with "at" per line')
    add("--replay", type=Path, help="records captured from a real daemon, as JSON")
    add("--churn-per-second", type=float, default=0.0, help="guests that end and start")
    add("--job-wait-seconds", type=float, default=30.0, help="how long calls wait for a guest")
    try:
        run(Options(**vars(parser.parse_args(argv))))
    except StartError as error:
        sys.stderr.write(f"virtstatd simulate: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

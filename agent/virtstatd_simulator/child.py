"""
The simulator as a child of another program: `python -m virtstatd_simulator.child DOMAINS RELEASE`.

It owns the directory of its socket and ends with its standard input, so that nothing is left of it
however its parent ends. Its first line is a JSON object, with the `uri` to open or an `error`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from virtstatd.errors import StartError
from virtstatd_simulator.guests.flavors import Release
from virtstatd_simulator.options import Options
from virtstatd_simulator.simulator import run


def simulate(domains: int, release: Release) -> int:
    """Simulate until standard input ends; give the exit status."""
    try:
        with tempfile.TemporaryDirectory(prefix="virtstatd-demo-") as folder:
            options = Options(socket=Path(folder, "socket"), domains=domains, libvirt=release)
            run(options, until=sys.stdin.fileno())
    except BrokenPipeError:  # who started it has gone before it was ready
        return 1
    except (StartError, OSError) as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(simulate(int(sys.argv[1]), int(sys.argv[2])))  # type: ignore[arg-type]  # checked

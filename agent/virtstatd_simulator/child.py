"""
The simulator as a child of another program: `python -m virtstatd_simulator.child DOMAINS`.

It simulates the newest libvirt in a directory of its own and ends with its standard input, so that
it never outlives its parent. Its first line is a JSON object, with the `uri` to open or an `error`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from virtstatd.errors import StartError
from virtstatd_simulator.guests.flavors import VERSIONS
from virtstatd_simulator.options import Options
from virtstatd_simulator.simulator import run


def simulate_for_parent(domains: int) -> int:
    """Simulate until standard input ends; return the exit status."""
    try:
        with tempfile.TemporaryDirectory(prefix="virtstatd-demo-") as folder:
            options = Options(socket=Path(folder, "socket"), domains=domains, libvirt=max(VERSIONS))
            run(options, until=sys.stdin.fileno())
    except BrokenPipeError:  # the parent has gone before this was ready
        return 1
    except (StartError, OSError) as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(simulate_for_parent(int(sys.argv[1])))

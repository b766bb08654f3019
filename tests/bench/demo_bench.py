"""
How long a newcomer waits: seconds from `virtstatd demo` to numbers that move on the page.

Run with `PYTHONPATH=agent:tests python tests/bench/demo_bench.py [JSON]`; the page is read twice,
so the poll's interval of a second is part of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median


sys.path.insert(0, str(Path(__file__).parents[1]))

from support.demo import demonstrated


RUNS = 5


def main() -> None:
    """Measure, print a table, and write the same as JSON where wanted."""
    seconds = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder, demonstrated(Path(folder)) as demo:
            seconds.append(round(demo.wait_until_moving(), 2))
    result = {"median_seconds": median(seconds), "max_seconds": max(seconds), "runs": RUNS}
    for name, value in result.items():
        sys.stdout.write(f"{name:<24}{value:>12}\n")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()

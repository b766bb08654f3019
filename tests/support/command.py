"""The command, as a person types it."""

from __future__ import annotations

import subprocess
import sys


def virtstatd(*args: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, *python, "-m", "virtstatd", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

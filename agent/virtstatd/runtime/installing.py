"""How a library that is missing is installed, where this agent runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final


PIP: Final = Path(sys.prefix, "bin/pip")
"""The `pip` of the environment in which the agent runs, which is rarely the one on the path."""


def installing(package: str) -> str:
    """Return the command that installs an extra of the agent, or another package."""
    if package.startswith("virtstatd[") and not PIP.exists():  # as in the Debian package
        if sys.prefix == sys.base_prefix:  # on Debian's own python3-* packages
            return "the package that `make deb` builds has it"
        return "apt install ./virtstatd-sinks_*.deb"
    return f"{PIP} install {shlex.quote(package)}"

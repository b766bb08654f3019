"""
What the matrix needs, made while other tests run: its Debian roots and the packages.

`python -m matrix.support.ahead FOLDER` makes all. Each part is made once, by the first that asks
for it, and others wait for it: the tests are the same without this program, and take longer.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from matrix.support.debian import HYPERVISOR, PACKAGE, SUITES, built
from matrix.support.generation import CHECKOUT, ROOTS
from support.roots import Root, RootError


IDLE = ("setpriv", "--pdeathsig", "KILL", "chrt", "--idle", "0")  # the tests come first


def packaged(suite: str, folder: Path) -> Path:
    """Return the agent's package for a suite, below a folder; that of more sinks is beside it."""
    target = folder / suite
    target.mkdir(exist_ok=True)
    with (folder / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return next(target.glob(PACKAGE), None) or built(ROOTS[suite].made(), target)


@contextmanager
def made_ahead() -> Iterator[Path]:
    """Yield the folder of the packages, into which a process of low priority puts them."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [*IDLE, sys.executable, "-m", __spec__.name, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # the test that needs what fails fails as well, and says why
            env=os.environ | {"PYTHONPATH": str(CHECKOUT / "tests")},
        )
        try:
            yield Path(folder)
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Make the roots and packages, in the order in which the tests need them."""
    folder = Path(sys.argv[1])
    for root in ROOTS.values():
        with suppress(RootError):
            root.made()
    for suite in SUITES:
        with suppress(RootError, subprocess.CalledProcessError):
            packaged(suite, folder)
            Root(suite, HYPERVISOR).made()


if __name__ == "__main__":
    main()

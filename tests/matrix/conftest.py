"""Three generations of libvirt, one after the other, as fixtures of this directory's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.support.fixtures import pytest_runtest_setup, traces
from lab.support.machine import LabError
from lab.support.namespaces import Trace
from matrix.support.ahead import made_ahead
from matrix.support.generation import AHEAD, CHECKOUT, ROOTS, Generation
from support.roots import RootError, Unreachable


__all__ = ["pytest_runtest_setup", "traces"]

TIMEOUT_SECONDS = 1500  # a root may have to be made first
PACKAGES = pytest.StashKey[Path]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of a generation the time to make it, and name what they need."""
    for item in items:
        if "generation" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))
            item.add_marker(pytest.mark.needs("root", "mmdebstrap"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to make the roots and packages where other tests run before those that need them."""
    mine = [item for item in session.items if item.path.is_relative_to(Path(__file__).parent)]
    others = len(session.items) - len(mine)
    if mine and others and os.geteuid() == 0 and shutil.which("mmdebstrap"):
        ahead = ExitStack()
        session.config.add_cleanup(ahead.close)
        session.config.stash[PACKAGES] = ahead.enter_context(made_ahead())


@pytest.fixture(scope="session")
def packages(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this checkout's packages."""
    return pytestconfig.stash.get(PACKAGES, None) or tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the files of the agent's wheel, with the names of its sinks."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT, capture_output=True, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as packed:
        packed.extractall(folder / "files")
    return folder / "files"


@pytest.fixture(scope="session", params=ROOTS)
def generation(
    request: pytest.FixtureRequest, traces: list[Trace], wheel: Path
) -> Iterator[Generation]:
    """One Debian's libvirt and QEMU with guests; leave them as they are."""
    suite: str = request.param
    try:
        lab = Generation(suite, wheel)
    except Unreachable as error:
        pytest.skip(str(error))
    except RootError as error:
        (pytest.skip if suite == AHEAD else pytest.fail)(str(error))
    try:
        with lab:
            traces.append(lab.trace)
            lab.fill()
            yield lab
    except LabError as error:
        pytest.fail(f"{suite}: {error}", pytrace=False)

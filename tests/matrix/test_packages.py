"""The Debian packages on clean hypervisors, from the first installation to the last trace."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from matrix.conftest import TIMEOUT_SECONDS
from matrix.support import inbox
from matrix.support.debian import (
    CONFFILE,
    HYPERVISOR,
    RECIPE,
    SUITES,
    Host,
    built,
    hypervisor,
    needed,
    repacked,
    with_a_later_format,
    with_another_default,
)
from support.roots import Root, Unreachable
from system.support.machine import may_boot, until


pytestmark = [
    pytest.mark.needs("root", "mmdebstrap", "systemd-nspawn", "dpkg-deb"),
    pytest.mark.skipif(not may_boot(), reason="this kernel lets nobody make namespaces"),
    pytest.mark.timeout(TIMEOUT_SECONDS),
]

UNIT = "virtstatd.service"
PAGE = "http://127.0.0.1:9766/metrics"
READ = f"import urllib.request as u; print(u.urlopen({PAGE!r}).read().decode())"
SPOOLED = """
[[sink]]
type = "prometheus"

[[sink]]
type = "http"
name = "far"
spool_bytes = 10_000_000
"""
KAFKA = """
[[sink]]
type = "kafka"
"""
SPOOL = "/var/lib/virtstatd/spool/far"


@pytest.fixture(scope="module", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Return a release of Debian."""
    return str(request.param)


@pytest.fixture(scope="module")
def package(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build this checkout's package."""
    try:
        return built(Root(suite, needed()).made(), tmp_path_factory.mktemp(suite))
    except Unreachable as error:
        pytest.skip(str(error))


@pytest.fixture
def host(suite: str, package: Path) -> Iterator[Host]:
    """Boot a clean hypervisor with a guest that runs, as Debian installs and configures it."""
    with hypervisor(Root(suite, HYPERVISOR).made(), package.parent) as booted:
        yield booted


def page(host: Host) -> str:
    """Return the page of metrics, nothing while there is none."""
    return host.run("python3", "-c", READ, check=False)


def oldest_received(host: Host) -> float:
    """Return the time of the oldest number that has arrived, infinity while there is none."""
    lines = host.run("cat", "/root/received", check=False).splitlines()
    times = [datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines]
    return min(times, default=float("inf"))


def segments(host: Host) -> list[str]:
    """Return the files of the spool that hold batches."""
    return host.run("find", SPOOL, "-name", "*.segment", check=False).split()


def test_a_packages_life(suite: str, package: Path, host: Host):
    """
    Installed, upgraded, downgraded and purged, nothing of the administrator's is lost or left.

    The service runs as soon as the package is there. An upgrade keeps an edited configuration and
    what waits in a spool. A downgrade names and keeps what it cannot read. A purge leaves nothing.
    """
    release = package.name.split("~")[1].split("_")[0]
    before = repacked(package, f"0.0.1-1~{release}", with_another_default)
    later = repacked(package, f"99.0-1~{release}", with_a_later_format)
    files = host.files()

    begun = time.monotonic()
    host.install(before)
    until(lambda: "first-guest" in page(host), "the guest on the page")
    print(f"{suite}: {time.monotonic() - begun:.1f} s from `apt install` to the guest on the page")
    assert "with its C library" in host.run("virtstatd", "--version")
    shown = host.machine.show(UNIT)
    assert (shown["ActiveState"], shown["UnitFileState"]) == ("active", "enabled")
    assert (shown["DynamicUser"], shown["NRestarts"]) == ("yes", "0")

    host.machine.write("/root/kafka.toml", KAFKA)
    refused = host.machine.run("virtstatd", "check", "/root/kafka.toml", check=False)
    assert refused.returncode
    assert "apt install virtstatd-sinks" in refused.stderr

    host.machine.write(CONFFILE, SPOOLED)
    host.run("systemctl", "restart", UNIT)
    until(lambda: segments(host), "batches in the spool")
    process = host.machine.show(UNIT)["MainPID"]
    upgraded = time.time()
    host.install(package)
    assert host.run("cat", CONFFILE) == SPOOLED
    assert host.machine.show(UNIT)["MainPID"] not in ("0", process)
    host.machine.write("/root/inbox.py", Path(inbox.__file__).read_text())
    host.run("systemd-run", "--unit=inbox", "python3", "/root/inbox.py", "/root/received")
    host.run("systemctl", "restart", UNIT)  # or it waits before it tries again
    until(lambda: oldest_received(host) < upgraded, "what waited before the upgrade")
    host.run("systemctl", "stop", "inbox")

    host.install(later)
    until(lambda: segments(host), "batches in the later format")
    host.install(package)
    until(lambda: "spool.kept" in "\n".join(host.machine.journal(UNIT)), "the warning")
    kept = f"{SPOOL}.format-2"
    assert host.run("find", kept, "-name", "*.segment").split()
    assert "far.format-2: " in host.run("virtstatd", "spool", "list")

    host.apt("purge", "virtstatd")
    left = {each for each in host.files() - files if not each.startswith(("/root/", "/var/cache/"))}
    assert not {each for each in left if "virtstatd" in each}, left
    assert not host.run("getent", "passwd", "virtstatd", check=False)
    assert "virtstatd" not in host.run("systemctl", "list-units", "--all", "--plain")
    assert "virtstatd" not in host.run("systemctl", "list-unit-files")


@pytest.mark.soak
def test_debians_own_libraries_are_enough(tmp_path: Path):
    """On Debian 13's own python3-* packages the service starts, and has the guest on its page."""
    own = {"SYSTEM_PYTHON": "1"}
    root = Root("trixie", (*HYPERVISOR, *needed(**own))).made()
    package = built(root, tmp_path, **own)
    with hypervisor(root, tmp_path) as host:
        host.install(package)
        until(lambda: "first-guest" in page(host), "the guest on the page")
        assert "with its C library" in host.run("virtstatd", "--version")
        assert host.machine.show(UNIT)["NRestarts"] == "0"
        host.apt("purge", "virtstatd")


@pytest.mark.soak
def test_a_wheelhouse_needs_no_index(tmp_path: Path):
    """Without a network, pip installs the wheelhouse by its hashes, and it has every sink."""
    wheels, environment = tmp_path / "wheels", tmp_path / "environment"
    subprocess.run([RECIPE.parent / "wheelhouse", wheels], check=True)
    subprocess.run(["/usr/bin/python3", "-m", "venv", environment], check=True)
    alone = ("unshare", "--net")
    pip = (f"{environment}/bin/pip", "install", "--quiet", "--no-index", "--require-hashes")
    subprocess.run(
        [*alone, *pip, f"--find-links={wheels}", f"--requirement={wheels}/requirements.txt"],
        env={"PATH": os.defpath},
        check=True,
    )
    asked = [*alone, f"{environment}/bin/virtstatd", "sinks", "parquet"]
    assert "keep" in subprocess.check_output(asked, text=True)

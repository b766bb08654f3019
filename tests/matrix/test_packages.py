"""The Debian packages on clean hypervisors, from the first installation to the last trace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from matrix.conftest import TIMEOUT_SECONDS
from matrix.support import inbox
from matrix.support.ahead import packaged
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
    sinks_of,
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
ARCHIVED = """
[[sink]]
type = "parquet"
flush_seconds = 3600
free_bytes = 0
"""
SPOOL = "/var/lib/virtstatd/spool/far"
ARCHIVE = "/var/lib/virtstatd/archive"
PYTHON = "/usr/lib/virtstatd/bin/python3"
JOURNALED = """
import pathlib, sys
from virtstatd.archive.journal import JournalReader
print(*{batch.taken_at for each in sys.argv[1:] for batch in JournalReader(pathlib.Path(each))})
"""
ARCHIVED_TIMES = f"""
import pyarrow.dataset
rows = pyarrow.dataset.dataset({ARCHIVE!r}, format="parquet").to_table(["time"])
print(*rows["time"].cast("int64").unique().to_pylist())
"""

MORE = {
    "kafka": "",
    "nats": "",
    "mqtt": "",
    "postgres": "",
    "otlp": "",
    "otlp_grpc": 'protocol = "grpc"',
    "parquet": "",
    "remote_write": "",
}
"""Sinks whose libraries are in virtstatd-sinks, by name, with an option that needs one."""

ASKED = "".join(
    f"[[sink]]\nname = {name!r}\ntype = {name.removesuffix('_grpc')!r}\n{option}\n"
    for name, option in MORE.items()
)


@pytest.fixture(scope="module", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Return a release of Debian."""
    return str(request.param)


@pytest.fixture(scope="module")
def package(suite: str, packages: Path) -> Path:
    """Return this checkout's package."""
    try:
        return packaged(suite, packages)
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


def archived(host: Host) -> set[int]:
    """Return the times of all numbers in the finished files of the archive, in nanoseconds."""
    return set(map(int, host.run(PYTHON, "-c", ARCHIVED_TIMES, check=False).split()))


def journals(host: Host) -> list[str]:
    """Return the journals of the archive that hold batches."""
    return host.run("find", ARCHIVE, "-name", ".*.segment", "-size", "+1k", check=False).split()


def refused(host: Host) -> str:
    """Return what `check` has against sinks that need more libraries."""
    host.machine.write("/root/more.toml", ASKED)
    return host.machine.run("virtstatd", "check", "/root/more.toml", check=False).stderr


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
    manual = re.findall(r"man:(\S+)\((\d)\)", shown["Documentation"])
    assert len(manual) == len(shown["Documentation"].split())
    host.run("ls", *(f"/usr/share/man/man{each}/{name}.{each}.gz" for name, each in manual))

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

    purged(host, files, "virtstatd")


def test_an_archives_life(package: Path, host: Host):
    """
    The archive is kept through an upgrade, and readable after it; a purge removes it.

    So is its journal, which a killed agent of the version before has left. Its libraries come with
    virtstatd-sinks. Without that package each sink that needs it is refused, and names it.
    """
    release = package.name.split("~")[1].split("_")[0]
    before = repacked(package, f"0.0.1-1~{release}")
    files = host.files()
    host.install(before)
    faults = refused(host).splitlines()
    assert len(faults) == len(MORE)
    assert all(each.endswith("apt install ./virtstatd-sinks_*.deb") for each in faults), faults
    host.install(repacked(sinks_of(package), f"0.0.1-1~{release}"))
    assert "No such file or directory" not in refused(host)

    host.machine.write(CONFFILE, SPOOLED + ARCHIVED)
    host.run("systemctl", "restart", UNIT)
    until(lambda: journals(host), "a journal")
    host.run("systemctl", "restart", UNIT)  # which ends the journal
    until(lambda: archived(host), "a file")
    until(lambda: journals(host), "another journal")
    host.run("systemctl", "kill", "--signal=KILL", UNIT)
    host.run("systemctl", "stop", UNIT)
    whole = archived(host)
    waiting = set(map(int, host.run(PYTHON, "-c", JOURNALED, *journals(host)).split()))
    assert waiting - whole

    host.install(package, sinks_of(package))
    host.run("systemctl", "start", UNIT)
    until(lambda: archived(host) >= whole | waiting, "the journal's numbers in a file")
    assert "archive.damaged" not in "\n".join(host.machine.journal(UNIT))

    purged(host, files, "virtstatd", "virtstatd-sinks")


def purged(host: Host, before: set[str], *names: str) -> None:
    """Purge packages; nothing is left but what was there before."""
    host.apt("purge", *names)
    new = host.files() - before
    left = {each for each in new if not each.startswith(("/root/", "/var/cache/"))}
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

"""The Debian packages of this checkout, and clean Debian hosts to install them on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.roots import Root
from system.support.machine import Machine, booted


CHECKOUT = Path(__file__).parents[3]
RECIPE = CHECKOUT / "systemd/debian"
SUITES = ("bookworm", "trixie")
NAME = "virtstatd"
CONFFILE = "/etc/virtstatd/virtstatd.toml"
SEGMENT = "usr/lib/virtstatd/lib/python3*/site-packages/virtstatd/pipeline/spool/segment.py"

HYPERVISOR = (
    *("systemd", "systemd-sysv", "dbus", "python3", "procps", "libnss-systemd"),
    *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86"),
)
"""A hypervisor as Debian installs it; it has no compiler, no pip, and what virtstatd depends on."""

INSTALL_SECONDS = 300


def host(suite: str) -> Path:
    """Return the folder of a clean hypervisor."""
    return Root(suite, HYPERVISOR).made()


def built(suite: str, folder: Path, *, sinks: bool = False) -> Path:
    """Build the packages for a suite as `make deb` does, without network; return the agent's."""
    needed = subprocess.check_output([RECIPE / "needed"], text=True).split()
    profiles = "" if sinks else "pkg.virtstatd.nosinks"
    root = Root(suite, tuple(needed)).made()
    subprocess.run(
        [str(RECIPE / "build"), str(folder / "work"), str(root)],
        env=os.environ
        | {"DEB_BUILD_OPTIONS": "noautodbgsym", "DEB_BUILD_PROFILES": profiles}
        | {"PYTHONPATH": ""},
        check=True,
        timeout=INSTALL_SECONDS * 3,
    )
    return next(folder.glob(f"{NAME}_*.deb"))


def repacked(package: Path, version: str, change: Callable[[Path], None]) -> Path:
    """Return a package with another version and changed files; its byte code goes."""
    files = package.parent / version
    subprocess.run(["dpkg-deb", "--raw-extract", package, files], check=True)
    control = files / "DEBIAN/control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"Version: {version}\n" if each.startswith("Version:") else each for each in lines)
    )
    change(files)
    made = package.parent / f"{NAME}_{version}.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(files), str(made)]
    subprocess.run(build, check=True, capture_output=True)
    return made


def with_another_default(files: Path) -> None:
    """Change what the shipped configuration says, so that dpkg asks about an edited one."""
    with (files / CONFFILE[1:]).open("a") as file:
        file.write("\n## An option of another version.\n")


def with_a_later_format(files: Path) -> None:
    """Have the spool written in a format that this version does not know."""
    module = next(files.glob(SEGMENT))
    text = module.read_text()
    assert "\nVERSION = 1\n" in text
    module.write_text(text.replace("\nVERSION = 1\n", "\nVERSION = 2\n"))
    for compiled in module.parent.glob("__pycache__/segment.*"):
        compiled.unlink()


class Host:
    """A booted hypervisor, asked as its administrator does."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command, and return what it writes."""
        return self.machine.run(*command, check=check).stdout

    def apt(self, *arguments: str) -> str:
        """Run apt-get, which has no network and answers no question."""
        options = ("--yes", "--quiet=2", "--option=Dpkg::Options::=--force-confold")
        quiet = "DEBIAN_FRONTEND=noninteractive"
        return self.run("env", quiet, "apt-get", *options, *arguments)

    def install(self, package: Path) -> None:
        """Install a package of the folder /packages, whichever version is there."""
        self.apt("install", "--allow-downgrades", f"/packages/{package.name}")

    def files(self) -> set[str]:
        """Return the paths of all files but those that are apt's, dpkg's and systemd's own."""
        kept = ("/proc", "/sys", "/run", "/tmp", "/packages", "/var/log", "/var/lib/dpkg")
        skip = [part for each in kept for part in ("-path", each, "-prune", "-o")]
        return set(self.run("find", "/", *skip, "-print").splitlines())


@contextmanager
def hypervisor(suite: str, packages: Path) -> Iterator[Host]:
    """Boot a clean hypervisor that has a folder of packages as /packages."""
    with booted({packages: "/packages"}, root=host(suite)) as machine:
        yield Host(machine)

"""The Debian packages of this checkout, and clean Debian hosts to install them on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.roots import ALONE
from system.support.machine import Machine, booted


CHECKOUT = Path(__file__).parents[3]
RECIPE = CHECKOUT / "systemd/debian"
SUITES = ("bookworm", "trixie")
NAME = "virtstatd"
VERSION = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
PACKAGE = f"{NAME}_{VERSION}-*.deb"
CONFFILE = "/etc/virtstatd/virtstatd.toml"
SEGMENT = "usr/lib/virtstatd/lib/python3*/site-packages/virtstatd/pipeline/spool/segment.py"

HYPERVISOR = (
    *("systemd", "systemd-sysv", "dbus", "python3", "procps", "libnss-systemd"),
    *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86"),
)
"""A hypervisor as Debian installs it; it has no compiler, no pip, and what virtstatd depends on."""

GUEST = """
<domain type='qemu'><name>first-guest</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>
  </devices>
</domain>
"""

INSTALL_SECONDS = 300


def needed(**settings: str) -> tuple[str, ...]:
    """Return the packages that a build needs, with these settings of `make deb`."""
    listed = subprocess.check_output([RECIPE / "needed"], env=os.environ | settings, text=True)
    return tuple(listed.split())


def built(root: Path, folder: Path, **settings: str) -> Path:
    """Build the packages in a root as `make deb` does, and return the agent's."""
    options = {"DEB_BUILD_OPTIONS": "noautodbgsym", "DPKG_DEB_COMPRESSOR_TYPE": "none"}
    subprocess.run(
        [*ALONE, str(RECIPE / "build"), str(folder / "work"), str(root)],
        env=os.environ | options | {"PYTHONPATH": ""} | settings,
        check=True,
        timeout=INSTALL_SECONDS * 3,
    )
    shutil.rmtree(folder / "work")
    return next(folder.glob(PACKAGE))


def sinks_of(package: Path) -> Path:
    """Return the package of more sinks that was made with an agent's."""
    return package.with_name(package.name.replace(NAME, f"{NAME}-sinks", 1))


def repacked(package: Path, version: str, change: Callable[[Path], None] | None = None) -> Path:
    """Return a package with another version and changed files; its byte code goes."""
    name, before, architecture = package.stem.split("_")
    files = package.parent / f"{name}-{version}"
    subprocess.run(["dpkg-deb", "--raw-extract", package, files], check=True)
    control = files / "DEBIAN/control"
    control.write_text(control.read_text().replace(before, version))
    if change:
        change(files)
    made = package.parent / f"{name}_{version}_{architecture}.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(files), str(made)]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(files)
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

    def install(self, *packages: Path) -> None:
        """Install packages of the folder /packages, whichever version is there."""
        self.apt("install", "--allow-downgrades", *(f"/packages/{each.name}" for each in packages))

    def files(self) -> set[str]:
        """Return the paths of all files but those that are apt's, dpkg's and systemd's own."""
        kept = ("/proc", "/sys", "/run", "/tmp", "/packages", "/var/log", "/var/lib/dpkg")
        skip = [part for each in kept for part in ("-path", each, "-prune", "-o")]
        return set(self.run("find", "/", *skip, "-print").splitlines())


@contextmanager
def hypervisor(root: Path, packages: Path) -> Iterator[Host]:
    """Boot a clean hypervisor that has a guest, and a folder of packages as /packages."""
    with booted({packages: "/packages"}, root=root) as machine:
        machine.write("/root/guest.xml", GUEST)
        machine.run("virsh", "-c", "qemu:///system", "create", "/root/guest.xml")
        yield Host(machine)

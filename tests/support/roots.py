"""
Clean Debian systems in folders, each made once on a machine for every test that needs one.

    TRIXIE = Root("trixie", packages=("libvirt-daemon", "qemu-system-x86"))
    folder = TRIXIE.made()  # some 30 s at the first call, nothing after that

Runs and checkouts share a root, so nothing may write into it: use it in a mount namespace with an
overlay on top, as `Lab(root=folder)` and `systemd-nspawn --volatile=overlay` do.
With `requirements` and `python3-venv` there is a virtual environment of its Python: `Root.python`.

Roots are kept in /var/cache/virtstatd-tests, or where $VIRTSTATD_TEST_ROOTS says, under a name with
the hash of what they were made from; those that nobody has used for two weeks go when another is
made. They come from the archive and the package index that this machine itself uses. No service is
started, and no list, cache or setting of this machine stays in them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


ROOTS = Path(os.environ.get("VIRTSTATD_TEST_ROOTS", "/var/cache/virtstatd-tests"))
UNUSED_SECONDS = 14 * 86400.0
MAKE_SECONDS = 1200.0
ASK_SECONDS = 120.0

# What is started ends with this process, whatever the reason, and its mounts with it.
ALONE = (
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
    *("--pid", "--mount-proc", "--fork", "--kill-child"),
)
MAKE = (
    *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
    *("--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Check-Valid-Until "false"'),
)
TRACES = (
    *("etc/resolv.conf", "etc/hostname", "etc/apt/sources.list"),
    *("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"),
)
PYTHON = "opt/venv/bin/python"
CHROOT = 'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'
INSTALL = f"""
python3 -m venv /{Path(PYTHON).parents[1]}
exec /{PYTHON} -m pip install --quiet --disable-pip-version-check --no-cache-dir "$@"
"""

# How a program in a root finds a package index: names, pip's settings, certificates.
SETTINGS = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"),
    *("~/.pip/pip.conf", "~/.config/pip/pip.conf"),
)
SETTINGS_NAMED_BY = ("PIP_CONFIG_FILE", "PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


class RootError(Exception):
    """A root cannot be made; the message names it and says why."""


class Unreachable(RootError):  # noqa: N818 - the reason to skip, not a fault
    """The archive does not answer, or this machine names none."""


@dataclass(frozen=True, slots=True)
class Root:
    """A Debian suite with packages and, for its own Python, requirements as pip takes them."""

    suite: str
    packages: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    roots: Path = ROOTS

    @property
    def name(self) -> str:
        """The folder's name: equal for what is made of equal parts, in equal ways."""
        parts = [self.suite, *self.packages, self.requirements, MAKE, INSTALL]
        if self.suite == "sid":  # a suite that changes every day is made anew every week
            parts.append(datetime.now(UTC).strftime("%G week %V"))
        return f"{self.suite}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"

    @property
    def python(self) -> str:
        """The interpreter that has the requirements, as a path inside the root."""
        return f"/{PYTHON}"

    def made(self) -> Path:
        """Return the root's folder, and make it where it is not there; raises `RootError`."""
        folder = self.roots / self.name
        self.roots.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.roots / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it right now
            if not folder.exists():
                _sweep(self.roots)
                self._make(folder)
            os.utime(folder)
        return folder

    def _make(self, folder: Path) -> None:
        missing = [each for each in (MAKE[0], "setpriv", "unshare") if not shutil.which(each)]
        if missing:
            raise RootError(f"{self.suite} needs {', '.join(missing)}: run `make test`")
        archive = mirror()
        _ask(f"{archive}dists/{self.suite}/InRelease", self.suite)
        work = folder.with_suffix(".tmp")
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        include = [f"--include={','.join(self.packages)}"] if self.packages else []
        self._run(*MAKE, *include, self.suite, str(work), archive)
        if self.requirements:
            with ExitStack() as lent:
                for setting in _settings():
                    lent.enter_context(_lent(setting, work))
                inside = ("sh", "-ec", CHROOT, str(work), "sh", "-ec", INSTALL, "sh")
                self._run(*inside, *self.requirements)
        for trace in TRACES:
            (work / trace).unlink(missing_ok=True)
        (work / "etc/apt/sources.list").write_text(f"deb {archive} {self.suite} main\n")
        work.rename(folder)

    def _run(self, *command: str) -> None:
        try:
            done = subprocess.run(
                [*ALONE, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=MAKE_SECONDS,
                check=False,
                env=os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            )
        except subprocess.TimeoutExpired:
            raise RootError(f"{self.suite}: {command[0]} took {MAKE_SECONDS:.0f} s") from None
        if done.returncode:
            said = " / ".join(done.stdout.strip().splitlines()[-5:])
            raise RootError(f"{self.suite}: {command[0]} ended with {done.returncode}: {said}")


def mirror() -> str:
    """Return the archive from which apt has this machine's own suite."""
    release = Path("/etc/os-release").read_text()
    suite = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    wanted = f"{suite[1] if suite else 'none'}/main"
    targets = ("apt-get", "indextargets", "--format", "$(DESCRIPTION)|$(REPO_URI)")
    if shutil.which(targets[0]):
        for line in subprocess.check_output(targets, text=True).splitlines():
            description, _, uri = line.partition("|")
            if wanted in description.split():
                return uri
    raise Unreachable(f"apt has no archive of {wanted} here, so no Debian can be made from it")


def _ask(uri: str, suite: str) -> None:
    """Ask the archive for a file, by apt's own means and settings."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            ["/usr/lib/apt/apt-helper", "download-file", uri, f"{scratch}/asked"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    if done.returncode:
        said = " / ".join((done.stdout + done.stderr).strip().splitlines()[-2:])
        raise Unreachable(f"{suite} cannot be made, the archive does not answer: {said}")


def _settings() -> set[Path]:
    """Return the files of this machine that lead to its package index."""
    names = [*SETTINGS, *(os.environ.get(name, "") for name in SETTINGS_NAMED_BY)]
    return {path for name in names if name and (path := Path(name).expanduser()).is_file()}


@contextmanager
def _lent(file: Path, root: Path) -> Iterator[None]:
    """Have a file of this machine in a root, at the same path, for the length of a block."""
    copy = root / file.relative_to("/")
    before = copy.read_bytes() if copy.exists() else None
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(file.read_bytes())
    try:
        yield
    finally:
        copy.unlink()
        if before is not None:
            copy.write_bytes(before)


def _sweep(roots: Path) -> None:
    """Remove roots that nobody has used for long."""
    for folder in roots.glob("*-*/"):
        if time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
            (roots / f"{folder.stem}.lock").unlink(missing_ok=True)

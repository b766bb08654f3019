"""
A machine with systemd as PID 1: this host's files or a root's, under an overlay, as a container.

It starts in less than a second, writes to memory only, has a network of its own (loopback), and is
gone when the block ends or when this process dies, whatever the reason.
"""

import errno
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar


BOOT_SECONDS = 300
STOP_SECONDS = 100
POLL_SECONDS = 0.05

# Joins the cgroups; then, in a mount namespace that ends with the container, binds its files to a
# folder, which is what an overlay accepts, and hides /run, where systemd-nspawn leaves things.
START = """
for cgroup in $1; do echo $$ > "$cgroup/cgroup.procs"; done; shift
mount --bind "$1" "$0"; shift
mount -t tmpfs -o mode=755 tmpfs /run
exec systemd-nspawn "$@"
"""

T = TypeVar("T")


class Machine:
    """A booted container, known by its PID 1; `since` is where its journal begins to matter."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.since = time.time()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as the container's root, to its end."""
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=BOOT_SECONDS,
            env={"PATH": os.defpath + ":/usr/sbin:/sbin", "LANG": "C.UTF-8"},
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def is_up(self) -> bool:
        """Whether the boot is over; until it is, systemctl itself may fail."""
        return self.run("systemctl", "is-active", "basic.target", check=False).returncode == 0

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the container, and the folders above it."""
        file = Path(f"/proc/{self.leader}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def show(self, unit: str) -> Mapping[str, str]:
        """Return the properties of a unit, as `systemctl show` names them."""
        lines = self.run("systemctl", "show", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str) -> list[str]:
        """Return what the unit's own processes have written, line by line."""
        self.run("journalctl", "--sync")
        return self.run(
            "journalctl",
            f"_SYSTEMD_UNIT={unit}",
            f"--since=@{self.since:.6f}",
            "--output=cat",
            "--no-pager",
            "--quiet",
            check=False,
        ).stdout.splitlines()


def may_boot() -> bool:
    """Whether this process may make the namespaces that a container needs."""
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@contextmanager
def booted(binds: Mapping[Path, str], root: Path = Path("/")) -> Iterator[Machine]:
    """Boot a root's files; it sees each folder of `binds`, read-only, at the path beside it."""
    with (
        tempfile.TemporaryDirectory(prefix="virtstatd-machine-") as folder,
        _cgroups(Path(folder).name) as cgroups,
    ):
        mounted, log = Path(folder, "root"), Path(folder, "log")
        mounted.mkdir()
        with log.open("wb") as output:
            container = subprocess.Popen(
                [
                    # With this process ends unshare, with it systemd-nspawn, and with that, as the
                    # first process of a namespace, all that it has started.
                    *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid"),
                    *("--mount-proc", "--fork", "--kill-child"),
                    *("sh", "-ec", START, str(mounted), " ".join(map(str, cgroups)), str(root)),
                    *("--quiet", f"--directory={mounted}", f"--machine=virtstatd-{os.getpid()}"),
                    *("--volatile=overlay", "--private-network", "--console=passive"),
                    *("--boot", "--register=no", "--keep-unit"),
                    *(f"--bind-ro={source}:{target}" for source, target in binds.items()),
                    "systemd.unit=basic.target",  # none of the host's own services
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        try:
            machine = Machine(until(lambda: _leader(container, log), "a container"))
            until(machine.is_up, "its boot")
            yield machine
            machine.run("systemctl", "poweroff", check=False)
            container.wait(STOP_SECONDS)
        finally:
            container.kill()
            container.wait()


@contextmanager
def _cgroups(name: str) -> Iterator[list[Path]]:
    """Make a cgroup below this process's own in each hierarchy that systemd-nspawn divides."""
    own = dict(
        line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()
    )
    made = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        hierarchy = {"cgroup": "name=systemd", "cgroup2": ""}.get(kind)
        if hierarchy in own and (kind == "cgroup2" or hierarchy in options.split(",")):
            made.append(Path(f"{mount}{own[hierarchy]}", name))
    for cgroup in made:
        cgroup.mkdir()
    try:
        yield made
    finally:
        for cgroup in made:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                until(partial(_removed, Path(folder)), f"an empty {folder}")


def _removed(cgroup: Path) -> bool:
    """Remove a cgroup; the kernel may still be burying the processes that were in it."""
    try:
        cgroup.rmdir()
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def until(answer: Callable[[], T], what: str) -> T:
    """Ask until the answer is true and return it; systemd has no event for most of this."""
    deadline = time.monotonic() + BOOT_SECONDS
    while not (found := answer()):
        assert time.monotonic() < deadline, f"{what}: not within {BOOT_SECONDS} s"
        time.sleep(POLL_SECONDS)
    return found


def _leader(container: subprocess.Popen[bytes], log: Path) -> int:
    """Return the container's PID 1, 0 when there is none yet."""
    assert container.poll() is None, f"systemd-nspawn ended: {log.read_text()}"
    below = [container.pid]
    for process in below:
        folder = Path(f"/proc/{process}")
        if (folder / "comm").read_text() == "systemd\n":
            return process
        below += map(int, (folder / f"task/{process}/children").read_text().split())
    return 0

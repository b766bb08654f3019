"""
Keeps one lab's namespaces and processes, and takes all of it down when its owner is gone.

Runs as a process of its own beside the tests, as a subreaper: libvirtd and every QEMU become its
children and keep their true process ids. It listens on its standard input, one JSON list of
arguments a line, starts that command inside the namespaces and answers with its process id. End of
input, or the end of the process that started it (however it ended), is the order to clean up.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


PREFIX = "virtlab-"
ROOM = f"{PREFIX}processes"
"""Where a container's processes are while labs need controllers of its outermost cgroup."""

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_SECONDS = 20.0

# What the host knows under these names is hidden from the lab, and the lab's from the host.
PRIVATE = {
    "run": "/run/libvirt",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}

# Debian's libvirtd does not start without this account, used or not, and the package that creates
# it would start a libvirtd for the whole machine.
ACCOUNTS = {
    "passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:64055:\n",
}

# Joins its cgroups first, so that the new cgroup namespace begins there; the hierarchies are then
# bound over themselves from that point on. With a root, that system's files are all there is of
# files, under an overlay in memory; the lab's own are where they are outside. Waits without end on
# the namespaces' behalf.
HOLDER = r"""
set -e
lab=$1; shift
for mount in "$@"; do echo $$ > "$mount/${lab##*/}/cgroup.procs"; done
exec unshare --mount --net --cgroup --uts --propagation private sh -e -c '
    lab=$1; shift
    hostname "virtlab-$$"
    if [ "$ROOT" ]; then
        top=$lab/top
        mount -t tmpfs -o mode=755 tmpfs "$top"
        mkdir "$top/upper" "$top/work"
        mount -t overlay -o "lowerdir=$ROOT,upperdir=$top/upper,workdir=$top/work" overlay "$top"
        for part in dev proc sys; do mount --rbind "/$part" "$top/$part"; done
        mkdir -p "$top$lab"
        mount --bind "$lab" "$top$lab"
        cd "$top"
        pivot_root . mnt
        cd /
        umount --lazy /mnt
    fi
    # A fresh /sys too: it shows the devices of the network namespace in which it was mounted.
    mount --move /sys/fs/cgroup /mnt
    mount -t sysfs sysfs /sys
    mount --move /mnt /sys/fs/cgroup
    for mount in "$@"; do
        case " $DROPPED " in *" $mount "*) umount "$mount"; continue ;; esac
        mount --bind "$mount/${lab##*/}" "$mount"
        if [ -d "$mount/daemon" ]; then echo $$ > "$mount/daemon/cgroup.procs"; fi
    done
    mount -t tmpfs -o mode=755 tmpfs /run
    for pair in $PRIVATE; do
        mkdir -p "${pair#*=}"
        mount --bind "$lab/${pair%%=*}" "${pair#*=}"
    done
    for file in passwd group; do
        mount --bind "$lab/$file" "/etc/$file"
    done
    # Guests would hear the host ask for routers. A fresh /proc: in containers it is read-only.
    mkdir /run/proc
    mount -t proc proc /run/proc
    echo 1 > /run/proc/sys/net/ipv6/conf/default/disable_ipv6 || true
    umount /run/proc
    ip link set lo up
    echo ready
    exec sleep infinity
' sh "$lab" "$@"
"""


class Keeper:
    """One lab's namespaces, cgroups and processes."""

    def __init__(self, directory: Path, cgroup: str, root: str) -> None:
        self.directory = directory
        self.root = root
        if cgroup and cgroup not in cgroup_versions():
            raise SystemExit(f"this machine does not have cgroups of the kind {cgroup}")
        seen = hierarchies()
        self.cgroups = list(seen)
        unwanted = {"v1": "cgroup2", "v2": "cgroup"}.get(cgroup)
        self.dropped = [path for path, kind in seen.items() if kind == unwanted]
        self.groups = [mount / directory.name for mount in self.cgroups]
        self.holder = 0
        self.netns = 0

    def open(self) -> None:
        """Make the cgroups and the namespaces."""
        for group in self.groups:
            with _alone(group.parent):
                _delegate(group.parent)
                group.mkdir()
            inherit_cpus(group)
            if (group / "cgroup.controllers").exists():
                # Version 2 gives controllers only to children of groups without processes.
                (group / "daemon").mkdir()
        for name in (*PRIVATE, "top"):
            (self.directory / name).mkdir()
        for name, line in ACCOUNTS.items():
            known = Path(self.root or "/", "etc", name).read_text()
            there = known.startswith("libvirt-qemu:") or "\nlibvirt-qemu:" in known
            (self.directory / name).write_text(known if there else known + line)
        environment = os.environ | {
            "PRIVATE": " ".join(f"{name}={path}" for name, path in PRIVATE.items()),
            "DROPPED": " ".join(map(str, self.dropped)),
            "ROOT": self.root,
        }
        holder = subprocess.Popen(
            ["sh", "-c", HOLDER, "sh", str(self.directory), *map(str, self.cgroups)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.holder = holder.pid
        if holder.stdout is None or holder.stdout.readline() != b"ready\n":
            raise SystemExit("the lab's namespaces could not be made; is this root?")
        self.netns = _netns(holder.pid)
        # Held until this process ends: another lab would be given the number of one that is gone,
        # and its processes would be taken for ours.
        os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)

    def spawn(self, argv: list[str]) -> int:
        """Start a command inside the namespaces and cgroups; its process id is the command's."""
        join = 'for g in $GROUPS_; do echo $$ > "$g"; done; exec "$@"'
        groups = [
            mount / ("daemon" if (group / "daemon").is_dir() else ".") / "cgroup.procs"
            for mount, group in zip(self.cgroups, self.groups, strict=True)
            if mount not in self.dropped
        ]
        inside = [*self.enter(), "sh", "-c", join, "sh", *argv]
        log = os.open(self.directory / "output", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        try:
            return os.posix_spawnp(
                inside[0],
                inside,
                os.environ | {"GROUPS_": " ".join(map(str, groups))},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
            )
        finally:
            os.close(log)

    def enter(self) -> list[str]:
        """Return what to put before a command so that it runs inside the namespaces."""
        spaces = ("--mount", "--net", "--cgroup", "--uts")
        return ["nsenter", "--target", str(self.holder), *spaces, "--"]

    def serve(self, owner: int) -> None:
        """Start what is asked for and reap what ends, until the owner is gone."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            owner_ended = os.pidfd_open(owner)
        except ProcessLookupError:
            return
        while True:
            ready, _, _ = select.select([sys.stdin, woken, owner_ended], [], [])
            if woken in ready:
                os.read(woken, 4096)
                _reap()
            if owner_ended in ready:
                return
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                _tell(self.spawn(json.loads(line)))

    def close(self) -> None:
        """Kill what lives in the namespaces, then remove cgroups and directory."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (alive := members(self.netns, self.holder)) and time.monotonic() < deadline:
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
            _reap()
        for group in self.groups:
            _prune(group, deadline)
            with _alone(group.parent):
                _undelegate(group.parent)
        shutil.rmtree(self.directory, ignore_errors=True)


def members(netns: int, holder: int = 0) -> list[int]:
    """Return the processes whose network namespace is `netns`, and the holder while it lives."""
    return [pid for pid in _pids() if (netns and _netns(pid) == netns) or pid == holder]


def inherit_cpus(group: Path) -> None:
    """Let a cgroup use its parent's CPUs and memory; version 1 begins with none."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and not (group / "cgroup.controllers").exists():
            (group / name).write_text((group.parent / name).read_text())


def give_controllers(group: Path) -> None:
    """Let the groups below one have all controllers that it has; only version 2 asks for that."""
    with suppress(FileNotFoundError):
        for controller in (group / "cgroup.controllers").read_text().split():
            with suppress(OSError):  # one that this kernel does not give to groups with processes
                (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _netns(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:  # gone meanwhile, or a zombie
        return 0


def _tell(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _prune(group: Path, deadline: float) -> None:
    """Remove a cgroup and those below; the kernel needs a moment after the last process."""
    while group.exists():
        for inner, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                Path(inner).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


@contextmanager
def _alone(mount: Path) -> Iterator[None]:
    """Keep other labs from changing the root of a hierarchy meanwhile."""
    handle = os.open(mount, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _delegate(mount: Path) -> None:
    """
    Give the groups below the root of a version 2 hierarchy every controller it has.

    libvirt ignores a hierarchy in which it sees none. What was switched on is remembered as the
    name of an empty cgroup, which outlives this process, until the last lab is gone.
    """
    if not (mount / "cgroup.controllers").exists():
        return
    given = (mount / "cgroup.subtree_control").read_text().split()
    wanted = [c for c in (mount / "cgroup.controllers").read_text().split() if c not in given]
    if wanted and not given and not _is_root(mount):
        _move(mount, mount / ROOM)
    for controller in wanted:
        with suppress(OSError):  # one that is busy elsewhere
            (mount / "cgroup.subtree_control").write_text(f"+{controller}")
            (mount / f"{PREFIX}given-{controller}").mkdir()


def _undelegate(mount: Path) -> None:
    """Switch off what a lab has switched on, unless another lab still uses it."""
    marks = {path.name: path for path in mount.glob(f"{PREFIX}given-*")}
    others = {path.name for path in mount.glob(f"{PREFIX}*")} - {*marks, ROOM}
    if not marks or others:
        return
    for name, path in marks.items():
        path.rmdir()
        with suppress(OSError):  # somebody else relies on it by now
            (mount / "cgroup.subtree_control").write_text(f"-{name.rpartition('-')[2]}")
    if (mount / ROOM).exists():
        _move(mount / ROOM, mount)
        (mount / ROOM).rmdir()


def _is_root(mount: Path) -> bool:
    """Tell whether a group of version 2 is the machine's own root; a container's is not."""
    return not (mount / "cgroup.type").exists()


def _move(group: Path, other: Path) -> None:
    """
    Move all processes of one group to another.

    But for the machine's root a group of version 2 has either processes or controllers to give, and
    a container begins with all of its processes in the outermost.
    """
    other.mkdir(exist_ok=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (pids := (group / "cgroup.procs").read_text().split()) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended, or started another meanwhile
                (other / "cgroup.procs").write_text(pid)


def hierarchies() -> dict[Path, str]:
    """Return this machine's writable cgroup mounts and the kind of each, cgroup or cgroup2."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {
        Path(where): kind
        for _, where, kind, options, *_ in mounts
        if kind in {"cgroup", "cgroup2"} and "rw" in options.split(",")
    }


def _gives(mount: Path) -> bool:
    """Tell whether groups below the root of a version 2 hierarchy can have controllers."""
    procs = (mount / "cgroup.procs").read_text().split()
    given = (mount / "cgroup.subtree_control").read_text().split()
    # "0" is a process outside of this container, which nobody in here can move
    possible = given or _is_root(mount) or "0" not in procs
    return bool(possible and (mount / "cgroup.controllers").read_text().split())


def cgroup_versions() -> frozenset[str]:
    """Return which choices of `Lab(cgroup=...)` this machine offers."""
    seen = hierarchies()
    kinds = set(seen.values())
    gives = any(_gives(path) for path, kind in seen.items() if kind == "cgroup2")
    return frozenset(
        choice
        for choice, possible in {
            "v1": "cgroup" in kinds,
            "v2": gives,
            "hybrid": gives and "cgroup" in kinds,
        }.items()
        if possible
    )


def main() -> None:
    """Serve the process that started this one."""
    owner = os.getppid()
    directory, cgroup, root = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the owner, whose end is the order
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        keeper = Keeper(directory, cgroup, root)
    except SystemExit:
        directory.rmdir()
        raise
    try:
        keeper.open()
        opened = {
            "enter": keeper.enter(),
            "netns": keeper.netns,
            "groups": [str(group) for group in keeper.groups],
        }
        _tell(opened)
        keeper.serve(owner)
    finally:
        keeper.close()


if __name__ == "__main__":
    main()

"""What this host and its systemd say: the unit, libvirt's socket, cgroups and the scheduler."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from virtstatd._fast import IN_C
from virtstatd.collect.kernel.blind import Bars
from virtstatd.collect.kernel.cgroup import Hierarchies
from virtstatd.commands.doctor.check import Check


UNIT: Final = "virtstatd.service"
SYSTEMD: Final = Path("/run/systemd/system")
ASKING_SECONDS: Final = 5.0
PROPERTIES: Final = ("LoadState", "ActiveState", "SubState", "UnitFileState", "Result")

Show = Callable[[], Mapping[str, str] | None]


def shown_unit() -> Mapping[str, str] | None:
    """Return what systemd says of the unit, None where it is not there or says nothing."""
    if not SYSTEMD.is_dir():
        return None
    command = ["systemctl", "show", UNIT, f"--property={','.join(PROPERTIES)}"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=ASKING_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    pairs = (line.partition("=")[::2] for line in done.stdout.splitlines())
    return dict(pairs) if done.returncode == 0 else None


def unit_check(show: Show = shown_unit) -> Check:
    """Return whether systemd runs the agent."""
    unit = show()
    if unit is None:
        return Check("service", "note", "systemd does not run here, or does not answer")
    active, enabled = unit.get("ActiveState", ""), unit.get("UnitFileState", "")
    if unit.get("LoadState") != "loaded":
        return Check("service", "missing", f"{UNIT} is not installed", "make install")
    if active == "failed":
        text = f"{UNIT} failed: {unit.get('Result')}"
        return Check("service", "missing", text, f"journalctl -u {UNIT} -n 20")
    if active in ("active", "reloading", "activating"):
        if enabled == "enabled":
            return Check("service", "ok", f"{UNIT} is {active}")
        text = f"{UNIT} is {active}, but does not start with the host"
        return Check("service", "note", text, f"systemctl enable {UNIT}")
    text = f"{UNIT} is {active or 'not known'}"
    return Check("service", "missing", text, f"systemctl enable --now {UNIT}")


def user_check() -> Check:
    """Return who looks: what root sees the service may not."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    if uid:
        groups = ", ".join(sorted(filter(None, map(_group, os.getgroups()))))
        return Check("user", "ok", f"looked as {name}, of the groups {groups or 'none'}")
    text = "looked as root, who sees more than the service's user"
    fix = "`runuser -u nobody -- virtstatd doctor` sees what the service sees"
    return Check("user", "note", text, fix)


def library_check(in_c: bool = IN_C) -> Check:  # noqa: FBT001 - the one question
    """Return whether the agent has its library in C."""
    if in_c:
        return Check(
            "C library",
            "ok",
            "kernel files are read, libvirt's numbers taken and pages filled in C",
        )
    text = "not built, or switched off: the same is done in Python, which takes more CPU"
    return Check("C library", "note", text, "install gcc and python3-dev, then virtstatd again")


def socket_check(uri: str, uid: int, groups: Sequence[int]) -> Check | None:
    """Return whether a user may use libvirt's local socket, None where the URI names none."""
    sockets = parse_qs(urlsplit(uri).query).get("socket")
    if not sockets:
        return None
    path = Path(sockets[0])
    try:
        found = path.stat()
    except PermissionError:
        fix = f"chmod o+x {path.parent}"
        return Check("socket", "missing", f"{path}: its directory is closed", fix)
    except OSError as error:
        fix = "systemctl start libvirtd  or  systemctl start virtqemud"
        return Check("socket", "missing", f"{path}: {error.strerror}", fix)
    others = found.st_mode & (stat.S_IROTH | stat.S_IWOTH)
    if others == stat.S_IROTH | stat.S_IWOTH:
        return Check("socket", "ok", f"{path} is open to every user")
    group = _group(found.st_gid) or str(found.st_gid)
    mine = uid == 0 or found.st_gid in groups
    drop_in = "cp systemd/drop-ins/libvirt-group.conf /etc/systemd/system/virtstatd.service.d/"
    text = f"{path} is open to the group {group} only"
    return Check("socket", "note" if mine else "missing", text, drop_in)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return ""


def kernel_checks(
    proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[Check]:
    """Yield what the kernel shows here, without a guest."""
    reason, fix = Bars(proc).explained("processes", "")
    if reason:
        yield Check("/proc", "missing", reason, fix)
    else:
        yield Check("/proc", "ok", "processes of other users are visible")
    hierarchies = Hierarchies(root, proc)
    if hierarchies.unified == root:
        yield Check("cgroups", "ok", "version 2")
    elif any(root.glob("cpu*")):
        both = " and 2" if hierarchies.unified else ""
        yield Check("cgroups", "ok", f"version 1{both}")
    else:
        fix = "mount the host's /sys/fs/cgroup where the agent sees it"
        yield Check("cgroups", "missing", f"none at {root}", fix)
    if (proc / "self/schedstat").exists():
        yield Check("schedstats", "ok", "the kernel counts how long vCPUs wait for a CPU")
    else:
        fix = "boot a kernel with CONFIG_SCHED_INFO"
        yield Check("schedstats", "missing", "steal is known from libvirt alone", fix)
    if (proc / "pressure").is_dir():
        yield Check("pressure", "ok", "the kernel counts pressure")
    else:
        fix = "boot it with psi=1 on its command line"
        yield Check("pressure", "missing", "the kernel counts no pressure", fix)

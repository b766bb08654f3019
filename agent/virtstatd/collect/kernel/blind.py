"""What the kernel collector cannot see on some hosts, why, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtstatd.runtime.mounts import mounted


RENAMED: Final = "renamed interfaces"
HANGING: Final = "a process that hangs"
HIDDEN_CGROUPS: Final = "hidden cgroups"

INITIAL: Final = {"pid": 0xEFFFFFFC, "cgroup": 0xEFFFFFFB}
"""The numbers of the host's own namespaces, which the kernel never changes (linux/proc_ns.h)."""

FIXES: Final = {
    "pid files": "let the agent's user see libvirt's directory of pid files, beside the socket",
    "processes": "check whether the guests run: their pid files lead to none of their processes",
    "run times": "run a kernel with CONFIG_SCHED_INFO",
    "interfaces": "let the agent's user read /proc/PID/net/dev of the guests' processes",
    RENAMED: "give the interface the name that libvirt knows, or attach it again",
    HANGING: "check what it waits for, /proc/PID/stack; end the guest if that never comes",
    "cgroups": "let libvirt use cgroups: leave its `cgroup_controllers` (qemu.conf) at its default",
    HIDDEN_CGROUPS: "mount the whole of the host's /sys/fs/cgroup where the agent sees it",
}
"""By what cannot be seen, if it has only one fix."""

_CONTROLLERS: Final = {"cpu time": "cpu", "memory": "memory", "io": "blkio"}
"""By what a guest's cgroup does not count, the controller as /proc/cgroups names it."""

Cause = tuple[bool, str, str]
"""Whether a cause applies, its description, and the fix."""


class Bars:
    """The causes that hide something from the agent on its host; looked up when it is reported."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def explained(self, what: str, reason: str) -> tuple[str, str]:
        """Return why something cannot be seen, and the fix, "" if none is known."""
        for holds, why, fix in self._causes(what):
            if holds:
                return "; ".join(filter(None, (reason, why))), fix
        return reason, FIXES.get(what, "")

    def _causes(self, what: str) -> Iterator[Cause]:
        """Yield possible causes, the most certain first."""
        options = self._options()
        if what == "processes":
            yield (
                options.get("hidepid", "0") not in ("0", "off"),
                "/proc is mounted with `hidepid=`",
                (
                    "mount /proc without it, or put the agent's user into the group of its `gid=`;"
                    " leave `ProtectProc=` of the agent's unit at `default`"
                ),
            )
            yield (
                self._is_private("pid"),
                "the agent is in a PID namespace of its own",
                "run it in the host's (`--pid=host`, `hostPID: true`)",
            )
        elif what == HIDDEN_CGROUPS:
            yield (
                self._is_private("cgroup"),
                "the agent is in a cgroup namespace of its own",
                "run it in the host's (`--cgroupns=host`), and mount the host's /sys/fs/cgroup",
            )
        elif what in _CONTROLLERS:
            name = _CONTROLLERS[what]
            yield (
                not self._is_enabled(name),
                f"the kernel has no controller `{name}` switched on",
                "leave it out of `cgroup_disable=` on the kernel's command line",
            )
            yield True, "", FIXES["cgroups"]
        if what.startswith("host "):
            yield (
                options.get("subset") == "pid",
                "/proc is mounted with `subset=pid`",
                "leave `ProcSubset=` of the agent's unit at `all`",
            )
        if what in ("host pressure", "cpu pressure"):
            there = (self._proc / "pressure/cpu").exists()
            yield not there, "the kernel counts no pressure", "boot it with `psi=1`"
            yield True, "", "run guests in cgroups of version 2, with `cgroup.pressure` at 1"

    def _is_enabled(self, controller: str) -> bool:
        try:
            rows = map(str.split, (self._proc / "cgroups").read_text().splitlines())
        except OSError:
            return True  # not known to be off
        return any(row[0] == controller and row[-1] != "0" for row in rows)

    def _is_private(self, kind: str) -> bool:
        with suppress(OSError):
            return str((self._proc / "self/ns" / kind).readlink()) != f"{kind}:[{INITIAL[kind]}]"
        return False

    def _options(self) -> Mapping[str, str]:
        """Return how /proc is mounted."""
        _, options = mounts(self._proc, "proc").get(Path("/proc"), ("", ""))
        return dict(option.partition("=")[::2] for option in options.split(","))


def mounts(proc: Path, *kinds: str) -> dict[Path, tuple[str, str]]:
    """Return root and options of the file systems of these kinds, by where they are mounted."""
    found = mounted(proc / "self/mountinfo")
    return {Path(each.point): (each.root, each.options) for each in found if each.kind in kinds}

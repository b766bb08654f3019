"""What the lane may not be able to see on a host, and what to do about it."""

from __future__ import annotations

from typing import Final


_CONTROLLERS: Final = (
    "leave libvirt's `cgroup_controllers` (qemu.conf) at its default, and the controller out of"
    " `cgroup_disable=` on the kernel's command line"
)
_PRESSURE: Final = "boot the kernel with `psi=1`, and with cgroups of version 2 for the guests' own"
_SUBSET: Final = "leave `ProcSubset=` of the agent's unit at `all`"

RENAMED: Final = "renamed interfaces"
HANGING: Final = "a process that hangs"

MENDS: Final = {
    "pid files": "let the agent's user see libvirt's directory of pid files, beside the socket",
    "processes": "mount /proc without `hidepid=`, or put the agent's user into the group of its"
    " `gid=`; leave `ProtectProc=` of the agent's unit at `default`",
    "run times": "run a kernel with CONFIG_SCHED_INFO",
    "interfaces": "let the agent's user read /proc/PID/net/dev of the guests' processes",
    RENAMED: "give the interface the name that libvirt knows, or attach it anew",
    HANGING: "look at what it waits for, /proc/PID/stack; end the guest where that never comes",
    "cgroups": "let the agent see /sys/fs/cgroup, and libvirt use cgroups (`cgroup_controllers`)",
    "cpu time": _CONTROLLERS,
    "memory": _CONTROLLERS,
    "io": _CONTROLLERS,
    "cpu pressure": _PRESSURE,
    "host pressure": _PRESSURE,
    "host CPUs": _SUBSET,
    "host memory": _SUBSET,
    "host load": _SUBSET,
    "host NUMA nodes": "",
    "host huge pages": "",
}
"""By what cannot be seen; nothing where the kernel was built without it."""

"""The options of a simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from virtstatd.errors import StartError
from virtstatd_simulator.guests.flavors import DEFAULT_RELEASE, MAX_GUESTS, VERSIONS, Release
from virtstatd_simulator.guests.profiles import PROFILES


MAX_CPUS = 4096
MAX_SOCKET_PATH = 107  # bytes that the kernel has for the path of a unix socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    Describes what to simulate, and where.

    `control` is a further socket, `replay` a file of records that were captured from a real daemon.
    `percpu` is whether the host counts CPU time per CPU, as cgroup v1 does.
    """

    socket: Path
    domains: int = 60
    profile: str = "mixed"
    seed: int = 1
    libvirt: Release = DEFAULT_RELEASE
    cpus: int = 64
    percpu: bool = True
    control: Path | None = None
    replay: Path | None = None
    job_wait_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Raise `StartError` for what cannot be simulated."""
        if self.profile not in PROFILES:
            known = ", ".join(PROFILES)
            raise StartError(f"profile {self.profile!r} is none of {known}")
        if self.libvirt not in VERSIONS:
            known = ", ".join(map(str, VERSIONS))
            raise StartError(f"libvirt {self.libvirt} is none of {known}")
        for name, value, low, high in (
            ("domains", self.domains, 0, MAX_GUESTS),
            ("cpus", self.cpus, 1, MAX_CPUS),
            ("job_wait_seconds", self.job_wait_seconds, 0, math.inf),
        ):
            if not low <= value <= high:  # not a number, too
                raise StartError(f"{name} must be from {low} to {high}, is {value}")
        for path in (self.socket, self.control):
            if path is not None and len(bytes(path)) > MAX_SOCKET_PATH:
                raise StartError(f"{path} is longer than the path of a socket may be")

"""Whether a domain's monitor answers, as libvirt and the kernel see it without asking it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from virtstatd.catalog import Catalog
from virtstatd.hypervisor.processes import LOOK_SECONDS, Processes
from virtstatd.model import Domain, Number, Reading


OK = 0
UNRESPONSIVE_MILLISECONDS = 2_000
"""A monitor that has been occupied this long without an answer delays every call to it."""

SIGHTS = 3
SIGHT_SECONDS = 0.02
"""A healthy QEMU may wait for a disk at the moment of one look, hardly at three."""

Control = tuple[int, int, int]
"""virDomainControlInfo: state, details, milliseconds since it was entered."""


def occupied(control: Control) -> bool:
    """Return whether the monitor has been occupied for so long that no call should wait for it."""
    return control[0] != OK and control[2] >= UNRESPONSIVE_MILLISECONDS


class Verdicts:
    """Make readings of what is known about a domain's monitor."""

    def __init__(self, catalog: Catalog) -> None:
        self._bare = catalog.shape("control", [("responsive", ())])
        self._full = {
            number: catalog.shape(
                "control", [("state", names), ("seconds", ()), ("responsive", ())]
            )
            for number, names in (
                (int(text), names) for text, names in catalog.enums["control_state"].items()
            )
        }

    def reading(self, domain: Domain, control: Control | None, *, responsive: bool) -> Reading:
        """Return the reading; without a control state, where libvirt was not queried for one."""
        shape = self._full.get(control[0]) if control else None
        if control is None or shape is None:
            return Reading(domain, self._bare, (int(responsive),))
        values: tuple[Number, ...] = (control[0], control[2], int(responsive))
        return Reading(domain, shape, values)


STOPPED: Final = "its process is stopped"
STORAGE: Final = "its process waits for storage"


class Stalls:
    """
    Find the domains whose processes do not run, before a query to their monitors.

    A QEMU that is stopped, or waits for storage that does not answer, would hold the call that asks
    it, and with it all the domains of that call. Local guests only; what cannot be read is taken
    for well.
    """

    def __init__(self, processes: Processes, pause: Callable[[float], None] = time.sleep) -> None:
        self._processes = processes
        self._pause = pause

    def among(self, domains: Iterable[Domain]) -> dict[str, str]:
        """Return the stalled ones by UUID, with the reason; blocks for some milliseconds."""
        self._processes.look(at_most_seconds=LOOK_SECONDS)
        stalled: dict[str, str] = {}
        waiting: list[Domain] = []
        for domain in domains:
            match self._state(domain):
                case b"T" | b"t":
                    stalled[domain.uuid] = STOPPED
                case b"D":
                    waiting.append(domain)
        for _ in range(SIGHTS - 1):
            if waiting:
                self._pause(SIGHT_SECONDS)
                waiting = [domain for domain in waiting if self._state(domain) == b"D"]
        for domain in waiting:
            stalled[domain.uuid] = STORAGE
        return stalled

    def _state(self, domain: Domain) -> bytes:
        """Return the letter of proc_pid_stat(5) for the main thread, empty where it is unknown."""
        process = self._processes.of(domain)
        try:
            return process.stat()[0] if process else b""
        except (OSError, IndexError):
            return b""

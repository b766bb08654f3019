"""Whether a domain's monitor answers, as libvirt and the kernel see it without asking it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from virtstatd.catalog import Catalog
from virtstatd.model import Domain, Number, Reading


OK = 0
UNRESPONSIVE_MILLISECONDS = 2_000
"""A monitor that has been occupied this long without an answer holds up whoever asks it."""

LOOKS = 3
LOOK_SECONDS = 0.02
"""A healthy QEMU may wait for a disk at the moment of one look, hardly at three."""

Control = tuple[int, int, int]
"""virDomainControlInfo: state, details, milliseconds since it was entered."""


def occupied(control: Control) -> bool:
    """Tell whether the monitor has been occupied for so long that nobody should wait for it."""
    return control[0] != OK and control[2] >= UNRESPONSIVE_MILLISECONDS


# libvirt names the pid file after the domain, as its XML writes the name
ENTITIES = {'"': "&quot;", "'": "&apos;"}


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
        """Return the reading; without a control state, where libvirt was not asked for one."""
        shape = self._full.get(control[0]) if control else None
        if control is None or shape is None:
            return Reading(domain, self._bare, (int(responsive),))
        values: tuple[Number, ...] = (control[0], control[2], int(responsive))
        return Reading(domain, shape, values)


class Stalls:
    """
    Tell which domains' processes stand still, before anybody asks their monitors.

    A QEMU that is stopped, or waits for storage that does not answer, would hold the call that asks
    it, and with it all the domains of that call. Local guests only; what cannot be read is taken
    for well.
    """

    def __init__(
        self,
        pid_files: Path,
        proc: Path = Path("/proc"),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pid_files = pid_files
        self._proc = proc
        self._pause = pause

    def among(self, domains: Iterable[Domain]) -> dict[str, str]:
        """Return the stalled ones by UUID, with the reason; blocks for some milliseconds."""
        stalled: dict[str, str] = {}
        waiting: list[Domain] = []
        for domain in domains:
            match self._state(domain):
                case "T" | "t":
                    stalled[domain.uuid] = "its process is stopped"
                case "D":
                    waiting.append(domain)
        for _ in range(LOOKS - 1):
            if waiting:
                self._pause(LOOK_SECONDS)
                waiting = [domain for domain in waiting if self._state(domain) == "D"]
        for domain in waiting:
            stalled[domain.uuid] = "its process waits for storage"
        return stalled

    def _state(self, domain: Domain) -> str:
        """Return the letter of proc(5) for the process's main thread, empty when unknown."""
        try:
            name = f"{escape(domain.name, ENTITIES)}.pid"
            pid = int((self._pid_files / name).read_bytes()[:16])
            text = (self._proc / str(pid) / "stat").read_bytes()
        except (OSError, ValueError):
            return ""
        return text.rpartition(b")")[2][1:2].decode("ascii", "replace")

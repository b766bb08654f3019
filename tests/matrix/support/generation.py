"""A lab whose libvirt, QEMU and Python are another Debian's: `with Generation("sid") as lab: …`."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.support import kernel
from lab.support.guest import Definition
from lab.support.hypervisor import Lab
from lab.support.kernel import System
from lab.support.machine import WAIT_SECONDS, LabError, wait_until
from matrix.support.debian import needed
from support.agent import Agent, running
from support.roots import Root


CHECKOUT = Path(__file__).parents[3]
PACKAGES = (
    *("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"),
    *("qemu-system-x86", "qemu-utils", "iproute2"),
    # libvirt-python has no wheels: it is compiled against the root's own libvirt
    *("python3-venv", "python3-dev", "gcc", "libvirt-dev", "pkg-config"),
)
REQUIREMENTS = tuple(
    tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
)
ROOTS = {
    suite: Root(suite, (*PACKAGES, *needed()), REQUIREMENTS)
    for suite in ("bookworm", "trixie", "sid")
}
"""Each has what the packages' build needs too, so that fewer roots are made."""
AHEAD = "sid"
"""The suite whose libvirt may have fields that nobody knows yet."""

TIMED_SINCE = (11, 10, 0)
"""The libvirt that first had timed groups and QEMU's own block limits."""
HISTOGRAM_SINCE = (12, 1, 0)
"""The libvirt that first had latency histograms."""

UNTIL_WE_END = ("setpriv", "--pdeathsig", "KILL")  # however that comes
PERF = "cpu_clock,task_clock,page_faults,context_switches"
TIMED = "<statistic interval='1'/><statistic interval='3600'/>"
HISTOGRAM = "".join(f"<bin start='{start}'/>" for start in (0, 100_000, 1_000_000, 10_000_000))
DRIVER = "<driver name='qemu' type='raw'/>"
THROTTLED = f"""
<driver name='qemu' type='raw'>
  <statistics>{{timed}}<latency-histogram>{HISTOGRAM}</latency-histogram></statistics>
</driver>
<iotune><total_bytes_sec>104857600</total_bytes_sec><read_iops_sec>5000</read_iops_sec></iotune>
"""
EMPTY_CDROM = f"""
<disk type='file' device='cdrom'>{DRIVER}<target dev='sdz' bus='scsi'/><readonly/></disk>
"""


@dataclass(frozen=True, slots=True)
class Full(Definition):
    """
    A guest with a bit of everything that has statistics.

    Its first disk has limits and counts latencies, in groups by time as well where it is `timed`:
    of a guest at work those go up and down. An older libvirt passes over what it does not know.
    """

    timed: bool = True

    def xml(self) -> str:
        """Return the domain's XML."""
        driver = THROTTLED.format(timed=TIMED if self.timed else "")
        text = Definition.xml(self).replace(DRIVER, driver, 1)
        return text.replace("<memballoon", f"{EMPTY_CDROM}<memballoon", 1)


class Generation(Lab):
    """
    The libvirtd of a Debian suite, with guests that have a bit of everything.

    `paused-…` have never run, `live` is at work, `rested` was and is paused: the first and the last
    stand still. Agents run on this machine's Python or on the root's, from the files in `wheel`.
    """

    def __init__(self, suite: str, wheel: Path | None = None) -> None:
        super().__init__(root=ROOTS[suite].made())
        self.suite = suite
        self._wheel = wheel
        self._agents = 0

    def virsh(self, *args: str, timeout: float = WAIT_SECONDS) -> str:
        """Run the root's own virsh on the lab's libvirtd."""
        return self.run("virsh", "--connect", self.uri, *args, timeout=timeout)

    @property
    def version(self) -> tuple[int, ...]:
        """The version of libvirt."""
        return tuple(map(int, self.run("virsh", "--version").split(".")))

    @property
    def python(self) -> str:
        """The version of the root's Python."""
        return self.run(ROOTS[self.suite].python, "--version").split()[1]

    @property
    def made_of(self) -> str:
        """The versions of everything, as a line of text."""
        qemu = re.search(r"[\d.]+", self.run("qemu-system-x86_64", "--version"))
        libvirt = ".".join(map(str, self.version))
        return f"{self.suite}: libvirt {libvirt}, QEMU {qemu and qemu[0]}, Python {self.python}"

    def definition(self, name: str, **parts: object) -> Full:
        """Return the definition of a guest with a bit of everything."""
        wanted: dict[str, object] = {"images": self.images, "nics": 2} | parts
        wanted["kvm"] = bool(wanted.get("kvm", True)) and self.kvm
        return Full(name, **wanted)  # type: ignore[arg-type]

    def fill(self) -> None:
        """Start the guests."""
        for name in self.paused_guests(3, "paused"):
            self.count_events(name)
        system = self._system()
        rested = self.live_guest("rested", system=system).uuid
        self.virsh("domdirtyrate-calc", rested, "--seconds", "1")
        wait_until(lambda: self.stats("rested")["dirtyrate.calc_status"] == "2", "a dirty rate")
        self.virsh("suspend", rested)
        live = self.live_guest("live", system=system, timed=False).uuid
        # what it has of free memory goes up and down between two readings: let it be asked no more
        self.virsh("dommemstat", live, "--period", "0", "--live")

    def count_events(self, name: str) -> None:
        """Have the kernel count a guest's perf events, where it does so at all."""
        with suppress(LabError):
            self.virsh("perf", self.uuid(name), "--live", "--enable", PERF)

    def _system(self) -> System:
        """Return the live guests' system, from a folder that QEMU sees."""
        made, here = kernel.system(), self.directory / "system"
        shutil.copytree(made.kernel.parent, here)
        return System(here / made.kernel.name, here / made.initrd.name)

    @contextmanager
    def agent(self, *, inside: bool, **options: object) -> Iterator[tuple[Agent, Path]]:
        """
        Run an agent on the lab's libvirt; what is yielded beside it is its JSON lines.

        One that runs inside has the root's Python and client library and sees its files alone.
        """
        self._agents += 1
        folder = self.directory / f"agent-{self._agents}"
        folder.mkdir()
        lines = folder / "readings.jsonl"
        before: tuple[str, ...] = UNTIL_WE_END
        if inside:
            files = folder / "wheel"
            shutil.copytree(self._wheel or Path("none"), files)
            # not the network: its page is on this machine's loopback
            enter = [part for part in self.inside("env") if part != "--net"]
            # the interpreter that was asked for gives place to the root's
            swap = ("sh", "-c", 'shift; exec "$0" "$@"', ROOTS[self.suite].python)
            before += (*enter, f"PYTHONPATH={files}", *swap)
        with running(folder, self.uri_readonly, lines=lines, inside=before, **options) as agent:  # type: ignore[arg-type]
            yield agent, lines

"""
A private libvirtd with real guests, in namespaces of its own: `with Lab() as lab: ...`.

Nothing of it is visible to a libvirtd of the host or disturbed by it, and several labs run side by
side. Process ids are the host's, sockets and pid files are reachable from outside. However its
owner ends, everything is taken down: see `lab.keeper`.

By hand, as root: `PYTHONPATH=tests python -m lab.hypervisor --guests 60`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.sax.saxutils import escape

from lab import guest, keeper, kernel
from lab.guest import Definition
from lab.machine import (
    WAIT_SECONDS,
    LabError,
    check_machine,
    end,
    has_kvm,
    is_alive,
    output,
    wait_until,
)
from lab.namespaces import Namespaces, Trace


STARTERS = 4
BATCH = 8

LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0700"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""

# Without mount namespaces and owner changes a guest starts in half the time.
QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
stdio_handler = "file"
"""


class Lab:
    """
    A libvirtd of its own and the guests that it started.

    `cgroup` chooses what the guests' side sees of the host's cgroups: None all of them as they
    are, "v1" without the unified hierarchy, "hybrid" or "v2" the host's if it is such. The lab's
    cgroups begin at `/NAME` in each hierarchy, NAME being that of its directory.
    """

    def __init__(self, cgroup: str | None = None) -> None:
        self._cgroup = cgroup or ""
        self._namespaces: Namespaces | None = None
        self._taps = 0
        self._nets = 0
        self.pid = 0
        self.definitions: dict[str, Definition] = {}

    # Lifetime

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Make the namespaces and start libvirtd; LabError says what the machine lacks."""
        check_machine()
        self._namespaces = Namespaces(self._cgroup)
        try:
            (self.directory / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF)
            (self.directory / "etc/qemu.conf").write_text(QEMU_CONF)
            self.images.mkdir()
            self.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take everything down: guests, libvirtd, namespaces, cgroups, files."""
        if self._namespaces:
            self._namespaces.close()
        self._namespaces, self.pid = None, 0
        self.definitions.clear()

    @property
    def namespaces(self) -> Namespaces:
        """The lab's namespaces, while it is open."""
        if self._namespaces is None:
            raise LabError("the lab is closed")
        return self._namespaces

    @property
    def directory(self) -> Path:
        """Everything that the lab's libvirtd reads and writes, by `keeper.PRIVATE`'s names."""
        return self.namespaces.directory

    @property
    def trace(self) -> Trace:
        """What must be gone when the lab is."""
        return self.namespaces.trace

    # libvirtd

    @property
    def socket(self) -> Path:
        """The read-write socket."""
        return self.directory / "run/libvirt-sock"

    @property
    def socket_readonly(self) -> Path:
        """The read-only socket, which anyone may open."""
        return self.directory / "run/libvirt-sock-ro"

    @property
    def uri(self) -> str:
        """The URI of a read-write connection from outside the lab's namespaces."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def uri_readonly(self) -> str:
        """The URI of a read-only connection (open it as such)."""
        return f"qemu+unix:///system?socket={self.socket_readonly}"

    @property
    def log(self) -> Path:
        """The file that libvirtd logs its warnings to."""
        return self.directory / "log/libvirtd.log"

    @property
    def kvm(self) -> bool:
        """Whether guests of type kvm can be started here."""
        return has_kvm()

    def start(self) -> None:
        """Start libvirtd and wait until it answers."""
        if self.pid:
            return
        self.pid = self.spawn("libvirtd", "--config", "/etc/libvirt/libvirtd.conf")
        wait_until(self._listening, "libvirtd to listen")
        self.virsh("uri")

    def stop(self) -> None:
        """End libvirtd as its service would; the guests live on."""
        self.kill(signal.SIGTERM)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End libvirtd by a signal and wait until it is gone; the guests live on."""
        if not self.pid:
            return
        pid, self.pid = self.pid, 0
        end(pid, number)

    def restart(self) -> None:
        """Stop libvirtd and start it again; the guests live on."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop libvirtd in its tracks, so that it neither answers nor closes connections."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen libvirtd continue."""
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze libvirtd for the length of a block."""
        self.freeze()
        try:
            yield
        finally:
            if self.pid:
                self.thaw()

    # Commands

    def virsh(self, *args: str, timeout: float = WAIT_SECONDS) -> str:
        """
        Run the real virsh on the lab's libvirtd and return what it prints.

        LabError if it fails, `subprocess.TimeoutExpired` if it takes too long.
        """
        return output(["virsh", "--connect", self.uri, *args], timeout)

    def virt_admin(self, *args: str, timeout: float = WAIT_SECONDS) -> str:
        """Run the real virt-admin on the lab's libvirtd and return what it prints."""
        uri = f"libvirtd:///system?socket={self.directory / 'run/libvirt-admin-sock'}"
        return output(["virt-admin", "--connect", uri, *args], timeout)

    def run(self, *args: str, timeout: float = WAIT_SECONDS) -> str:
        """Run a command inside the lab's namespaces and return what it prints."""
        return output(self.inside(*args), timeout)

    def inside(self, *args: str) -> list[str]:
        """Return a command line that runs this one inside the lab's namespaces."""
        return self.namespaces.inside(args)

    def spawn(self, *args: str) -> int:
        """Start a command inside the namespaces that ends with the lab; return its process id."""
        return self.namespaces.spawn(args)

    # Guests

    @property
    def images(self) -> Path:
        """Where the guests' disks are."""
        return self.directory / "lib/images"

    def names(self) -> list[str]:
        """Return the names of the running guests, as libvirtd tells them."""
        # By UUID, since a name may hold anything, line breaks included.
        known = {made.uuid: made.name for made in self.definitions.values()}
        return [
            known.get(uuid) or self.virsh("domname", uuid).rstrip("\n")
            for uuid in self.virsh("list", "--uuid").split()
        ]

    def definition(self, name: str, **parts: object) -> Definition:
        """Return the definition of a small guest, with KVM where the machine has it."""
        wanted: dict[str, object] = {"images": self.images} | parts
        wanted["kvm"] = bool(wanted.get("kvm", True)) and self.kvm
        return Definition(name, **wanted)  # type: ignore[arg-type]

    def paused_guests(self, n: int, prefix: str = "guest", **parts: object) -> list[str]:
        """Start n paused guests, four side by side, and return their names."""
        made = [self.definition(f"{prefix}-{number}", **parts) for number in range(n)]
        self.create(*made)
        return [definition.name for definition in made]

    def live_guest(self, name: str = "live", **parts: object) -> Definition:
        """
        Start a guest with a real system in it and wait until its statistics move.

        It runs without KVM, so that it boots on any machine, does some disk and network traffic
        five times a second, answers the guest agent's calls, and has one CPU.
        """
        self._nets += 1
        net = f"10.9.{self._nets}"
        wanted = {"kvm": False, "vcpus": 1, "memory_mib": 128, "system": kernel.system()} | parts
        definition = self.definition(name, cmdline=f"lab.net={net}", **wanted)
        self.create(definition, paused=False)
        tap = self.taps(name)[0]
        self.run("ip", "address", "add", f"{net}.1/24", "dev", tap)
        wait_until(lambda: self._moving(definition), f"{name} to boot: {definition.console}")
        return definition

    def taps(self, name: str) -> list[str]:
        """Return the taps of a guest's network interfaces, in the lab's network namespace."""
        rows = self.virsh("domiflist", self.uuid(name)).splitlines()[2:]
        return [row.split()[0] for row in rows if row]

    def stats(self, name: str, *options: str) -> dict[str, str]:
        """Return what `virsh domstats --raw` shows for one guest."""
        rows = self.virsh("domstats", "--raw", *options, self.uuid(name)).splitlines()[1:]
        return dict(row.strip().split("=", 1) for row in rows if "=" in row)

    def create(self, *definitions: Definition, paused: bool = True) -> None:
        """Start transient guests, paused unless said otherwise."""
        batches = [definitions[at : at + BATCH] for at in range(0, len(definitions), BATCH)]
        with ThreadPoolExecutor(STARTERS) as pool:
            for outcome in [pool.submit(self._create, batch, paused=paused) for batch in batches]:
                outcome.result()

    def destroy(self, *names: str) -> None:
        """End guests at once."""
        for name in names:
            self.virsh("destroy", self.uuid(name))
            self.definitions.pop(name, None)

    def rename(self, name: str, new: str) -> None:
        """End a guest and start it under another name, with the same UUID and disks."""
        definition = replace(self.definitions[name], name=new)
        self.destroy(name)
        self.create(definition)

    def qemu_pid(self, name: str) -> int:
        """Return the process id of a guest's QEMU."""
        # libvirt escapes the file's name as if it were XML (virPidFileBuildPath).
        file = escape(name, {'"': "&quot;", "'": "&apos;"}) + ".pid"
        return int((self.directory / "run/qemu" / file).read_text())

    def uuid(self, name: str) -> str:
        """Return a guest's UUID, which unlike "7" or "-x" means nothing else to virsh."""
        return self.definitions[name].uuid

    @contextmanager
    def stuck(self, *names: str) -> Iterator[None]:
        """Stop guests' QEMUs for the length of a block, so that their monitors do not answer."""
        pids = [self.qemu_pid(name) for name in names]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def attach_disk(self, name: str, number: int = 0, mib: int = 8) -> str:
        """Plug in a disk and return its target; SCSI, as only that leaves a paused guest again."""
        target = guest.target(number, "sd")
        image = self.images / f"{self.definitions[name].uuid}-{target}.raw"
        guest.make_disk(image, mib)
        self._device("attach-device", name, guest.disk(image, target, "scsi"))
        return target

    def detach_disk(self, name: str, target: str) -> None:
        """Unplug a SCSI disk."""
        self.virsh("detach-disk", self.uuid(name), target)

    def attach_nic(self, name: str) -> tuple[str, str]:
        """Plug in a network interface and return its tap and its MAC address."""
        self._taps += 1
        tap, mac = f"plug{self._taps}", f"52:54:00:00:00:{self._taps:02x}"
        self._device("attach-device", name, guest.nic(tap, mac))
        return tap, mac

    def detach_nic(self, name: str, mac: str) -> None:
        """Unplug a network interface; the guest's system must be running to let it go."""
        self.virsh("detach-interface", self.uuid(name), "ethernet", "--mac", mac)

    def make_partition(self, path: str) -> None:
        """Make the cgroups of a partition such as "/prod/db", before a guest names it."""
        for group in self.trace.groups:
            inner = group
            for part in path.strip("/").split("/"):
                # libvirt's suffix, but for the default partition.
                inner /= part if part == "machine" else f"{part}.partition"
                inner.mkdir(exist_ok=True)
                keeper.inherit_cpus(inner)

    # Inner parts

    def _create(self, batch: Sequence[Definition], *, paused: bool) -> None:
        commands = []
        for definition in batch:
            definition.make_disks()
            path = self.images / f"{definition.uuid}.xml"
            path.write_text(definition.xml())
            commands.append(f"create {shlex.quote(str(path))}{' --paused' if paused else ''}")
        self.virsh("; ".join(commands))
        self.definitions |= {definition.name: definition for definition in batch}

    def _moving(self, definition: Definition) -> bool:
        if definition.system and definition.system.agent:
            try:
                self.virsh("qemu-agent-command", definition.uuid, '{"execute": "guest-ping"}')
            except LabError:
                return False
        seen = self.stats(definition.name)
        return "balloon.unused" in seen and all(
            int(seen[counter]) > 0
            for counter in ("net.0.rx.bytes", "net.0.tx.bytes", "block.0.rd.reqs")
        )

    def _device(self, verb: str, name: str, xml: str) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.images, suffix=".xml") as file:
            file.write(xml)
            file.flush()
            self.virsh(verb, self.uuid(name), file.name)

    def _listening(self) -> bool:
        if not is_alive(self.pid):
            said = [(self.directory / "output"), self.log]
            lines = [line for path in said if path.exists() for line in path.open()]
            raise LabError(f"libvirtd ended: {''.join(lines[-5:]).strip()}")
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except OSError:
                return False
        return True


def main() -> None:
    """Start a lab, say where it is, and wait for ^C."""
    parser = argparse.ArgumentParser(prog="python -m lab.hypervisor", description=__doc__)
    parser.add_argument("--guests", type=int, default=12, help="paused guests (default: 12)")
    parser.add_argument("--live", action="store_true", help="and one guest with a real system")
    parser.add_argument("--cgroup", choices=("v1", "v2", "hybrid"), help="cgroups as seen inside")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt), Lab(options.cgroup) as lab:
        began = time.monotonic()
        lab.paused_guests(options.guests)
        if options.live:
            lab.live_guest()
        sys.stdout.write(
            f"{options.guests} guests in {time.monotonic() - began:.1f} s\n"
            f"read-only:  {lab.uri_readonly}\n"
            f"read-write: {lab.uri}\n"
            f"inside:     {shlex.join(lab.inside('sh'))}\n"
        )
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(str(error))

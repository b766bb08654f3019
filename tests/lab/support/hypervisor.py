"""
A private libvirtd with real guests, in namespaces of its own: `with Lab() as lab: ...`.

Nothing of it is visible to a libvirtd of the host or disturbed by it, and several labs run side by
side. Process ids are the host's, sockets and pid files are reachable from outside. However its
owner ends, everything is taken down: see `lab.support.keeper`.

By hand, as root: `PYTHONPATH=tests python -m lab.hypervisor --guests 60`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

from lab.support import guest, keeper, kernel
from lab.support.guest import Definition
from lab.support.libvirtd import Libvirtd
from lab.support.machine import LabError, has_kvm, wait_until


STARTERS = 4
BATCH = 8


class Lab(Libvirtd):
    """
    A libvirtd of its own and the guests that it started.

    Guests are given by name; `definitions` holds what each was made from.
    """

    def __init__(self, cgroup: str | None = None, root: Path | None = None) -> None:
        super().__init__(cgroup, root)
        self._taps = 0
        self._nets = 0
        self.definitions: dict[str, Definition] = {}

    @property
    def kvm(self) -> bool:
        """Whether guests of type kvm can be started here."""
        return has_kvm()

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

    def inside_guest(self, name: str, script: str) -> None:
        """Start a shell script in a live guest, through its agent, and do not wait for its end."""
        started = {"path": "/bin/busybox", "arg": ["sh", "-c", script]}
        command = json.dumps({"execute": "guest-exec", "arguments": started})
        self.virsh("qemu-agent-command", self.uuid(name), command)

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

    def migrate(self, name: str, there: Lab, *options: str) -> None:
        """
        Move a running guest to another lab while it runs.

        Its disks stay where they are, which both labs can reach. QEMUs talk over a socket file, as
        the labs have no network in common.
        """
        socket = there.directory / "run/migration.sock"
        where = [self.uuid(name), there.uri, "--migrateuri", f"unix://{socket}"]
        self.virsh("migrate", "--live", "--p2p", "--unsafe", *options, *where)
        there.definitions[name] = self.definitions.pop(name)

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
                keeper.give_controllers(inner)
                # libvirt's suffix, but for the default partition.
                inner /= part if part == "machine" else f"{part}.partition"
                inner.mkdir(exist_ok=True)
                keeper.inherit_cpus(inner)

    def _create(self, batch: Sequence[Definition], *, paused: bool) -> None:
        commands = []
        self.images.mkdir(exist_ok=True)
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

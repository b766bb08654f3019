"""Definitions of the lab's guests, as libvirt's XML."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from lab.support.kernel import System


@dataclass(frozen=True, slots=True)
class Definition:
    """
    One guest: what it is made of, and the XML that says so.

    With a `system` it boots that, told `cmdline`; without one only firmware would run, which is
    why such guests are started paused. `extra` is XML that goes into `<domain>` as it is.
    """

    name: str
    images: Path
    kvm: bool = True
    vcpus: int = 4
    memory_mib: int = 16
    disks: int = 2
    nics: int = 1
    iothreads: int = 1
    partition: str = ""
    system: System | None = None
    cmdline: str = ""
    extra: str = ""
    on_reboot: str = "destroy"
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def disk_images(self) -> list[Path]:
        """The files behind its disks, vda first; a different size each."""
        return [self.images / f"{self.uuid}-{target(n)}.raw" for n in range(self.disks)]

    @property
    def console(self) -> Path:
        """The file that a guest with a system writes its messages to."""
        return self.images / f"{self.uuid}.console"

    def make_disks(self) -> None:
        """Create its disks as sparse files."""
        for number, image in enumerate(self.disk_images, 1):
            if not image.exists():
                make_disk(image, 8 * number)

    def xml(self) -> str:
        """Return the domain's XML."""
        boot = ""
        if self.system:
            boot = (
                f"<kernel>{self.system.kernel}</kernel><initrd>{self.system.initrd}</initrd>"
                f"<cmdline>console=ttyS0 quiet panic=1 net.ifnames=0 {self.cmdline}</cmdline>"
            )
        devices = [disk(image, target(n)) for n, image in enumerate(self.disk_images)]
        devices += [nic()] * self.nics
        if self.system:
            devices.append(
                f"<serial type='file'><source path='{self.console}'/></serial>"
                "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>"
                "</channel>"
            )
        # A translation cache of 1 GiB would be QEMU's default for a guest without KVM.
        tcg = "" if self.kvm else "<tcg><tb-cache unit='MiB'>32</tb-cache></tcg>"
        partition = f"<resource><partition>{escape(self.partition)}</partition></resource>"
        return f"""
<domain type={quoteattr("kvm" if self.kvm else "qemu")}>
  <name>{escape(self.name)}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>{self.memory_mib}</memory>
  <vcpu>{self.vcpus}</vcpu>
  <iothreads>{self.iothreads}</iothreads>
  {partition if self.partition else ""}
  <os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os>
  <features><acpi/>{tcg}</features>
  <on_reboot>{self.on_reboot}</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <controller type='scsi' model='virtio-scsi'/>
    {"".join(devices)}
    <memballoon model='virtio'><stats period='2'/></memballoon>
  </devices>
  {self.extra}
</domain>
"""


def target(number: int, prefix: str = "vd") -> str:
    """Return the name of the guest's disk with this number, `vda` for 0."""
    return f"{prefix}{chr(ord('a') + number)}"


def make_disk(image: Path, mib: int) -> None:
    """Create a sparse raw image."""
    with image.open("wb") as file:
        file.truncate(mib << 20)


def disk(image: Path, name: str, bus: str = "virtio") -> str:
    """Return the XML of a disk."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        f"<source file={quoteattr(str(image))}/><target dev='{name}' bus='{bus}'/></disk>"
    )


def nic(tap: str = "", mac: str = "") -> str:
    """Return the XML of a network interface on a tap, the only kind that libvirt counts."""
    target = f"<target dev={quoteattr(tap)}/>" if tap else ""
    address = f"<mac address={quoteattr(mac)}/>" if mac else ""
    return f"<interface type='ethernet'>{address}{target}<model type='virtio'/></interface>"

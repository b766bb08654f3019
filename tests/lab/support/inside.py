"""What is done inside a live guest, through its agent, and what the agent says of it."""

from __future__ import annotations

import re

from lab.support.hypervisor import Lab
from support.agent import Agent


FILL = """
for module in crc16 mbcache jbd2 ext4; do insmod /modules/$module.ko; done
mke2fs /dev/vdb
mkdir /data
mount -t ext4 /dev/vdb /data
dd if=/dev/zero of=/data/file bs=1k count=3000
"""
"""Makes a file system on the second disk, and a file of 3 MB in it."""

STOP = """
kill -STOP $(pidof qemu-ga)
until ping -c 1 -W 1 {there}; do sleep 0.1; done
kill -CONT $(pidof qemu-ga)
"""
"""Stops the agent until an address of the guest's network answers."""

RESTART = """
kill -KILL $(pidof qemu-ga)
until ping -c 1 -W 1 {there}; do sleep 0.1; done
qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -d
"""
"""Ends the agent, and starts another when an address of the guest's network answers."""

GUEST = "libvirt_domain_guest_"


def network_of(lab: Lab, name: str) -> str:
    """Return the first three numbers of a live guest's network, in which it is the second."""
    shown = lab.run("ip", "-4", "address", "show", "dev", lab.taps(name)[0])
    found = re.search(r"inet (\d+\.\d+\.\d+)\.1/24", shown)
    assert found
    return found[1]


def answer_at(lab: Lab, name: str, address: str) -> None:
    """Have an address in a live guest's network that answers."""
    lab.run("ip", "address", "add", f"{address}/24", "dev", lab.taps(name)[0])


def said(agent: Agent, name: str) -> dict[str, dict[str, float]]:
    """Return the series of a guest's agent: by metric, by the values of their labels."""
    found: dict[str, dict[str, float]] = {}
    for (family, labels), value in agent.samples().items():
        of = dict(labels)
        if of.pop("domain", "") == name and family.startswith(GUEST):
            key = " ".join(of[label] for label in sorted(of) if of[label])
            found.setdefault(family.removeprefix(GUEST), {})[key] = value
    return found


def guest_info(lab: Lab, name: str, *kinds: str) -> dict[str, str]:
    """Return what `virsh guestinfo` shows."""
    lines = lab.virsh("guestinfo", lab.uuid(name), *kinds).splitlines()
    return {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}

"""Counters of NICs of every kind, as the kernel of this machine has them."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.support.hypervisor import Lab
from support.agent import Agent, running


FRAMES, FRAME_BYTES = 200, 1028
SEND = f"""
import socket
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
    wire.bind(("sibling0", 0))
    head = b"\\xff" * 6 + wire.getsockname()[4] + b"\\x88\\xb5"
    for _ in range({FRAMES}):
        wire.send(head.ljust({FRAME_BYTES}, b"."))
"""
LOOKS = 14
STEM = "libvirt_domain_interface_stats_"
DEVICES = """
<devices>
  <interface type='ethernet'>
    <mac address='52:54:00:00:00:aa'/><target dev='made0' managed='no'/><model type='virtio'/>
  </interface>
  <interface type='direct'>
    <mac address='52:54:00:00:00:bb'/><source dev='under0' mode='bridge'/><target dev='direct0'/>
    <model type='virtio'/>
  </interface>
  <interface type='mcast'>
    <mac address='52:54:00:00:00:cc'/><source address='230.0.0.1' port='5558'/>
    <target dev='mcast0'/><model type='virtio'/>
  </interface>
  <interface type='user'><mac address='52:54:00:00:00:dd'/><model type='virtio'/></interface>
</devices>
"""


def kernels(lab: Lab, name: str) -> dict[str, tuple[int, int]]:
    """Return the bytes that the host received and sent by each device, as a guest sees them."""
    table = Path(f"/proc/{lab.qemu_pid(name)}/net/dev").read_text().splitlines()[2:]
    rows = {line.partition(":")[0].strip(): line.partition(":")[2].split() for line in table}
    return {device: (int(row[0]), int(row[8])) for device, row in rows.items()}


def shown(agent: Agent, name: str) -> dict[str, tuple[float, float]]:
    """Return the bytes that a guest's NICs received and sent, by device."""
    found: dict[str, dict[str, float]] = {}
    for (family, labels), value in agent.samples().items():
        if family.startswith(STEM) and family.endswith("_bytes_total"):
            of = dict(labels)
            if of["domain"] == name:
                way = family.removeprefix(STEM).partition("_")[0]
                found.setdefault(of["target_device"], {})[way] = value
    return {device: (ways["receive"], ways["transmit"]) for device, ways in found.items()}


def told(agent: Agent) -> list[tuple[object, object]]:
    """Return the guests and devices of which the log says that they are lost."""
    lines = agent.events("local.blind")
    return [(line["domain"], line["device"]) for line in lines if "device" in line]


def test_whatever_made_a_device_its_guest_receives_what_it_receives(
    private_lab: Lab, tmp_path: Path
):
    """A macvtap of somebody else's, libvirt's own, a tap, and NICs without a device of the host."""
    lab = private_lab
    lab.run("ip", "link", "add", "under0", "type", "veth", "peer", "name", "under1")
    for end in ("under0", "under1"):
        lab.run("ip", "link", "set", end, "up")
    lab.run("ip", "address", "add", "10.8.0.1/24", "dev", "under0")
    lab.run("ip", "route", "add", "224.0.0.0/4", "dev", "under0")
    lab.run("ip", "link", "add", "link", "under0", "name", "sibling0", "type", "macvlan")
    lab.run("ip", "link", "set", "sibling0", "type", "macvlan", "mode", "bridge")
    lab.run("ip", "link", "set", "sibling0", "up")
    lab.run(
        *("ip", "link", "add", "link", "under0", "name", "made0"),
        *("address", "52:54:00:00:00:aa", "type", "macvtap", "mode", "bridge"),
    )
    lab.run("ip", "link", "set", "made0", "up")
    lab.create(lab.definition("nics", extra=DEVICES))
    tap = lab.taps("nics")[0]
    lab.run("ip", "link", "set", "direct0", "up")
    lab.run(sys.executable, "-c", SEND)
    lab.run("ip", "link", "set", "sibling0", "down")
    kernel = kernels(lab, "nics")
    assert kernel["made0"][0] >= FRAMES * FRAME_BYTES
    assert kernel["direct0"][0] >= FRAMES * FRAME_BYTES
    wanted = {
        "made0": kernel["made0"],
        "direct0": kernel["direct0"],
        tap: kernel[tap][::-1],
    }
    with running(tmp_path, lab.uri_readonly, local=True, look=0.5) as agent:
        agent.wait_for(lambda: (agent.value("virtstatd_local_ticks_total") or 0) >= LOOKS)
        seen = shown(agent, "nics")
        assert {device: seen.get(device) for device in wanted} == wanted
        assert not told(agent), "no complaint about what never had a device"
        lab.run("ip", "link", "set", tap, "down")
        lab.run("ip", "link", "set", tap, "name", "renamed0")
        agent.wait_for(lambda: bool(told(agent)))
        assert told(agent) == [("nics", tap)]

"""The guests' processes as the service sees them: through the sandbox, and not through more."""

import json

import pytest

from system.support.machine import Machine, until
from system.support.service import (
    CONFIGURATION,
    ENVIRONMENT,
    NAME,
    NEEDS,
    PYTHON,
    override,
    scrape,
    start,
)


SOCKET = "/run/simulated/libvirt-sock-ro"
UNITS = ("simulated", "guest")
LIST = f"""
import libvirt
for domain in libvirt.openReadOnly("qemu:///system?socket={SOCKET}").listAllDomains():
    print(domain.UUIDString(), domain.ID())
"""
# It has QEMU's arguments, as far as a guest is known by them.
GUEST = """
import os, sys, time
with open("/run/simulated/qemu/guest.pid", "w") as file:
    file.write(str(os.getpid()))
time.sleep(3600)
"""
SECONDS = """
[local]
interval_seconds = 0.5
[hypervisor]
uri = "qemu:///system?socket={}"
"""

pytestmark = NEEDS


def blind(machine: Machine) -> dict[str, str]:
    """Return what the service has said that it cannot see, with its advice."""
    lines = [json.loads(line) for line in machine.journal(NAME)]
    return {line["what"]: line["fix"] for line in lines if line["event"] == "local.blind"}


@pytest.fixture
def guest(machine: Machine):
    """Run a hypervisor that claims to have one guest, and a process that claims to be it."""
    machine.run("mkdir", "-p", "/run/simulated/qemu")
    simulate = (f"{ENVIRONMENT}/bin/virtstatd", "simulate", "--socket", SOCKET, "--domains", "1")
    machine.run("systemd-run", "--unit=simulated", *simulate)
    python = f"{ENVIRONMENT}/bin/python"

    def listed() -> list[str]:
        return machine.run(python, "-c", LIST, check=False).stdout.split()

    uuid, number = until(listed, "the simulator")
    machine.run("chmod", "666", SOCKET)  # as libvirt's own is
    key = f"/var/lib/libvirt/qemu/domain-{number}-guest/master-key.aes"
    arguments = ("-object", key, "-uuid", uuid, "-display", "none")
    machine.run("systemd-run", "--unit=guest", PYTHON, "-c", GUEST, *arguments)
    machine.write(CONFIGURATION, SECONDS.format(SOCKET))
    yield machine
    machine.run("systemctl", "stop", NAME, *UNITS)
    machine.run("rm", "-r", "/run/simulated")


def test_the_sandbox_leaves_the_guests_visible(guest: Machine):
    """A user of its own in the unit's sandbox reads the processes of another user."""
    start(guest)
    until(lambda: "\nlibvirt_domain_emulator_time_" in "\n".join(scrape(guest)), "its times")
    until(lambda: "virtstatd_local_domains 1" in scrape(guest), "its number")
    assert not blind(guest).keys() & {"processes", "pid files", "run times"}


def test_a_sandbox_that_hides_processes_is_told_of(guest: Machine):
    """With ProtectProc= the log says what to do, and libvirt's numbers are given."""
    override(guest, "ProtectProc=invisible")
    start(guest)
    until(lambda: "processes" in blind(guest), "the advice")
    assert "ProtectProc=" in blind(guest)["processes"]
    until(lambda: "virtstatd_local_domains 0" in scrape(guest), "the number of the seen")
    page = scrape(guest)
    assert "libvirt_up 1" in page
    assert any(line.startswith("libvirt_node_cpu_seconds_total") for line in page)
